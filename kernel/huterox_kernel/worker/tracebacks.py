"""An exception of the model's code as text that its author can use.

An exception is foreign code: its text, its class and its causes may raise, and nothing here does.
"""

import traceback
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from huterox_kernel.worker.control import REASON_NBYTES_MAX, TRACEBACK_NBYTES_MAX
from huterox_wire.errors import CallerError, HuteroxError, ModelError
from huterox_wire.meta import decode_error, error_meta

_OURS: Final = str(Path(__file__).resolve().parent.parent)
_name_of_type: Final[Any] = type.__dict__["__name__"].__get__  # a metaclass may have a `__name__` of its own


def type_name(exc: BaseException) -> str:
    """The name of its class."""
    return str(_name_of_type(type(exc)))


def reason_of(exc: BaseException) -> str:
    """The exception in one bounded text, as the last line of a traceback has it."""
    try:
        text = "".join(traceback.format_exception_only(exc)).strip()
    except BaseException as other:  # noqa: BLE001
        text = f"{type_name(exc)}: <its text cannot be had: {type_name(other)}>"
    return _head(text, REASON_NBYTES_MAX)


def traceback_of(exc: BaseException) -> str:
    """The traceback from the first frame that is not ours; where it is too long, its end, which says most."""
    try:
        trace = _models_frames(exc.__traceback__)
        text = "".join(traceback.format_exception(type(exc), exc, trace))
    except BaseException:  # noqa: BLE001
        text = reason_of(exc)
    data = text.encode(errors="replace")
    if len(data) > TRACEBACK_NBYTES_MAX:
        data = b"...\n" + data[4 - TRACEBACK_NBYTES_MAX :]
    return data.decode(errors="ignore")


def model_error(exc: BaseException) -> ModelError:
    """The wire's error for an exception that the model's code raised."""
    return ModelError(reason_of(exc), traceback=traceback_of(exc), type=type_name(exc))


def error_of(exc: BaseException) -> HuteroxError:
    """What a call ends with whose model raised: the caller's errors as they are, everything else as the model's."""
    try:
        if isinstance(exc, CallerError | ModelError):
            return decode_error(error_meta(exc))  # a class of the model's own says it with one of ours
    except BaseException:  # noqa: BLE001
        pass
    return model_error(exc)


def _models_frames(trace: TracebackType | None) -> TracebackType | None:
    first = trace
    while trace is not None and _is_ours(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    return trace or first


def _is_ours(filename: str) -> bool:
    return filename.startswith((_OURS, "<frozen importlib"))


def _head(text: str, nbytes: int) -> str:
    return text.encode(errors="replace")[:nbytes].decode(errors="ignore")
