"""What `submit` returns, and what `stream` returns, whichever way the call travels."""

import abc
import logging
from collections.abc import Iterator
from concurrent.futures import Future, InvalidStateError
from types import TracebackType
from typing import Any, Final, Self

Result = dict[str, Any]
_LOG: Final = logging.getLogger(__name__)


class CallFuture(Future[Result]):
    """The result of one call, some time. A thread that waits for it takes answers in itself, for all threads."""

    is_read = False
    _done_callbacks: list[Any]

    def _end_with(self, result: Result | None, error: BaseException | None) -> None:
        """Set the result or the error. Where a thread has done that and was interrupted, tell whoever has not heard."""
        try:
            if error is None:
                self.set_result(result)  # type: ignore[arg-type]
            else:
                self.set_exception(error)
        except InvalidStateError:
            with self._condition:
                self._condition.notify_all()
            self._invoke_callbacks()

    def _invoke_callbacks(self) -> None:
        """Each once, also if one of them is interrupted."""
        while self._done_callbacks:
            callback = self._done_callbacks.pop(0)
            try:
                callback(self)
            except Exception:  # noqa: BLE001 - as Future does
                _LOG.exception("a callback of %r has failed", self)


class Stream(Iterator[Result]):
    """The parts of one streamed reply, in order. For one thread. A stream whose reader is interrupted is over, since a
    part may be lost: it says `Cancelled` from then on.

    Parts wait here for their reader. One who is so slow that they pass the client's limits (256 MiB of one stream, 512
    MiB of all) takes what has come, then gets `Busy`; the model's generator is closed meanwhile.

    Leave a `with` block, or call `close`, to stop the model early; a stream that is dropped is stopped too, a little
    later.
    """

    @abc.abstractmethod
    def close(self) -> None:
        """Stop the model between two parts, if it still runs."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
