"""What `submit` and `stream` return where the call travels by the switchboard."""

import weakref
from math import inf
from time import monotonic
from typing import Any, Protocol

from huterox.codec import decode_result
from huterox.connection import Connection
from huterox.core import Call
from huterox.futures import CallFuture, Stream
from huterox_wire.errors import Cancelled, HuteroxError, NotFound


class Way(Protocol):
    """What a future or a stream asks of the way that its call has gone: see `huterox.routed`."""

    def answered(self) -> None:
        """The call has gone well."""

    def renew_later(self, future: "RoutedFuture", call: Call, error: NotFound) -> None:
        """The handle may be stale. Ask for a new one; then `follow` with the new call or `fail` the future."""

    def renew(self, call: Call) -> Call | None:
        """The same call under a new handle, not yet sent. None: the handle was good."""


class RoutedFuture(CallFuture):
    """See `CallFuture`. A thread that waits in `result` reads the socket itself."""

    def __init__(self, connection: Connection, way: Way) -> None:
        super().__init__()
        self._connection = connection
        self._way = way
        self._fresh = True  # it may be sent again under a new handle
        self._call: Call | None = None

    def follow(self, call: Call) -> None:
        """Hot path. From now on `call` decides this future."""
        self._call = call
        call.reader = weakref.ref(self)
        self._connection.start(call, self)

    def settle(self, call: Call) -> None:
        """Hot path. The call has ended (see `Owner`)."""
        if self._call is not call:
            return  # told before
        try:
            result = decode_result(call.outcome())
        except NotFound as exc:
            fresh, self._fresh = self._fresh, False
            if fresh:
                self._way.renew_later(self, call, exc)
            else:
                self.fail(exc)
        except Exception as exc:  # noqa: BLE001 - it would otherwise end the call of whichever thread runs this
            self.fail(exc)
        else:
            self._end_with(result, None)
            self._call = None  # the request's bytes go now, not when the future does
            self._way.answered()

    def fail(self, error: BaseException) -> None:
        """End with an error, unless it was cancelled meanwhile."""
        self._end_with(None, error)
        self._call = None

    def wait_for(self, call: Call) -> None:
        """Let waiting threads wait for this call, whose owner will go on from there."""
        self._call = call

    def result(self, timeout: float | None = None) -> dict[str, Any]:
        result = super().result(self._wait(timeout))
        self.is_read = True
        return result

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
            if not call.ended:
                return 0.0
            if not self._connection.settle(call) and self._call is call:
                break  # another thread is about to set the result
        return None if timeout is None else max(0.0, until_s - monotonic())

    def cancel(self) -> bool:
        """Give the call up and tell the switchboard. False: it has ended already."""
        call = self._call
        if self.done() or call is None:
            return self.cancelled()
        owner = call.owner
        if owner is None:
            return False
        try:
            if not self._connection.claim(call):
                return False
            if not self._connection.cancel(call):
                owner.settle(call)
                return False
            self._be_cancelled()
        except BaseException:
            self._connection.hand_over(call, owner)
            raise
        return True


class RoutedStream(Stream):
    """See `Stream`."""

    def __init__(self, connection: Connection, way: Way, call: Call) -> None:
        self._connection = connection
        self._way = way
        self._fresh = True
        self._over = False
        self._broken = False
        self._follow(call)

    def _follow(self, call: Call) -> None:
        self._call = call
        self._finalizer = weakref.finalize(self, self._connection.abandon, call)
        self._finalizer.atexit = False
        self._connection.start(call, None)

    def __next__(self) -> dict[str, Any]:
        try:
            while not self._over:
                call = self._call
                if call.parts:
                    self._fresh = False
                    return decode_result(self._connection.take_part(call))
                if not call.ended:
                    self._connection.wait(call)
                elif last := self._end(call):
                    return last
        except HuteroxError:
            raise
        except BaseException:
            self._broken = True
            self.close()
            raise
        if self._broken:
            raise Cancelled("the stream ended when its reader was interrupted")
        raise StopIteration

    def _end(self, call: Call) -> dict[str, Any]:
        """What the final answer holds: nothing for a stream, the result of a method that does not stream."""
        self._over = True
        self._finalizer.detach()
        try:
            last = decode_result(call.outcome())
        except NotFound:
            fresh, self._fresh = self._fresh, False
            if not fresh or (again := self._way.renew(call)) is None:
                raise
            self._over = False
            self._follow(again)
            return {}
        self._way.answered()
        return last

    def close(self) -> None:
        self._over = True
        self._finalizer.detach()
        self._connection.cancel(self._call)
