"""A whole Huterox on this machine, started and ended by the demo: `huterox up` in a directory of its own."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
LOG_TAIL_LINES = 15

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


class DemoFailed(Exception):
    """Something is not as it should be; the message says what, for people."""


class Node:
    """One running `huterox up`. Everything that it starts ends with `stop`."""

    def __init__(self, slots: int, host_mb: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="huterox-demo-"))
        self.endpoint = f"ipc://{self.folder}/switchboard.ipc"
        self.command = ["up", "--dir", str(self.folder), "--slots", str(slots), "--host-mb", str(host_mb)]
        self._log = self.folder / "up.log"
        demo_pid = os.getpid()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "huterox.cli.main", *self.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches the demo alone, which then ends this
                preexec_fn=lambda: _end_with_parent(demo_pid),
            )

    def wait_ready(self) -> Iterator[str]:
        """Yield what `huterox up` tells until it says that calls can be made; raises DemoFailed if it never does."""
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        shown = 0
        while True:
            ended = self._process.poll()
            lines = self._log.read_text(errors="replace").split("\n")[:-1]  # the last may not be complete yet
            for line in lines[shown:]:
                if line.strip() == "ready":
                    return
                yield line.partition("] ")[2] or line
            shown = len(lines)
            if ended is not None:
                raise DemoFailed(f"huterox up ended with exit status {ended} before it was ready")
            if time.monotonic() > deadline_s:
                raise DemoFailed(f"huterox up was not ready within {READY_TIMEOUT_S:.0f} s")
            time.sleep(0.05)

    def log_tails(self) -> str:
        """The last lines of every log, for when something failed."""
        tails: list[str] = []
        for path in sorted(self.folder.rglob("*.log")):
            if lines := path.read_text(errors="replace").splitlines():
                tails += [f"--- {path.name}, last lines", *lines[-LOG_TAIL_LINES:]]
        return "\n".join(tails)

    def stop(self) -> list[str]:
        """End everything; returns what had to be killed because it did not end by itself."""
        family = self._family()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        _, alive = psutil.wait_procs(family, timeout=STOP_TIMEOUT_S)
        stubborn = [f"{process.pid} ({_name(process)})" for process in alive]
        for process in alive:
            with _gone_is_fine():
                process.kill()
        psutil.wait_procs(alive, timeout=STOP_TIMEOUT_S)
        self._process.wait(STOP_TIMEOUT_S)
        shutil.rmtree(self.folder, ignore_errors=True)
        return stubborn

    def _family(self) -> list[psutil.Process]:
        with _gone_is_fine():
            root = psutil.Process(self._process.pid)
            return [root, *root.children(recursive=True)]
        return []


@contextmanager
def _gone_is_fine() -> Iterator[None]:
    try:
        yield
    except psutil.NoSuchProcess:
        pass


def _name(process: psutil.Process) -> str:
    with _gone_is_fine():
        return str(process.name())
    return "gone"


def _end_with_parent(parent_pid: int) -> None:
    """Runs in the child: when the demo dies, however it dies, `huterox up` is told to end."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent_pid:
        os._exit(1)
