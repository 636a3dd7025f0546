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
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.DEVNULL,
        stderr: int | None = None,
        orphan_signal: signal.Signals = signal.SIGKILL,
    ) -> None:
        self.name = name
        launch = [sys.executable, "-m", "huterox_bench.launch", str(os.getpid()), str(int(orphan_signal))]
        self._process = subprocess.Popen(
            [*launch, *command],
            stdin=stdin,
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

    def send(self, data: bytes) -> None:
        """Write a little to its stdin, which must be a pipe. Raises BenchError if it has ended."""
        assert self._process.stdin is not None
        try:
            os.write(self._process.stdin.fileno(), data)  # past the buffer, which could not be closed with it in it
        except BrokenPipeError:
            raise self._gone() from None

    def read_line(self) -> bytes:
        """A line from its stdout, which must be a pipe; less where it has ended."""
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def read(self, nbytes: int) -> bytes:
        """So many bytes from its stdout. Raises BenchError if it has ended before."""
        assert self._process.stdout is not None
        data = self._process.stdout.read(nbytes)
        if len(data) != nbytes:
            raise self._gone()
        return data

    def wait(self) -> int:
        """Wait for its end; returns the exit status."""
        return self._process.wait()

    def check_alive(self) -> None:
        """Raise BenchError if it has ended."""
        if self._process.poll() is not None:
            raise self._gone()

    def _gone(self) -> BenchError:
        """What to say of a child that has closed its pipes, and is about to end if it has not."""
        return BenchError(f"{self.name} has ended by itself, with exit status {self._process.wait()}")

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
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()


def python_child(
    name: str,
    module: str,
    *arguments: str,
    pass_fds: Sequence[int] = (),
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.DEVNULL,
) -> Child:
    """A helper that is a module of this package."""
    return Child(name, [sys.executable, "-m", module, *arguments], pass_fds=pass_fds, stdin=stdin, stdout=stdout)
