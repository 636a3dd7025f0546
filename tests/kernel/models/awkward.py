"""Models whose errors and clean-up raise themselves, and that have closed what they were given."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from huterox_wire.errors import InvalidInput


class Untellable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Exiting(Exception):
    def __str__(self) -> str:
        raise SystemExit(5)


class Interrupting(BaseException):
    def __str__(self) -> str:
        raise KeyboardInterrupt


class Classless(Exception):
    @property
    def __class__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("no class")


class Named(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise RuntimeError("no name")


class Nameless(Exception, metaclass=Named):
    pass


class Noted(Exception):
    @property
    def __notes__(self) -> Any:
        raise RuntimeError("no notes")


class Traceless(Exception):
    @property
    def __traceback__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("no traceback")


class Bare(InvalidInput):
    """Forgets to call its base."""

    def __init__(self) -> None:
        pass


class Strange(InvalidInput):
    code = 7  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__(object(), facts=object())  # type: ignore[arg-type]
        self.retryable = "perhaps"  # type: ignore[assignment]


class Detailed(InvalidInput):
    def __init__(self) -> None:
        super().__init__("only squares", side=3, odd=object())


def caused_by_itself() -> Exception:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    return first


def nested() -> Exception:
    error: Exception = ValueError("innermost")
    for _ in range(3000):
        error = ExceptionGroup("group", [error])
    return error


ERRORS: dict[str, Callable[[], BaseException]] = {
    "untellable": Untellable,
    "exiting": Exiting,
    "interrupting": Interrupting,
    "classless": Classless,
    "nameless": Nameless,
    "noted": Noted,
    "traceless": Traceless,
    "bare": Bare,
    "strange": Strange,
    "caused_by_itself": caused_by_itself,
    "nested": nested,
    "generator_exit": GeneratorExit,
    "stop_iteration": StopIteration,
    "surrogates": lambda: ValueError("\udc80"),
}


class RaisesAtItsEnd:
    def __del__(self) -> None:
        raise Exiting


class Awkward:
    def __init__(self, exits: str = "", at_end: bool = False) -> None:
        if exits == "argparse":
            print("model.py: error: --weights is required", file=sys.stderr)  # noqa: T201
            sys.exit(2)
        if exits == "at once":
            os.write(2, b"cannot open the licence\n")
            os._exit(9)
        if exits == "untellable":
            self.closes()
            raise Untellable
        self.end = RaisesAtItsEnd() if at_end else None

    def predict(self, x: Any = 0) -> Any:
        return x

    def raises(self, error: str) -> None:
        raise ERRORS[error]()

    def detailed(self) -> None:
        raise Detailed

    def drops(self) -> int:
        RaisesAtItsEnd()
        return 1

    def streams(self, error: str) -> Iterator[int]:
        try:
            yield 1
            yield 2
        finally:
            raise ERRORS[error]()

    def closes(self) -> int:
        for stream in (sys.stdout, sys.stderr, sys.stdin):
            stream.close()
        return 1

    def replaces(self) -> int:
        sys.stdout = sys.stderr = None  # type: ignore[assignment]
        return 1

    def closes_descriptors(self, first: int, last: int) -> int:
        os.closerange(first, last)
        return 1

    def prints(self, text: str) -> int:
        """What a C library does: to the number, whoever has it."""
        try:
            return os.write(1, text.encode() * 100)
        except OSError:
            return 0

    def prints_lines(self, seconds: float) -> int:
        """As fast as it can; how many bytes."""
        line = "x" * 999 + "\n"
        count, until_s = 0, time.monotonic() + seconds
        while time.monotonic() < until_s:
            count += sys.stdout.write(line)
        return count

    def alarm(self, seconds: float) -> int:
        """A time limit that is not switched off again."""

        def on_alarm(*_: Any) -> None:
            raise TimeoutError("too late")

        signal.signal(signal.SIGALRM, on_alarm)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        return 1

    def environment(self, names: list[str]) -> dict[str, str | None]:
        return {name: os.environ.get(name) for name in names}

    def numbers(self) -> dict[str, str]:
        """Open descriptors and what they lead to."""
        found = {}
        for link in Path("/proc/self/fd").iterdir():
            try:
                found[link.name] = str(link.readlink())
            except OSError:
                continue
        return found
