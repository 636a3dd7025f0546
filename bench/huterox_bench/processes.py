"""Helper processes: each ends with its `with` block, and with the bench however that ends."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType

from huterox_bench.errors import BenchError

STOP_TIMEOUT_S = 10.0


class Child:
    """A running command, in a session of its own so that Ctrl-C reaches the bench alone, which then ends it."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        pass_fds: Sequence[int] = (),
        stdout: int = subprocess.DEVNULL,
        stderr: int | None = None,
        orphan_signal: signal.Signals = signal.SIGKILL,
    ) -> None:
        self.name = name
        launch = [sys.executable, "-m", "huterox_bench.launch", str(os.getpid()), str(int(orphan_signal))]
        self._process = subprocess.Popen(
            [*launch, *command],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            pass_fds=pass_fds,
            start_new_session=True,
        )

    def __enter__(self) -> "Child":
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process id, of `launch` first and of the command then."""
        return self._process.pid

    def wait(self) -> int:
        """Wait for its end; returns the exit status."""
        return self._process.wait()

    def check_alive(self) -> None:
        """Raise BenchError if it has ended."""
        status = self._process.poll()
        if status is not None:
            raise BenchError(f"{self.name} has ended by itself, with exit status {status}")

    def stop(self, signal_number: signal.Signals = signal.SIGTERM) -> None:
        """Ask it to end, then make it, and wait until it has."""
        if self._process.poll() is None:
            self._process.send_signal(signal_number)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            pass
        finally:  # after a second Ctrl-C too: nothing may be left
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()


def python_child(name: str, module: str, *arguments: str, pass_fds: Sequence[int] = ()) -> Child:
    """A helper that is a module of this package."""
    return Child(name, [sys.executable, "-m", module, *arguments], pass_fds=pass_fds)
