"""The worker's loop: waits for calls and orders, and gives each lane its turn.

One thread runs the model, so lanes share it: who has calls stands in a line, a turn is a few calls (one, where they
take long), and between turns the loop looks for other lanes and for the kernel's orders. Only the end of the kernel's
own lane ends the worker; a caller's lane that is dead, or that makes no sense, is let go of, and nobody else notices.

A lane that drains ends once the calls are done that were in it when it was told; what a caller publishes later is not
begun, so it cannot put the end off.
"""

import os
import select
import socket
import time
import traceback
from collections import deque
from math import inf
from typing import Any, Final

from msgspec import Struct

from huterox_kernel.worker import control
from huterox_kernel.worker.calls import Calls
from huterox_kernel.worker.control import AddLane, Close, Decoder, DrainLanes, DropLane, LaneBroken, LaneDropped
from huterox_kernel.worker.forks import WORKER, leave
from huterox_kernel.worker.inputs import Expected
from huterox_kernel.worker.pinned import Pinned
from huterox_kernel.worker.runtimes.base import Model
from huterox_kernel.worker.tracebacks import reason_of
from huterox_kernel.worker.words import say
from huterox_shm.descriptors import out_of_the_way
from huterox_shm.errors import LaneDead, PeerProtocolError, ShmError
from huterox_shm.lane import ContainerEnd, LaneDescriptors
from huterox_shm.layout import CALLS_DONE, CALLS_TAKEN
from huterox_shm.ledger import Ledger
from huterox_shm.spinning import Spinner

TURN_CALLS_MAX: Final = 16
TURN_S: Final = 0.001
"""A lane whose turn took longer has one call in the next; from there turns double for as long as they are shorter."""

LOOK_S: Final = 0.002
"""After so long without a look for orders, the line of lanes waits: behind it may stand one whose caller has gone."""

HOT_MAX: Final = 4
"""So many lanes, those that had calls last, are looked at before the worker sleeps."""

IDLE_S: Final = 5.0
"""A lane without a call for so long, or up to twice that, gives memory that it does not use back to the system."""

KEPT_LOOK_S: Final = 0.2
"""How often an idle worker tells its callers about inputs that the model has let go of meanwhile."""

DRAIN_ROOM_S: Final = 5.0
"""How long in all a lane that drains waits for its caller to make room for answers."""

DECODE: Final = Decoder(control.ToWorker)
_EVENTS_MAX: Final = 64
_KERNEL: Final = 0
"""The number of the kernel's lane; those of callers begin at 1."""


def _epoll() -> select.epoll:
    made = select.epoll()
    number = out_of_the_way(os.dup(made.fileno()))
    made.close()
    return select.epoll.fromfd(number)


class _Lane:
    """One lane that is served."""

    __slots__ = (
        "calls",
        "counts",
        "done_at",
        "is_gone",
        "is_queued",
        "lane",
        "room_left_s",
        "room_until_s",
        "turn_calls",
        "was_used",
    )

    def __init__(self, lane: int, calls: Calls, counts: Any) -> None:
        self.lane = lane
        self.calls = calls
        self.counts = counts  # its slot of the ledger; None: the kernel's own
        self.turn_calls = 1
        self.is_queued = False
        self.is_gone = False
        self.was_used = False
        self.done_at = -1  # draining: the lane is at its end when so many calls are done
        self.room_left_s = DRAIN_ROOM_S
        self.room_until_s = inf  # draining, and waiting for room


class Loop:
    """Serves the lanes of one model. Owns them, and the ledger."""

    def __init__(
        self,
        sock: socket.socket,
        kernel_lane: ContainerEnd,
        ledger: Ledger,
        model: Model,
        expected: Expected,
        spin_us: int = 0,
        copies: bool = False,
    ) -> None:
        """`copies`: as `Calls` has it."""
        self._sock = sock
        self._ledger = ledger
        self._model = model
        self._expected = expected
        self._copies = copies
        self._closing = False
        self._lanes: dict[int, _Lane] = {}  # of callers
        self._by_descriptor: dict[int, _Lane] = {}
        self._line: deque[_Lane] = deque()
        self._pinned = Pinned()
        self._used: set[_Lane] = set()  # may have memory to give back
        self._keeping: set[_Lane] = set()  # the model still holds inputs of theirs
        self._blocked: set[_Lane] = set()  # answers of theirs wait for room
        self._spinner = Spinner(spin_us)
        self._hot: list[ContainerEnd] = []  # where calls came last
        self._sweep_at_s = 0.0
        self._control = sock.fileno()
        self._is_control = os.fstat(self._control).st_ino
        self._epoll = _epoll()
        self._epoll.register(self._control, select.EPOLLIN)
        self._kernel = self._serve(_KERNEL, kernel_lane, None)

    def run(self) -> int:
        """Hot path. Until told to close, and every call that had come by then is answered. Returns the exit code."""
        line = self._line
        try:
            while True:
                if self._closing and not line and self._is_through():
                    return 0
                now_s = self._next(time.monotonic())
                look_at_s = now_s + LOOK_S
                for _ in range(len(line)):
                    now_s = self._turn(line.popleft(), now_s)
                    if now_s >= look_at_s:
                        break
        except (LaneDead, PeerProtocolError) as exc:
            say(f"the kernel's lane has ended: {exc}")
            return 1
        except OSError:
            if self._has_descriptors():
                raise
            return control.EXIT_DESCRIPTORS

    def _next(self, now_s: float) -> float:
        """Hot path. See who has calls, and wait where nobody has; returns the time."""
        if self._line:
            self._look(0.0)
            return now_s
        begun_ns = time.monotonic_ns()
        if self._spinner.look(self._hot, begun_ns):
            for end in self._hot:
                if end.told:
                    self._queue(self._by_descriptor[end.fileno()])
            return now_s
        self._look(self._patience_s(now_s))
        self._spinner.slept(begun_ns)
        return time.monotonic()

    def _queue(self, lane: _Lane) -> None:
        """Hot path. It has calls, or wants to be looked at."""
        if not lane.is_queued:
            lane.is_queued = True
            self._line.append(lane)

    def _look(self, timeout_s: float) -> None:
        """Hot path. See who has rung, and what the kernel has to say."""
        by_descriptor = self._by_descriptor
        try:
            events = self._epoll.poll(timeout_s, _EVENTS_MAX)
        except BaseException as exc:
            if exc.__traceback__ is None or exc.__traceback__.tb_next is None:
                raise
            # It comes from a signal handler of the model's, an alarm that was not switched off: no call is disturbed.
            say(f"a signal handler of the model raised between calls: {reason_of(exc)}")
            return
        if not WORKER[0]:
            leave()
        for descriptor, _ in events:
            lane = by_descriptor.get(descriptor)
            if lane is None:
                if descriptor == self._control:
                    self._obey()
            else:
                self._queue(lane)

    def _turn(self, lane: _Lane, now_s: float) -> float:
        """Hot path. Run some calls of a lane; returns the time.

        Raises:
            LaneDead, PeerProtocolError: it was the kernel's, and is over.
        """
        lane.is_queued = False
        if lane.is_gone:
            return now_s
        calls = lane.calls
        try:
            more = calls.step(lane.turn_calls)
        except Exception as exc:
            if lane is self._kernel or (isinstance(exc, OSError) and not self._has_descriptors()):
                raise
            self._lose(lane, exc)  # whatever it is: it must not reach the other lanes
            return time.monotonic()
        after_s = time.monotonic()
        if after_s - now_s > TURN_S:
            lane.turn_calls = 1
        elif lane.turn_calls < TURN_CALLS_MAX:
            lane.turn_calls *= 2
        if calls.lane not in self._hot:
            self._hot = [*self._hot[1 - HOT_MAX :], calls.lane]
        if not lane.was_used:
            lane.was_used = True
            self._used.add(lane)
        if calls.kept:
            self._keeping.add(lane)
        if more:
            lane.is_queued = True
            self._line.append(lane)
        if lane.done_at >= 0:
            self._go_on_draining(lane, after_s)
        if calls.retry_at_s != inf or self._blocked:
            self._note_blocked(lane)
        return after_s

    # Waiting.

    def _patience_s(self, now_s: float) -> float:
        """Hot path. Do what is due, and tell how long nothing will be; less than 0: for ever."""
        until_s = inf
        if self._used:
            if now_s >= self._sweep_at_s:
                self._sweep(now_s)
            until_s = self._sweep_at_s
        if self._keeping:
            self._tell_kept()
            until_s = min(until_s, now_s + KEPT_LOOK_S)
        if self._blocked:
            until_s = min(until_s, self._retry_blocked(now_s))
        return max(until_s - now_s, 0.0) if until_s != inf else -1.0

    def _sweep(self, now_s: float) -> None:
        """Trim the lanes that were not used since the last sweep."""
        self._sweep_at_s = now_s + IDLE_S
        for lane in list(self._used):
            if lane.was_used:
                lane.was_used = False
            else:
                self._used.discard(lane)
                lane.calls.lane.trim()

    def _tell_kept(self) -> None:
        for lane in list(self._keeping):
            keeps = bool(lane.calls.kept)
            try:
                lane.calls.flush()
            except (LaneDead, PeerProtocolError) as exc:
                if lane is self._kernel:
                    raise
                self._lose(lane, exc)
                continue
            if not keeps:
                self._keeping.discard(lane)

    def _note_blocked(self, lane: _Lane) -> None:
        if min(lane.calls.retry_at_s, lane.room_until_s) != inf and not lane.is_gone:
            self._blocked.add(lane)
        else:
            self._blocked.discard(lane)

    def _retry_blocked(self, now_s: float) -> float:
        """Put lanes in line whose answers have waited long enough; when is the next due?"""
        next_s = inf
        for lane in self._blocked:
            due_s = min(lane.calls.retry_at_s, lane.room_until_s)
            next_s = min(next_s, due_s)
            if due_s <= now_s and not lane.is_queued:
                lane.is_queued = True
                self._line.append(lane)
        return next_s

    # The kernel's orders.

    def _obey(self) -> None:
        received = control.receive(self._sock, DECODE)
        if received is None:  # the kernel has gone
            self._epoll.unregister(self._control)
            self._close()
            return
        order, descriptors = received
        if isinstance(order, AddLane) and len(descriptors) == len(LaneDescriptors._fields):
            self._add(order, LaneDescriptors(*descriptors))
            return
        control.close_all(descriptors)
        match order:
            case AddLane(lane=number):
                self._refuse(number, "the worker has no room for its descriptors")
            case DropLane(lane=number):
                if (lane := self._lanes.get(number)) is not None:
                    self._drop(lane)
            case DrainLanes(lanes=numbers):
                self._drain_some([self._lanes[number] for number in numbers or self._lanes if number in self._lanes])
            case Close():
                self._close()

    def _has_descriptors(self) -> bool:
        """Are they still ours? A model can close what it likes, and open others that get the numbers."""
        try:
            if os.fstat(self._control).st_ino != self._is_control:
                return False
            self._epoll.modify(self._control, select.EPOLLIN)
            for descriptor in self._by_descriptor:
                os.fstat(descriptor)
        except OSError:
            return False
        return True

    def _tell(self, message: Struct) -> None:
        try:
            control.send(self._sock, message)
        except OSError:  # the kernel has gone, and this process will follow
            return

    def _close(self) -> None:
        self._closing = True
        self._drain_some(list(self._lanes.values()))

    def _is_through(self) -> bool:
        """Told to close: is there nothing more to do? Puts the kernel's lane in line where there is."""
        kernel = self._kernel
        if kernel.calls.look() and kernel.calls.retry_at_s == inf:
            kernel.is_queued = True
            self._line.append(kernel)
        return not (self._lanes or kernel.calls.lane.open_count)

    # Lanes.

    def _serve(self, number: int, end: ContainerEnd, counts: Any) -> _Lane:
        end.hide_from_children()
        lane = _Lane(number, Calls(end, self._model, self._expected, copies=self._copies), counts)
        self._by_descriptor[end.fileno()] = lane
        self._epoll.register(end.fileno(), select.EPOLLIN)
        return lane

    def _add(self, order: AddLane, descriptors: LaneDescriptors) -> None:
        counts = self._ledger.slot(order.slot)
        try:
            end = ContainerEnd.attach(descriptors, counts)
            self._lanes[order.lane] = self._serve(order.lane, end, counts)
        except (ShmError, OSError) as exc:
            self._refuse(order.lane, str(exc))
            return
        self._pinned.pin(end)

    def _refuse(self, number: int, reason: str) -> None:
        """A lane that cannot be served."""
        self._tell(LaneBroken(number, reason[: control.REASON_NBYTES_MAX]))
        self._tell(LaneDropped(number))

    def _lose(self, lane: _Lane, exc: Exception) -> None:
        """A caller's lane is over: its end was marked, or its caller wrote nonsense."""
        if not isinstance(exc, LaneDead):
            if not isinstance(exc, PeerProtocolError):
                say("".join(traceback.format_exception(exc)))  # a bug of ours
            self._tell(LaneBroken(lane.lane, (str(exc) or type(exc).__name__)[: control.REASON_NBYTES_MAX]))
        self._drop(lane)

    def _drop(self, lane: _Lane) -> None:
        """Let go of a caller's lane, whatever is in it."""
        end = lane.calls.lane
        lane.is_gone = True
        del self._lanes[lane.lane]
        del self._by_descriptor[end.fileno()]
        self._epoll.unregister(end.fileno())  # the doorbell lives on in the caller, and would go on ringing here
        for lanes in (self._used, self._keeping, self._blocked):
            lanes.discard(lane)
        if end in self._hot:
            self._hot.remove(end)
        self._pinned.unpin(end)
        lane.calls.close()
        self._tell(LaneDropped(lane.lane))

    def _drain_some(self, lanes: list[_Lane]) -> None:
        for lane in lanes:
            if lane.done_at < 0:
                self._drain(lane)

    def _drain(self, lane: _Lane) -> None:
        try:
            has_calls = lane.calls.look()
        except (LaneDead, PeerProtocolError) as exc:
            self._lose(lane, exc)
            return
        lane.done_at = lane.counts[CALLS_TAKEN]
        if not has_calls and not lane.calls.lane.open_count:
            self._drop(lane)
        elif not lane.is_queued:
            lane.is_queued = True
            self._line.append(lane)

    def _go_on_draining(self, lane: _Lane, now_s: float) -> None:
        """After a turn: is the lane at its end, or does it wait for its caller, and for how long still?"""
        taken, done = lane.counts[CALLS_TAKEN], lane.counts[CALLS_DONE]
        unpublished_count = lane.calls.lane.open_count - (taken - done)
        if done >= lane.done_at and not unpublished_count:
            self._drop(lane)
        elif lane.is_queued and not unpublished_count:
            if lane.room_until_s != inf:
                lane.room_left_s, lane.room_until_s = lane.room_until_s - now_s, inf
        elif lane.room_until_s == inf:
            lane.room_until_s = now_s + lane.room_left_s
            self._blocked.add(lane)
        elif now_s >= lane.room_until_s:
            self._tell(LaneBroken(lane.lane, f"its caller made no room for answers for {DRAIN_ROOM_S:g} s"))
            self._drop(lane)
