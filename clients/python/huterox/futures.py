"""What `submit` returns, and what `stream` returns, whichever way the call travels."""

import abc
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED
from contextlib import suppress
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, Final, ParamSpec, Self, TypeVar

Result = dict[str, Any]
_LOG: Final = logging.getLogger(__name__)
_OVER: Final = (FINISHED, CANCELLED, CANCELLED_AND_NOTIFIED)

F = TypeVar("F", bound="Future[Any]")
P = ParamSpec("P")
T = TypeVar("T")


def _letting_go(method: Callable[Concatenate[F, P], T]) -> Callable[Concatenate[F, P], T]:
    """A method of a future that does not keep the future's lock where it is interrupted, as the standard library's may:
    every other thread would wait for it for ever. The lock is a reentrant one, of this future alone."""

    @wraps(method)
    def letting_go(self: F, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(self, *args, **kwargs)
        except BaseException:
            with suppress(KeyError, RuntimeError):
                while True:
                    self.__dict__["_condition"].release()  # which a lane's future makes late
            raise

    return letting_go


class CallFuture(Future[Result]):
    """The result of one call, some time. A thread that waits for it takes answers in itself, for all threads."""

    is_read = False
    follower: "CallFuture | None" = None
    """It ends as this one does."""
    _done_callbacks: list[Any]

    @property
    def is_watched(self) -> bool:
        """Whoever waits would wait for ever if the thread that tells of the end were interrupted meanwhile:
        `concurrent.futures.wait` hears of each future once."""
        return self.follower is not None or bool(self.__dict__.get("_waiters"))

    _result_later = _letting_go(Future.result)
    exception = _letting_go(Future.exception)
    running = _letting_go(Future.running)
    cancel = _letting_go(Future.cancel)
    cancelled = _letting_go(Future.cancelled)
    add_done_callback = _letting_go(Future.add_done_callback)
    set_running_or_notify_cancel = _letting_go(Future.set_running_or_notify_cancel)

    def done(self) -> bool:
        """Hot path. The state is written last, so it needs no lock."""
        return self._state in _OVER

    def result(self, timeout: float | None = None) -> Result:
        """Hot path."""
        if self._state == FINISHED and self._exception is None:
            return self._result  # type: ignore[return-value]
        return self._result_later(timeout)

    @_letting_go
    def _end_with(self, result: Result | None, error: BaseException | None) -> None:
        """Set the result or the error. Where a thread has done that and was interrupted, tell whoever has not heard."""
        try:
            if error is None:
                self.set_result(result)  # type: ignore[arg-type]
            else:
                self.set_exception(error)
        except InvalidStateError:
            self._notify()
            self._invoke_callbacks()

    @_letting_go
    def _be_cancelled(self) -> None:
        """Cancel it, if it has not ended. May be done twice, and by two threads."""
        super().cancel()
        self._notify()

    def _notify(self) -> None:
        """Tell whoever waits that it has ended, again."""
        with self._condition:
            if self._state == CANCELLED:
                Future.set_running_or_notify_cancel(self)
            self._condition.notify_all()

    def lead(self, follower: "CallFuture") -> None:
        """Have another future end as this one does."""
        self.follower = follower
        if self.done():
            follower.end_as(self)

    def end_as(self, leader: "CallFuture") -> None:
        """Another future has ended, and this one with it. May be done twice, and by two threads."""
        if leader.cancelled():
            self._be_cancelled()
        elif (error := leader.exception()) is not None:
            self._end_with(None, error)
        else:
            self._end_with(leader.result(), None)

    def _invoke_callbacks(self) -> None:
        """Each once, also if one of them is interrupted, or two threads do this. The follower comes first."""
        if self.follower is not None:
            self.follower.end_as(self)
        with suppress(IndexError):
            while True:
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
