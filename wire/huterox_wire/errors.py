"""Every error that Huterox raises or sends on purpose, in one place.

Three branches tell who must act: `CallerError` (change the request), `Unavailable` (try again later) and `Fault` (our
bug). `ModelError` stands beside them: the model's own code raised. An error crosses the wire as its stable `code`, a
message for people, whether a retry can help, and a map of facts; `from_wire` rebuilds the same class on the other side.
"""

from typing import Any, ClassVar


class HuteroxError(Exception):
    """Root of all errors raised on purpose.

    Attributes:
        code: stable text, the same in every SDK.
        retryable: whether the same request may succeed later, unchanged.
        details: facts for programs (names, numbers, limits); plain msgpack values.
    """

    code: ClassVar[str] = "Internal"
    retryable_by_default: ClassVar[bool] = False

    def __init__(self, message: str, /, *, retryable: bool | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.retryable = self.retryable_by_default if retryable is None else retryable
        self.details: dict[str, Any] = details

    def __reduce__(self) -> tuple[Any, ...]:
        return (from_wire, (self.code, self.message, self.retryable, self.details))


class CallerError(HuteroxError):
    """The request must change."""

    code = "InvalidInput"


class NotFound(CallerError):
    code = "NotFound"


class InvalidInput(CallerError):
    code = "InvalidInput"


class TooLarge(CallerError):
    code = "TooLarge"


class Unauthorized(CallerError):
    code = "Unauthorized"


class Conflict(CallerError):
    """The name is taken, or something still uses what should be removed."""

    code = "Conflict"


class Cancelled(CallerError):
    code = "Cancelled"


class Unavailable(HuteroxError):
    """Nothing is wrong with the request; the service cannot take it now."""

    code = "Unavailable"
    retryable_by_default = True


class Busy(Unavailable):
    code = "Busy"


class ResourceInterrupt(Unavailable):
    """Room for the model cannot be made. `details` tell what is needed, free, held and by whom."""

    code = "ResourceInterrupt"


class DeadlineExceeded(Unavailable):
    code = "DeadlineExceeded"


class WorkerLost(Unavailable):
    """The container died. `details["executed"]` is "no" or "maybe"."""

    code = "WorkerLost"


class ModelError(HuteroxError):
    """The model's own code raised. `details["traceback"]` is its text."""

    code = "ModelError"


class Fault(HuteroxError):
    """A bug of ours: please report it."""

    code = "Internal"


_CLASSES: dict[str, type[HuteroxError]] = {
    cls.code: cls
    for cls in (
        NotFound,
        InvalidInput,
        TooLarge,
        Unauthorized,
        Conflict,
        Cancelled,
        Unavailable,
        Busy,
        ResourceInterrupt,
        DeadlineExceeded,
        WorkerLost,
        ModelError,
        Fault,
    )
}


def from_wire(code: str, message: str, retryable: bool, details: dict[str, Any]) -> HuteroxError:
    """Rebuild the error that the other side sent.

    A code that this version does not know becomes a plain `HuteroxError` that carries it in `details["code"]`.
    """
    cls = _CLASSES.get(code)
    if cls is None:
        error = HuteroxError(message, retryable=retryable)
        error.details = {**details, "code": code}
        return error
    error = cls(message, retryable=retryable)
    error.details = dict(details)
    return error
