"""An exception of the model's code as text that its author can use."""

import traceback
from pathlib import Path
from types import TracebackType
from typing import Final

from huterox_kernel.worker.control import REASON_NBYTES_MAX, TRACEBACK_NBYTES_MAX
from huterox_wire.errors import ModelError

_OURS: Final = str(Path(__file__).resolve().parent.parent)


def reason_of(exc: BaseException) -> str:
    """The exception in one bounded text, as the last line of a traceback has it."""
    text = "".join(traceback.format_exception_only(exc)).strip()
    return _head(text, REASON_NBYTES_MAX)


def traceback_of(exc: BaseException) -> str:
    """The traceback from the first frame that is not ours; where it is too long, its end, which says most."""
    trace = _models_frames(exc.__traceback__)
    data = "".join(traceback.format_exception(type(exc), exc, trace)).encode(errors="replace")
    if len(data) > TRACEBACK_NBYTES_MAX:
        data = b"...\n" + data[4 - TRACEBACK_NBYTES_MAX :]
    return data.decode(errors="ignore")


def model_error(exc: BaseException) -> ModelError:
    """The wire's error for an exception that the model's code raised."""
    return ModelError(reason_of(exc), traceback=traceback_of(exc), type=type(exc).__name__)


def _models_frames(trace: TracebackType | None) -> TracebackType | None:
    first = trace
    while trace is not None and _is_ours(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    return trace or first


def _is_ours(filename: str) -> bool:
    return filename.startswith((_OURS, "<frozen importlib"))


def _head(text: str, nbytes: int) -> str:
    return text.encode(errors="replace")[:nbytes].decode(errors="ignore")
