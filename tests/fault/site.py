"""A switchboard and a kernel without anybody who would start them again: the tests kill them, and start them."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.system.platform import Processes, eventually

import huterox

MODELS = Path(__file__).parent / "models.py"
START_S = 30.0


class Site(Processes):
    """Two daemons in a folder, and whatever comes of them."""

    def __init__(
        self,
        folder: Path,
        *,
        slots: int = 12,
        back: str = "",
        heartbeat_s: float = 0.5,
        core: dict[str, Any] | None = None,
        **kernel: Any,
    ) -> None:
        super().__init__(folder)
        (folder / "logs").mkdir(parents=True)
        back = back or f"ipc://{folder}/kernels.ipc"
        self._write("connector", front=self.endpoint, back=back, store=str(folder / "huterox.db"))
        with (folder / "connector.toml").open("a") as config:
            config.write(f"[core]\nheartbeat_s = {heartbeat_s}\n")
            config.writelines(f"{key} = {value}\n" for key, value in (core or {}).items())
        own = {"node": "site", "host_mb": 4096, "slots": slots, "preload": ["numpy"], "switchboard": back, **kernel}
        self._write("kernel", dir=str(folder / "kernel"), **own)
        self.daemons: dict[str, subprocess.Popen[str]] = {}

    def _write(self, daemon: str, **values: Any) -> None:
        lines = [f"{key} = {str(value).replace(chr(39), chr(34))}" for key, value in values.items() if key == "preload"]
        lines += [f"{key} = {value!r}" for key, value in values.items() if key != "preload"]
        (self.folder / f"{daemon}.toml").write_text("\n".join([*lines, ""]))

    def start(self, daemon: str) -> None:
        """Start `connector` or `kernel`, which must not run."""
        assert daemon not in self.daemons
        self.daemons[daemon] = self.run(daemon, "--config", str(self.folder / f"{daemon}.toml"))

    def await_node(self) -> None:
        """Until a kernel is registered."""
        eventually(lambda: self.listed("nodes"), START_S)

    def listed(self, verb: str) -> list[dict[str, Any]]:
        """The rows that the switchboard answers, none while it does not; they fit on one page."""
        try:
            with self.client(timeout=1.0, lanes=False) as client:
                return list(client.admin(verb)["rows"])
        except huterox.HuteroxError:
            return []

    def kill(self, daemon: str) -> float:
        """`kill -9`; returns when."""
        process = self.daemons.pop(daemon)
        killed_s = time.monotonic()
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=10)
        assert process.stdout is not None
        process.stdout.close()
        return killed_s

    def pid(self, daemon: str) -> int:
        return self.daemons[daemon].pid

    def close(self) -> None:
        """End both in peace, then whatever is left."""
        for daemon in ("kernel", "connector"):
            if (process := self.daemons.pop(daemon, None)) is not None:
                process.terminate()
                try:
                    process.wait(timeout=15)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait(timeout=10)
                assert process.stdout is not None
                process.stdout.close()
        self.kill_all()


@contextmanager
def site(folder: Path, **options: Any) -> Iterator[Site]:
    """A site that can be called."""
    made = Site(folder, **options)
    try:
        made.start("connector")
        made.start("kernel")
        made.await_node()
        yield made
    finally:
        made.close()


def deploy(client: huterox.Client, *names: str) -> None:
    """Models of these names, each with a service of the same name and one container, however many call it."""
    for name in names:
        client.deploy(
            {
                "name": name,
                "algorithm": "test",
                "entry": f"{MODELS}:Mixed",
                "resources": {"host_mb": 64},
                "idle_timeout_s": 600,
                "replicas_max": 1,
            }
        )
        client.create(name, model=name)


def reach(service: huterox.Service, within_s: float = 15.0) -> int:
    """Call until the calls travel through a lane; returns the container's pid."""
    until_s = time.monotonic() + within_s
    while True:
        pid = service.call("pid")["result"]
        if service.path == "lane":
            return int(pid)
        assert time.monotonic() < until_s, "no lane came"
        time.sleep(0.02)


def container_of(client: huterox.Client, service: str) -> dict[str, Any]:
    """The row of the one living container that serves this service of the default tenant."""
    (row,) = [row for row in client.containers() if f"default/{service}" in row["services"]]
    return row


@contextmanager
def stopped(own: Site, daemon: str) -> Iterator[Callable[[], None]]:
    """Stop a daemon. What is given lets it go on, which the end of the block does in any case."""
    pid = own.pid(daemon)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield lambda: os.kill(pid, signal.SIGCONT)
    finally:
        os.kill(pid, signal.SIGCONT)


def outcome(future: huterox.CallFuture) -> str:
    """How a call has ended: `ok`, or its error's code."""
    try:
        future.result(timeout=70.0)
    except huterox.HuteroxError as exc:
        return exc.code
    return "ok"
