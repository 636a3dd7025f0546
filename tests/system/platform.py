"""`huterox up` and further kernels as real processes, and what is left of them afterwards."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huterox

MODELS = Path(__file__).parent / "models" / "plain.py"
START_S = 60.0


class Processes:
    """Real processes around one folder. Each that comes of them carries a mark in its environment, so none can hide."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.endpoint = f"ipc://{folder}/switchboard.ipc"
        self._mark = f"HUTEROX_TEST_MARK={uuid.uuid4()}"
        self.environment = {**os.environ, **dict([self._mark.split("=")])}

    def run(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start a `huterox` command that carries the mark."""
        log = (self.folder.parent / "up.log").open("a")
        command = [sys.executable, "-m", "huterox.cli.main", *arguments]
        with log:
            return subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, env=self.environment, text=True, start_new_session=True
            )

    def command(self, *arguments: str, timeout_s: float = 60.0) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "huterox.cli.main", *arguments]
        environment = {**self.environment, "HUTEROX_ENDPOINT": self.endpoint}
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env=environment)

    def log_tail(self) -> str:
        logs = [self.folder.parent / "up.log", *sorted((self.folder / "logs").glob("*.log"))]
        return "\n".join(f"--- {log}\n{log.read_text()[-2000:]}" for log in logs if log.exists())

    def client(self, **options: Any) -> huterox.Client:
        return huterox.connect(self.endpoint, **options)

    def processes(self) -> dict[int, str]:
        """Living processes with the mark: pid -> command line."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal():
                continue
            try:
                if self._mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
        return found

    def pid_of(self, daemon: str) -> int:
        """The pid of `connector` or `kernel` (the newest, where it was started anew)."""
        pids = [pid for pid, line in self.processes().items() if f"huterox_{daemon} " in line + " "]
        assert pids, f"no {daemon} among {self.processes()}"
        return max(pids)

    def kill_all(self) -> None:
        """Whatever happened, leave nothing running."""
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


class Platform(Processes):
    """One `huterox up`: of a folder with options, or of a whole command that uses this folder."""

    def __init__(self, folder: Path, *arguments: str, command: Sequence[str] = ()) -> None:
        super().__init__(folder)
        self.up = self.run(*(command or ("up", "--dir", str(folder), "--preload", "numpy", *arguments)))
        assert self.up.stdout is not None
        line = self.up.stdout.readline()
        assert line.strip() == "ready", f"huterox up said {line!r}: {self.log_tail()}"

    def stop(self, how: int = signal.SIGINT) -> int:
        self.up.send_signal(how)
        return self.up.wait(timeout=30)

    def close(self) -> None:
        if self.up.poll() is None:
            self.up.terminate()
            try:
                self.up.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.up.kill()
                self.up.wait(timeout=10)
        self.kill_all()
        assert self.up.stdout is not None
        self.up.stdout.close()


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[Platform]:
    platform = None
    try:
        platform = Platform(folder, *arguments)
        yield platform
    finally:
        if platform is not None:
            platform.close()


def model(name: str, cls: str, host_mb: int = 64, **more: Any) -> dict[str, Any]:
    """A model of tests/system/models/plain.py."""
    return {
        "name": name,
        "algorithm": "test",
        "entry": f"{MODELS}:{cls}",
        "resources": {"host_mb": host_mb},
        "idle_timeout_s": 600,
        **more,
    }


def serve(client: huterox.Client, cls: str, name: str | None = None, **more: Any) -> huterox.Service:
    """Deploy a model and make a service of it, both called `name`."""
    name = name or cls.lower()
    client.deploy(model(name, cls, **more))
    client.create(name, model=name)
    return client.service(name)


def eventually(condition: Callable[[], Any], within_s: float = 10.0) -> Any:
    """The condition's first true value; asserts that it comes in time."""
    until_s = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < until_s, "it did not come to pass"
        time.sleep(0.02)
    return value
