"""A switchboard and a kernel in a folder, for the check of a device."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huterox

START_S = 60.0
MODELS = Path(__file__).with_name("models.py")


class Site:
    """Two daemons, and a client of theirs."""

    def __init__(self, folder: Path, device_mb: int) -> None:
        self.folder = folder
        self.endpoint = f"ipc://{folder}/front.ipc"
        back = f"ipc://{folder}/back.ipc"
        self._write("connector", f'front = "{self.endpoint}"\nback = "{back}"\nstore = "{folder}/huterox.db"\n')
        limit = f"device_mb = {device_mb}\n" if device_mb else ""
        self._write(
            "kernel",
            f'switchboard = "{back}"\ndir = "{folder}/kernel"\nnode = "gpu"\nhost_mb = 16384\n{limit}'
            "lease_half_mb = 64\nmemory_return_timeout_s = 15.0\nfootprint_period_s = 0.5\n",
        )
        self._processes = [self._start(daemon) for daemon in ("connector", "kernel")]
        self._client: huterox.Client | None = None

    @property
    def client(self) -> huterox.Client:
        """Raises Unavailable: the switchboard does not answer yet."""
        if self._client is None:
            self._client = huterox.connect(self.endpoint, timeout=120.0)
        return self._client

    def _write(self, daemon: str, text: str) -> None:
        (self.folder / f"{daemon}.toml").write_text(text)

    def _start(self, daemon: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", f"huterox_{daemon}", "--config", str(self.folder / f"{daemon}.toml")]
        with (self.folder / f"{daemon}.log").open("wb") as log:
            return subprocess.Popen(command, stdout=log, stderr=log)

    def await_device(self) -> dict[str, Any]:
        """The node's first device, once the node is there."""

        def device() -> dict[str, Any] | None:
            try:
                rows = self.client.nodes()
            except huterox.HuteroxError:
                return None
            return dict(rows[0]["devices"][0]) if rows and rows[0]["devices"] else None

        return dict(eventually(device, START_S, self.logs))

    def deploy(self, name: str, **spec: Any) -> huterox.Service:
        """A CUDA model, by default this folder's `Weights`, and a service of it."""
        resources = {"host_mb": 600, **spec.pop("resources", {})}
        self.client.deploy(
            {
                "name": name,
                "algorithm": "check",
                "entry": f"{MODELS}:Weights",
                "device": "cuda",
                "idle_timeout_s": 600,
                "replicas_max": 1,
                "resources": resources,
                **spec,
            }
        )
        self.client.create(name, model=name)
        return self.client.service(name)

    def container(self, name: str) -> dict[str, Any] | None:
        """The row of the one that serves this service."""
        rows = [row for row in self.client.containers() if f"default/{name}" in row["services"]]
        return dict(rows[0]) if rows else None

    def logs(self) -> str:
        """The end of what the daemons have said."""
        return "\n".join(f"{log.name}: {log.read_text()[-1500:]}" for log in sorted(self.folder.glob("*.log")))

    def close(self) -> None:
        """End the daemons; whatever does not end in time is killed."""
        if self._client is not None:
            self._client.close()
        for process in reversed(self._processes):
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(10.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10.0)


@contextmanager
def site(folder: Path, device_mb: int = 0) -> Iterator[Site]:
    """A site whose node has registered with a device."""
    folder.mkdir(parents=True)
    made = Site(folder, device_mb)
    try:
        made.await_device()
        yield made
    finally:
        made.close()


def eventually(look: Callable[[], Any], within_s: float, why: Callable[[], str] = str) -> Any:
    """The first true value. Raises TimeoutError, which says what `why` gives."""
    until_s = time.monotonic() + within_s
    while not (value := look()):
        if time.monotonic() > until_s:
            raise TimeoutError(f"nothing within {within_s:g} s: {why()}")
        time.sleep(0.01)
    return value


def doubles() -> bool:
    """Whether NVML and CUDA are played."""
    return "HUTEROX_TEST_NVML" in os.environ
