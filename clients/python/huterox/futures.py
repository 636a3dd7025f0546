"""What `submit` returns, and what `stream` returns."""

import weakref
from collections.abc import Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from math import inf
from time import monotonic
from types import TracebackType
from typing import Any, Protocol

from huterox.codec import decode_result
from huterox.connection import Connection
from huterox.core import Call
from huterox_wire.errors import NotFound


class Renewer(Protocol):
    """Sends a call again when its service's handle has become stale."""

    def renew_later(self, future: "CallFuture", call: Call, error: NotFound) -> None:
        """Ask for a new handle; then either `follow` with the new call or `fail` the future."""

    def renew(self, call: Call) -> Call | None:
        """The same call under a new handle, not yet sent. None: the handle was good."""


class CallFuture(Future[dict[str, Any]]):
    """The result of one call, some time. A thread that waits in `result` reads the socket itself."""

    def __init__(self, connection: Connection, renewer: Renewer) -> None:
        super().__init__()
        self._connection = connection
        self._renewer: Renewer | None = renewer
        self._call: Call | None = None

    def follow(self, call: Call) -> None:
        """Hot path. From now on `call` decides this future."""
        self._call = call
        self._connection.start(call, self)

    def settle(self, call: Call) -> None:
        """Hot path. The call has ended (see `Owner`)."""
        try:
            result = decode_result(call.outcome())
        except NotFound as exc:
            renewer, self._renewer = self._renewer, None
            if renewer is None:
                self.fail(exc)
            else:
                renewer.renew_later(self, call, exc)
        except Exception as exc:  # noqa: BLE001 - it would otherwise end the call of whichever thread runs this
            self.fail(exc)
        else:
            with suppress(InvalidStateError):  # cancelled meanwhile
                self.set_result(result)
            self._call = None  # the request's bytes go now, not when the future does

    def fail(self, error: BaseException) -> None:
        """End with an error, unless it was cancelled meanwhile."""
        with suppress(InvalidStateError):
            self.set_exception(error)
        self._call = None

    def wait_for(self, call: Call) -> None:
        """Let waiting threads wait for this call, whose owner will go on from there."""
        self._call = call

    def result(self, timeout: float | None = None) -> dict[str, Any]:
        return super().result(self._wait(timeout))

    def exception(self, timeout: float | None = None) -> BaseException | None:
        return super().exception(self._wait(timeout))

    def _wait(self, timeout: float | None) -> float | None:
        """Read until this future is done or `timeout` is over; returns what is left of it."""
        until_s = inf if timeout is None else monotonic() + timeout
        while not self.done():
            call = self._call
            if call is None:
                break
            self._connection.wait(call, until_s)
            if not call.done:
                return 0.0
            owner = self._connection.claim(call)
            if owner is not None:
                owner.settle(call)
            elif self._call is call:
                break  # another thread is about to set the result
        return None if timeout is None else max(0.0, until_s - monotonic())

    def cancel(self) -> bool:
        """Give the call up and tell the switchboard. False: it has ended already."""
        call = self._call
        if self.done() or call is None:
            return self.cancelled()
        owner = self._connection.claim(call)
        if owner is None:
            return False
        if not self._connection.cancel(call):
            owner.settle(call)
            return False
        super().cancel()
        self.set_running_or_notify_cancel()
        return True


class Stream(Iterator[dict[str, Any]]):
    """The parts of one streamed reply, in order. For one thread.

    Leave a `with` block, or call `close`, to stop the model early; a stream that is dropped is stopped too, a little
    later.
    """

    def __init__(self, connection: Connection, renewer: Renewer, call: Call) -> None:
        self._connection = connection
        self._renewer: Renewer | None = renewer
        self._over = False
        self._follow(call)

    def _follow(self, call: Call) -> None:
        self._call = call
        self._connection.start(call, None)
        self._finalizer = weakref.finalize(self, self._connection.abandon, call)
        self._finalizer.atexit = False

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> dict[str, Any]:
        while not self._over:
            call = self._call
            if call.parts:
                self._renewer = None
                return decode_result(call.take_part())
            if not call.done:
                self._connection.wait(call)
            elif last := self._end(call):
                return last
        raise StopIteration

    def _end(self, call: Call) -> dict[str, Any]:
        """What the final answer holds: nothing for a stream, the result of a method that does not stream."""
        self._over = True
        self._finalizer.detach()
        try:
            return decode_result(call.outcome())
        except NotFound:
            renewer, self._renewer = self._renewer, None
            if renewer is None or (again := renewer.renew(call)) is None:
                raise
            self._over = False
            self._follow(again)
            return {}

    def close(self) -> None:
        """Stop the model between two parts, if it still runs."""
        self._over = True
        self._finalizer.detach()
        self._connection.cancel(self._call)

    def __enter__(self) -> "Stream":
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
