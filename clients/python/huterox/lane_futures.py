"""What `submit` and `stream` return where the call travels through a lane."""

import weakref
from collections.abc import Sequence
from contextlib import suppress
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from huterox.futures import CallFuture, Result, Stream
from huterox.lane_call import LaneCall
from huterox.lane_core import values_of
from huterox.lease import LaneGone
from huterox_wire.errors import Cancelled, HuteroxError
from huterox_wire.header import Buffer

if TYPE_CHECKING:
    from huterox.lane import LaneConnection


class _OnDemand:
    """A field of Future's that is made with all others when it is first read. What an instance has itself comes before
    this, as it is no data descriptor; and unlike `__getattr__` it slows no other field down."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, future: "LaneFuture | None", owner: type) -> Any:
        if future is None:
            return self
        future._attend()
        future._make()
        return future.__dict__[self._name]


class Router(Protocol):
    """Takes calls up that their container had not touched when it ended."""

    def submit_again(self, meta: bytes, tensors: Sequence[Buffer], deadline_s: float) -> CallFuture: ...
    def stream_again(self, meta: bytes, tensors: Sequence[Buffer], deadline_s: float) -> Stream: ...


class LaneFuture(LaneCall, CallFuture):
    """See `CallFuture`. It is its own call.

    Future's own machinery (a condition and two lists) costs more than a whole call, and most futures are only asked for
    their result. So it is made when something first touches it: callbacks, `concurrent.futures.wait`, cancellation.
    From then on the lane tells this future of its call's end (`settle`).
    """

    _is_made = False
    _is_attended = False
    _condition: Any = _OnDemand()
    _state: Any = _OnDemand()
    _result: Any = _OnDemand()
    _exception: Any = _OnDemand()
    _waiters: Any = _OnDemand()
    _done_callbacks: Any = _OnDemand()

    goes_on = keeps_request = True
    _again: CallFuture | None = None

    def __init__(self, lane: "LaneConnection", router: Router) -> None:
        self._lane = lane
        self._router = router
        self.reader = weakref.ref(self)

    def _make(self) -> None:
        """Have Future's machinery from now on. Several threads may come here at once, and be interrupted: each field is
        set once, to what the first of them has made."""
        fields = self.__dict__
        if not self._is_made:
            for name, value in fields.setdefault("_made", CallFuture().__dict__).items():
                fields.setdefault(name, value)
            self._is_made = True

    def _attend(self) -> None:
        """Be told of the end from now on, or settle at once."""
        if self._is_attended:
            return
        try:
            if not self._lane.own(self, self):
                self.settle(self)
            self._is_attended = True
        except BaseException:
            self._lane.hand_over(self, self)
            raise

    def settle(self, call: LaneCall) -> None:
        """The call has ended (see `Owner`). Two threads may learn of it, and both come here."""
        self._make()
        try:
            result = self._lane.core.outcome(self)
        except LaneGone as gone:
            self._route(gone)
        except Exception as exc:  # noqa: BLE001 - it would otherwise end the call of whichever thread runs this
            self._fail(exc)
        else:
            self._end_with(result, None)

    def _route(self, gone: LaneGone) -> None:
        """The container had not touched the call: another takes it up, once, however many threads learn of the end."""
        me = object()
        try:
            if self.__dict__.setdefault("_routed_by", me) is me:
                self._send_again(gone)
            elif (again := self._again) is not None and again.done():
                self.end_as(again)
        except HuteroxError as exc:
            self._fail(exc)
        except BaseException:
            if self.__dict__.get("_routed_by") is me and self._again is None:
                self._fail(Cancelled("its container ended, and a signal handler raised while it was sent to another"))
            raise

    def _send_again(self, gone: LaneGone) -> None:
        request, self.request = self.request, None
        if request is None:
            self._fail(gone)
            return
        again = self._router.submit_again(*request, gone.deadline_s)
        self._again = again
        again.lead(self)

    def _fail(self, error: BaseException) -> None:
        self._end_with(None, error)

    def done(self) -> bool:
        if self._is_made or type(self.error) is LaneGone:
            return super().done()
        return self.ended

    def result(self, timeout: float | None = None) -> Result:
        """Hot path."""
        if not self.ended:
            timeout = self._wait(timeout)
        if self._is_made or self.error is not None or not self.ended:
            return self._late_result(timeout)
        self.is_read = True
        return self._lane.core.outcome(self)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        timeout = self._wait(timeout)
        if not self.done():
            timeout = self._await_again(timeout)
        return super().exception(timeout)

    def _late_result(self, timeout: float | None) -> Result:
        if self.ended and not super().done():
            self._lane.settle(self)  # whoever was to tell of the end may have been interrupted
        result = super().result(self._await_again(timeout))
        self.is_read = True
        return result

    def _await_again(self, timeout: float | None) -> float | None:
        """Where the call goes on elsewhere, a thread that waits for it must wait there: it may have to read. Returns
        what is left of `timeout`."""
        if super().done() or (again := self._again) is None:
            return timeout
        until_s = inf if timeout is None else monotonic() + timeout
        with suppress(Exception):  # told by this future's own outcome
            again.exception(timeout)
        if again.done():
            self.end_as(again)  # who should have done that may have been interrupted
        return None if timeout is None else max(0.0, until_s - monotonic())

    def _wait(self, timeout: float | None) -> float | None:
        """Read until the call has ended or `timeout` is over; returns what is left of it."""
        until_s = inf if timeout is None else monotonic() + timeout
        if not self.ended:
            self._lane.wait(self, until_s)
            if not self.ended:
                return 0.0
        self._lane.settle(self)
        return None if timeout is None else max(0.0, until_s - monotonic())

    def cancel(self) -> bool:
        """Give the call up and tell the container. False: it has ended already."""
        self._attend()
        self._make()
        if super().done():
            return self.cancelled()
        if (again := self._again) is not None:
            return bool(again.cancel())  # this one ends as that does
        try:
            if not self._lane.claim(self):
                return False  # another thread is about to tell of the end
            if not self._lane.cancel(self):
                self.settle(self)
                return False
            self._be_cancelled()
        except BaseException:
            self._lane.hand_over(self, self)
            raise
        return True


class LaneStream(Stream):
    """See `Stream`."""

    def __init__(self, lane: "LaneConnection", call: LaneCall, router: Router) -> None:
        self._lane = lane
        self._call = call
        self._router = router
        self._again: Stream | None = None
        self._over = False
        self._broken = False
        self._finalizer = weakref.finalize(self, lane.abandon, call)
        self._finalizer.atexit = False

    def __next__(self) -> Result:
        call = self._call
        try:
            while not self._over:
                if self._again is not None:
                    return next(self._again)
                if call.parts:
                    return values_of(self._lane.take_part(call))
                if not call.ended:
                    self._lane.wait(call)
                elif last := self._end(call):
                    return last
        except (HuteroxError, StopIteration):
            raise
        except BaseException:
            self._broken = True
            self.close()
            raise
        if self._broken:
            raise Cancelled("the stream ended when its reader was interrupted")
        raise StopIteration

    def _end(self, call: LaneCall) -> Result:
        """What the final answer holds: nothing for a stream, the result of a method that does not stream."""
        self._finalizer.detach()
        try:
            self._over = True
            return self._lane.core.outcome(call)
        except LaneGone as gone:
            request, call.request = call.request, None
            if request is None:
                raise
            self._over = False
            self._again = self._router.stream_again(*request, gone.deadline_s)
            return {}

    def close(self) -> None:
        """Stop the model between two parts, if it still runs."""
        self._over = True
        self._finalizer.detach()
        self._lane.cancel(self._call)
        if self._again is not None:
            self._again.close()
