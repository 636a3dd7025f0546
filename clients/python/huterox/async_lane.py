"""A lane in an event loop: its doorbell and its connection to the kernel are watched by the loop. Twin of `lane`.

While the container has work, calls that begin in one turn of the loop ring the doorbell once, at its end. A call for
which the lane has no room waits in line, up to its deadline, and is published by whoever takes answers in, or by a
tick, for room may come without an answer (an array or a result that is garbage-collected). Full: the line is bounded;
then Busy. Everything here runs in the loop's thread.
"""

import asyncio
import socket
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from math import inf
from time import monotonic
from typing import Any, Final, Protocol

import numpy as np

from huterox.codec import encode_call
from huterox.core import Limits
from huterox.futures import Result
from huterox.lane_call import LaneCall, Request
from huterox.lane_core import LaneCore, drop_lane, values_of
from huterox.lease import LaneGone
from huterox.loops import call_weakly, watch_weakly
from huterox_shm.errors import LaneDead, LaneFull, PeerProtocolError
from huterox_shm.lane import DEAD, CallerEnd
from huterox_wire.errors import Busy, DeadlineExceeded, HuteroxError
from huterox_wire.header import Buffer

_TICK_S: Final = 0.02


class Way(Protocol):
    """Where a call goes that the lane gives back. See `AsyncRouted`."""

    async def submit_again(self, meta: bytes, tensors: Sequence[Buffer], deadline_s: float) -> Result: ...

    def stream_again(
        self, meta: bytes, tensors: Sequence[Buffer], deadline_s: float
    ) -> AsyncGenerator[Result, None]: ...


class _Waiting:
    """A call in line for room."""

    __slots__ = ("call", "deadline_s", "inputs", "method")

    def __init__(self, call: LaneCall, method: str, inputs: Mapping[str, Any], deadline_s: float) -> None:
        self.call = call
        self.method = method
        self.inputs = inputs
        self.deadline_s = deadline_s


class AsyncLane:
    """One lane, for one event loop. Owns the end and the connection to the kernel."""

    def __init__(
        self,
        end: CallerEnd,
        liveness: socket.socket,
        limits: Limits,
        on_end: Callable[["AsyncLane"], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """`on_end` is told once, when the lane is over by itself and all of its calls have ended; then `close` it."""
        self._core = LaneCore(end, limits)
        self._end = end
        self._liveness = liveness
        self._limits = limits
        self._on_end = on_end
        self._loop = loop
        self._line: deque[_Waiting] = deque()
        self._line_deadline_s = inf  # a lower bound, corrected when it is reached
        self._flushing = False
        self._over = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = inf
        self._fds = (end.fileno(), liveness.fileno())
        readers = dict(zip(self._fds, (AsyncLane._read, AsyncLane.hang_up), strict=True))
        self._finalizer = watch_weakly(loop, self, readers, partial(drop_lane, end, liveness))

    @property
    def open(self) -> bool:
        """Whether new calls are taken."""
        return self._core.open

    # --- calls ------------------------------------------------------------------------------------------------------

    async def call(self, method: str, inputs: Mapping[str, Any], timeout_s: float) -> Result:
        """Hot path. Call and wait for the result.

        Raises:
            LaneGone: nothing was done; the call can go another way.
            HuteroxError: whatever ended the call instead.
        """
        call = LaneCall()
        self._begin(call, method, inputs, timeout_s)
        await self._news(call)
        return self._core.outcome(call)

    def submit(self, method: str, inputs: Mapping[str, Any], timeout_s: float, way: Way) -> "asyncio.Task[Result]":
        """Start a call as a task of its own. The inputs have been copied when this returns.

        Raises:
            LaneGone, HuteroxError: as `call`, what is known at once.
        """
        call = LaneCall()
        call.keeps_request = True
        self._begin(call, method, inputs, timeout_s, copy=True)
        task = self._loop.create_task(self._result(call, way))
        call.reader = weakref.ref(task)
        task.add_done_callback(partial(self._cancel_unbegun, call))
        return task

    def _cancel_unbegun(self, call: LaneCall, task: "asyncio.Task[Result]") -> None:
        """A task that is cancelled before its first step has not come to cancel its call."""
        if task.cancelled():
            self._cancel(call)

    def stream(
        self, method: str, inputs: Mapping[str, Any], timeout_s: float, way: Way
    ) -> AsyncGenerator[Result, None]:
        """Start a call whose result comes in parts. The inputs have been copied when this returns."""
        call = LaneCall()
        call.keeps_request = True
        call.parts = deque()
        self._begin(call, method, inputs, timeout_s, copy=True)
        return self._parts(call, way)

    def empty(self, shape: int | Sequence[int], dtype: Any) -> np.ndarray[Any, Any]:
        """Memory of the lane's. Raises LaneGone, Busy: see `LaneCore.empty`."""
        return self._core.empty(shape, dtype)

    async def _result(self, call: LaneCall, way: Way) -> Result:
        await self._news(call)
        try:
            return self._core.outcome(call)
        except LaneGone as gone:
            request, deadline_s = _given_back(call), gone.deadline_s
        return await way.submit_again(*request, deadline_s)

    async def _parts(self, call: LaneCall, way: Way) -> AsyncGenerator[Result, None]:
        try:
            while True:
                await self._news(call)
                if call.parts:
                    yield values_of(self._core.take_part(call))
                else:
                    break
            try:
                last = self._core.outcome(call)
            except LaneGone as gone:
                again = way.stream_again(*_given_back(call), gone.deadline_s)
            else:
                if last:
                    yield last
                return
        finally:
            self._cancel(call)
        async for part in again:
            yield part

    async def _news(self, call: LaneCall) -> None:
        """Hot path. Wait until the call has ended, or has a part."""
        while not (call.ended or call.parts):
            news = call.owner = self._loop.create_future()
            try:
                await news
            except BaseException:
                self._cancel(call)
                raise

    def _cancel(self, call: LaneCall) -> None:
        if self._core.cancel(call):
            self._core.news.clear()  # nobody waits
            if call.call_id and not self._over:
                self._core.send_cancel(call)

    # --- into the lane ----------------------------------------------------------------------------------------------

    def _begin(
        self, call: LaneCall, method: str, inputs: Mapping[str, Any], timeout_s: float, copy: bool = False
    ) -> None:
        """Hot path. Publish a call, or have it wait in line for room."""
        if not self._line:
            try:
                self._publish(call, method, inputs, timeout_s)
                return
            except LaneFull as exc:
                if not self._limits.lane_waits:
                    raise self._core.full(exc) from exc
        elif not self._core.open:
            raise LaneGone()
        if len(self._line) >= self._limits.in_flight_max:
            raise Busy(
                f"{len(self._line)} calls wait for room in the lane, which is the limit", waiting=len(self._line)
            )
        if copy:
            inputs = {name: _copied(value) for name, value in inputs.items()}
        now_s = monotonic()
        deadline_s = now_s + timeout_s
        self._line.append(_Waiting(call, method, inputs, deadline_s))
        self._line_deadline_s = min(self._line_deadline_s, deadline_s)
        self._arm(now_s + _TICK_S)

    def _publish(self, call: LaneCall, method: str, inputs: Mapping[str, Any], timeout_s: float) -> None:
        """Hot path. A call that finds the container idle is shown to it at once."""
        core = self._core
        try:
            core.publish(call, method, inputs, timeout_s, monotonic())
        finally:
            # Also where there was no room: a form may have been told before that was found out.
            if not self._flushing:
                if core.queued_count == core.in_flight_count:
                    self._flush()
                else:
                    self._flushing = True
                    self._loop.call_soon(self._flush)
        if call.deadline_s < self._timer_s:
            self._arm(call.deadline_s)

    def _flush(self) -> None:
        """Hot path."""
        self._flushing = False
        if not self._over:
            with suppress(LaneDead, PeerProtocolError):  # `take` will say so
                self._core.flush()

    def _move_line(self) -> None:
        """Publish the calls in line for as long as there is room, and end those whose time is over."""
        if monotonic() >= self._line_deadline_s:
            self._expire_line()
        line = self._line
        while line:
            waiting = line[0]
            call = waiting.call
            try:
                if not call.ended:
                    left_s = max(waiting.deadline_s - monotonic(), 1e-6)
                    self._publish(call, waiting.method, waiting.inputs, left_s)
            except LaneFull:
                return
            except LaneGone:
                self._give_back(waiting)
            except Exception as exc:  # noqa: BLE001 - it is the call's, not of whoever made room
                self._fail(call, exc)
            line.popleft()

    def _expire_line(self) -> None:
        now_s = monotonic()
        for waiting in self._line:
            if waiting.deadline_s <= now_s and not waiting.call.ended:
                self._fail(waiting.call, DeadlineExceeded("the lane had no room for the call in its time"))
        self._line = deque(waiting for waiting in self._line if not waiting.call.ended)
        self._line_deadline_s = min((waiting.deadline_s for waiting in self._line), default=inf)

    def _fail(self, call: LaneCall, error: Exception) -> None:
        call.error = error
        call.ended = True
        self._tell(call)

    def _give_back(self, waiting: _Waiting) -> None:
        """A call that waited in vain: the lane is over."""
        call = waiting.call
        error: Exception = LaneGone(deadline_s=waiting.deadline_s)
        try:
            if call.keeps_request:
                call.request = encode_call(waiting.method, waiting.inputs)
        except HuteroxError as exc:
            error = exc
        self._fail(call, error)

    # --- out of the lane --------------------------------------------------------------------------------------------

    def _read(self) -> None:
        """Hot path. Take in what has come and let it be known."""
        if self._over:
            return
        try:
            self._core.take()
        except LaneDead:
            self._lose(graceful=True)
            return
        except PeerProtocolError:
            self._lose(graceful=False)
            return
        self._tell_news()
        if self._line:
            self._move_line()
        core = self._core
        if core.watched or core.dropped or self._end.releases_pending > core.releases_max:
            self._look_after_releases()
        if not core.in_flight_count and not core.open:
            self._lose(graceful=True)

    def _look_after_releases(self) -> None:
        """Results that are dropped make room for answers; the container must hear of it while calls wait for that."""
        core = self._core
        if not core.in_flight_count:
            return
        core.tend()
        if core.dropped or self._end.releases_pending > core.releases_max:
            with suppress(LaneDead, PeerProtocolError):
                core.tell_releases()
        if core.watched:
            self._arm(monotonic() + _TICK_S)

    def _tell_news(self) -> None:
        """Hot path. Of all calls that have ended or have one more part."""
        news = self._core.news
        for call in news:
            self._tell(call)
        news.clear()

    def _tell(self, call: LaneCall) -> None:
        """Hot path. The call has ended, or has one more part."""
        owner = call.owner
        if owner is not None and not owner.done():
            owner.set_result(None)

    def _arm(self, due_s: float) -> None:
        """Have `_on_time` called no later than that."""
        if due_s >= self._timer_s or self._over:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_s = due_s
        left_s = max(0.0, due_s - monotonic())
        self._timer = self._loop.call_later(left_s, call_weakly, weakref.ref(self), AsyncLane._on_time)

    def _on_time(self) -> None:
        self._timer, self._timer_s = None, inf
        if self._over:
            return
        now_s = monotonic()
        for call in self._core.expire(now_s):
            self._core.send_cancel(call)
        self._tell_news()
        if self._line:
            self._move_line()
        if self._line:
            self._arm(now_s + _TICK_S)
        if self._core.watched or self._core.dropped:
            self._look_after_releases()
        if self._core.next_deadline_s < inf:
            self._arm(self._core.next_deadline_s)

    # --- the end ----------------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Take no new calls; the lane is over when those in flight have ended."""
        self._core.leave()
        self._read()

    def hang_up(self) -> None:
        """The kernel's connection has ended: the lane is over, once what the container has answered is taken in."""
        if not self._over:
            self._read()
            self._lose(graceful=self._end.state == DEAD)

    def _lose(self, graceful: bool) -> None:
        """The lane is over. Ends all calls."""
        if self._over:
            return
        self._core.lose(graceful)
        self._let_go()
        self._tell_news()
        while self._line:
            self._give_back(self._line.popleft())
        self._on_end(self)

    def _let_go(self) -> None:
        self._over = True
        self._finalizer.detach()
        for fd in self._fds:
            self._loop.remove_reader(fd)
        if self._timer is not None:
            self._timer.cancel()

    def close(self) -> None:
        """End the calls that are under way and let go of everything. May be called twice."""
        if self._core.closed:
            return
        lost = self._over
        self._let_go()
        ended = self._core.close()
        waiting = [waiting.call for waiting in self._line]
        self._line.clear()
        for call in ended:
            if not lost:
                self._core.send_cancel(call)
        for call in waiting:
            self._core.cancel(call)
        self._tell_news()
        with suppress(OSError):
            self._liveness.shutdown(socket.SHUT_RDWR)  # a forked child may hold a copy: the kernel must see the end
        self._liveness.close()
        self._end.close()
        self._core.let_go()

    def forget(self) -> None:
        """In a forked child: everything belongs to the parent, its loop too."""
        self._over = True
        self._liveness.close()
        self._end.close()


def _given_back(call: LaneCall) -> Request:
    """What a call that no container has touched asks for."""
    if call.request is None:
        raise LaneGone("the call cannot be sent again")
    return call.request


def _copied(value: Any) -> Any:
    """An input that its owner may change at once."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if hasattr(value, "detach") and hasattr(value, "clone"):  # a torch tensor
        return value.detach().clone()
    return value
