"""Exceptions that come at any moment, at will: raised from a tracer at the n-th line, or byte code, of our own code."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import huterox
import huterox_shm
import huterox_wire

OURS = tuple(str(Path(str(package.__file__)).parent) + "/" for package in (huterox, huterox_shm, huterox_wire))


class Struck(BaseException):
    """What a handler raises. No program expects it, as with KeyboardInterrupt."""


class Strike:
    """Within its block, the `nth` step of this thread in our code, or in that of `files`, raises `Struck`.

    Attributes:
        where: the place; empty where there were fewer steps.
    """

    def __init__(self, nth: int, event: str = "line", files: tuple[str, ...] = OURS) -> None:
        self.where = ""
        self._left = nth
        self._event = event
        self._files = files

    def __enter__(self) -> Self:
        sys._getframe().f_trace_opcodes = self._event == "opcode"  # Python 3.12 looks for one when tracing begins
        sys.settrace(self._on_call)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        sys.settrace(None)
        return kind is Struck

    def _on_call(self, frame: FrameType, event: str, arg: Any) -> Any:
        if self.where or not frame.f_code.co_filename.startswith(self._files):
            return None
        frame.f_trace_opcodes = self._event == "opcode"
        return self._on_step

    def _on_step(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == self._event and not self.where:
            self._left -= 1
            if not self._left:
                self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} in {frame.f_code.co_name}"
                sys.settrace(None)
                raise Struck(self.where)
        return self._on_step


def sweep(
    action: Callable[[], object], check: Callable[[str], object], event: str = "line", step: int = 1, first: int = 1
) -> int:
    """Do it again and again, struck one step later each time; check after each. Returns how many steps it has."""
    nth = first
    while True:
        with Strike(nth, event) as strike:
            action()
        if not strike.where:
            return nth
        check(strike.where)
        nth += step
