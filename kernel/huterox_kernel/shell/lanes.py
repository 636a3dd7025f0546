"""Calls that come through the switchboard: into the container's shared memory, and answers straight out of it.

The kernel is the caller of one lane for each container (for lanes of other callers see `leases`). A call is copied
once, off the wire into a block; it is not decoded. An answer is already a whole message: a small one is copied into the
socket, a large one is sent from where it lies, and its block is released when the socket is done with it.

    route + frame ─▶ claim, copy, publish ─▶ ring ─▶ worker ─▶ ring ─▶ take ─▶ route + frame

When the lane is full: Busy, at once. When the switchboard takes no answers: they stay where they are, and no more are
taken. When the container dies: what it had answered is sent, the call that was running ends as WorkerLost, and calls
that were not begun are handed back to the switchboard, as is a call for a container that is not here: it finds
another container for them.
"""

import time
from asyncio import AbstractEventLoop, TimerHandle
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import zmq

from huterox_kernel.core.hangs import Sight
from huterox_kernel.core.records import text_of
from huterox_kernel.shell.link import Link
from huterox_shm.errors import LaneDead, LaneFull, LaneTooSmall, PeerProtocolError, ShmError
from huterox_shm.lane import (
    DEAD,
    ERROR,
    PART,
    REPLY,
    STREAM,
    CallerEnd,
    LaneConfig,
    LaneCounters,
    LaneDescriptors,
    Reply,
    create_lane,
)
from huterox_wire.errors import Busy, HuteroxError, TooLarge, WorkerLost
from huterox_wire.header import HEADER_NBYTES, REQUEST_ID, Buffer, Header, pack_header, unpack_header
from huterox_wire.kinds import Flag, Kind
from huterox_wire.limits import MESSAGE_NBYTES_MAX
from huterox_wire.message import align, check_message_nbytes, encode, packed_nbytes
from huterox_wire.meta import error_meta
from huterox_wire.route import CONTAINER, NUMBER

UNCOPIED_NBYTES_MIN: Final = 64 * 1024
"""Answers from this size on are sent from where they lie."""

RELEASES_MAX: Final = 16
RELEASES_NBYTES_MAX: Final = 1024 * 1024
"""So many blocks, or bytes, to give back are told at once; fewer wait for the next call, or for TIDY_S."""

TIDY_S: Final = 0.05
SENDING_LOOK_S: Final = 0.002
"""How often a socket is asked whether it is done with an answer."""

_CALL: Final = Kind.CALL
_STREAM: Final = int(Flag.STREAM)
_HEAD: Final = slice(0, 6)
_HEADS: Final = {
    kind: pack_header(wire_kind, Flag.PACKED)[_HEAD]
    for kind, wire_kind in ((REPLY, Kind.REPLY), (PART, Kind.PART), (ERROR, Kind.ERROR))
}
"""How the header of an answer begins (magic, version, kind, flags), by the kind of its entry in the ring."""

_PACKED: Final = int(Flag.PACKED)
_PAD: Final = bytes(64)


class Call(NamedTuple):
    """A call in a lane: where its answer goes, where it lies. `request_id` is as it stands in the header."""

    route: bytes
    request_id: bytes
    handle: int
    offset: int = 0
    nbytes: int = 0


class Lane:
    """One container's lane and the calls in it."""

    __slots__ = ("container", "end", "failed", "last_call", "released_nbytes", "seen_call", "trimmed_call", "unsent")

    def __init__(self, container: int, end: CallerEnd) -> None:
        self.container = container
        self.end = end
        self.unsent: deque[Reply] = deque()  # taken, but the switchboard would not have them
        self.failed: list[Call] = []  # their answers made no sense; they end with the container
        self.released_nbytes = 0
        self.last_call = self.seen_call = self.trimmed_call = 0


class Lanes:
    """All lanes of a kernel.

    Args:
        on_broken: told of a container that wrote nonsense into its lane.
    """

    def __init__(
        self,
        loop: AbstractEventLoop,
        link: Link,
        config: LaneConfig,
        busy_retry_after_s: float,
        on_broken: Callable[[int, str], None],
    ) -> None:
        self._loop = loop
        self._link = link
        self._config = config
        self._busy_retry_after_s = busy_retry_after_s
        self._on_broken = on_broken
        self._lanes: dict[int, Lane] = {}
        self._ready: dict[bytes, Lane] = {}  # by the route's first bytes
        self._lost: dict[int, list[tuple[Call, str]]] = {}  # calls of containers that have ended, and were they run?
        self._touched: set[Lane] = set()
        self._sending: list[tuple[zmq.MessageTracker, Lane, int, int]] = []
        self._tidy_timer: TimerHandle | None = None

    # A lane's life.

    def open(self, container: int) -> LaneDescriptors:
        """Make a container's lane. The descriptors returned are for the worker; the giver closes them.

        Raises:
            LaneFull, OSError: the system has no memory or descriptors for it.
        """
        theirs = create_lane(self._config, generation=1)
        try:
            lane = Lane(container, CallerEnd.attach(theirs.duplicate()))
        except BaseException:
            theirs.close()
            raise
        self._lanes[container] = lane
        self._loop.add_reader(lane.end.fileno(), self._on_doorbell, lane)
        return theirs

    def admit(self, container: int) -> None:
        """Pass calls on from now on."""
        self._ready[container.to_bytes(8, "little")] = self._lanes[container]

    def refuse(self, container: int) -> None:
        """Pass no new calls on; those in the lane go on."""
        self._ready.pop(container.to_bytes(8, "little"), None)

    def stop(self, container: int) -> None:
        """The process has ended: no more calls, and nothing is taken until `discard`."""
        self.refuse(container)
        if (lane := self._lanes.get(container)) is not None:
            self._loop.remove_reader(lane.end.fileno())

    def discard(self, container: int) -> None:
        """The container has ended: send what it has answered, hand back what was not begun, give the lane back.

        Other calls wait for `fail_calls`.
        """
        self.refuse(container)
        lane = self._lanes.pop(container, None)
        if lane is None:
            return
        self._touched.discard(lane)
        self._loop.remove_reader(lane.end.fileno())
        begun = lane.end.begun
        self._answer_last(lane)
        lane.end.mark_dead()
        self._lost[container] = [(call, "maybe") for call in lane.failed] + [
            (call, "maybe" if call_id <= begun else "no")
            for call_id, (call, _) in lane.end.calls.items()
            if call_id <= begun or not self._hand_back(lane, call)
        ]
        lane.end.close()

    def _hand_back(self, lane: Lane, call: Call) -> bool:
        """A call that was not begun is still whole in its block. False: it is not what it was, or cannot be sent."""
        frame = lane.end.view(call.offset, call.nbytes)
        return frame[REQUEST_ID] == call.request_id and self._link.send(call.route, frame)

    def fail_calls(self, container: int, reason: str) -> None:
        """End the calls that a discarded container has left without an answer."""
        for call, executed in self._lost.pop(container, ()):
            self._fail(call, WorkerLost(f"container {text_of(container)} has ended: {reason}", executed=executed))

    def _answer_last(self, lane: Lane) -> None:
        """What a dead container had published is as good as ever, except that there is no later for it."""
        try:
            lane.unsent.extend(lane.end.take())
        except (LaneDead, PeerProtocolError):
            pass
        for call, _, kind, _, _, offset, nbytes in lane.unsent:
            if not nbytes:
                self._fail_for_room(call)
                continue
            frame = lane.end.view(offset, nbytes)
            if frame[REQUEST_ID] != call.request_id or frame[_HEAD] != _HEADS[kind]:
                if kind != PART:
                    lane.failed.append(call)
            elif nbytes > MESSAGE_NBYTES_MAX:
                self._refuse_large(lane, call, offset, nbytes)
            else:
                self._link.send(call.route, frame)
        lane.unsent.clear()

    def counters(self, container: int) -> LaneCounters | None:
        """What a lane's header counts; None where there is no such lane."""
        lane = self._lanes.get(container)
        return lane.end.counters() if lane is not None else None

    def numbers(self) -> list[int]:
        """The numbers of all calls that are here: in lanes, or with an answer that is not sent yet."""
        calls = [call for lane in self._lanes.values() for call, _ in lane.end.calls.values()]
        calls += [reply[0] for lane in self._lanes.values() for reply in lane.unsent]
        calls += [call for lane in self._lanes.values() for call in lane.failed]
        calls += [call for lost in self._lost.values() for call, _ in lost]
        return [int.from_bytes(call.route[NUMBER], "little") for call in calls]

    def sight(self, container: int) -> Sight | None:
        """What is seen from outside of how the worker serves this lane; None where there is no such lane."""
        lane = self._lanes.get(container)
        if lane is None or lane.unsent:  # it may have answered what is not taken now
            return None
        counts = lane.end.counters()
        moved = counts.calls_taken + counts.calls_done + counts.activity_us
        return Sight(lane.end.running_until, moved, lane.end.is_unheard(), bool(lane.end.calls))

    # Calls, on their way in.

    def call(self, route: bytes, frame: memoryview) -> bool:
        """Hot path. Copy a packed call into the lane of a ready container, to be seen after `flush`.

        Returns:
            False: it is no such call; nothing was done.
        Raises:
            InvalidInput, TooLarge: no proper header.
        """
        lane = self._ready.get(route[CONTAINER])
        kind, flags, _, _, handle, budget_us, _ = header = unpack_header(frame)
        if lane is None or kind is not _CALL or not flags & _PACKED:
            return False
        nbytes = len(frame)
        end = lane.end
        try:
            offset = end.claim(nbytes)
        except ShmError as exc:
            self.answer(route, header, self._translated(exc))
            return True
        end.write_view(offset, nbytes)[:] = frame
        call = Call(route, bytes(frame[REQUEST_ID]), handle, offset, nbytes)
        self._publish(lane, call, header, flags, budget_us)
        return True

    def call_split(self, route: bytes, header: Header, meta: Buffer, tensors: Sequence[Buffer]) -> bool:
        """Lay a call of several frames out in the packed form, in the lane of its container. False: it is not ready.

        Raises:
            TooLarge: it does not fit a message in that form.
        """
        lane = self._ready.get(route[CONTAINER])
        if lane is None:
            return False
        _, flags, count, request_id, handle, budget_us, meta_nbytes = header
        nbytes = packed_nbytes(meta_nbytes, [len(tensor) for tensor in tensors])
        check_message_nbytes(nbytes)  # with its padding: it may have to travel packed, should it be handed back
        try:
            offset = lane.end.claim(nbytes)
        except ShmError as exc:
            self.answer(route, header, self._translated(exc))
            return True
        view = lane.end.write_view(offset, nbytes)
        end = HEADER_NBYTES + meta_nbytes
        first = pack_header(_CALL, flags | _PACKED, count, request_id, handle, budget_us, meta_nbytes)
        view[:HEADER_NBYTES] = first
        view[HEADER_NBYTES:end] = meta
        for tensor in tensors:
            start = align(end)
            view[end:start] = _PAD[: start - end]
            end = start + len(tensor)
            view[start:end] = tensor
        self._publish(lane, Call(route, first[REQUEST_ID], handle, offset, nbytes), header, flags, budget_us)
        return True

    def _publish(self, lane: Lane, call: Call, header: Header, flags: int, budget_us: int) -> None:
        """Hot path."""
        _, _, _, offset, nbytes = call
        deadline_us = time.monotonic_ns() // 1000 + budget_us if budget_us else 0
        try:
            lane.last_call = lane.end.publish_call(
                call, offset, nbytes, flags=STREAM if flags & _STREAM else 0, deadline_us=deadline_us
            )
        except ShmError as exc:
            lane.end.abandon(offset)
            return self.answer(call.route, header, self._translated(exc))
        self._touched.add(lane)
        return None

    def cancel(self, route: bytes, header: Header) -> None:
        """Pass the wish on. The call still ends with one answer; one that has ended already is none of our business."""
        lane = self._lanes.get(int.from_bytes(route[CONTAINER], "little"))
        if lane is None:
            return
        request_id = header.request_id.to_bytes(8, "little")
        for call_id, (call, _) in lane.end.calls.items():
            if call.request_id == request_id and call.route == route:
                try:
                    lane.end.cancel(call_id)
                except ShmError:  # no room even for that: the call will end in its own time
                    return
                self._touched.add(lane)
                return

    def flush(self) -> None:
        """Hot path. Make the calls of a batch visible, with one ring of each lane's doorbell."""
        touched = self._touched
        while touched:
            lane = touched.pop()
            try:
                lane.end.flush()
            except ShmError as exc:
                self._break(lane, str(exc))

    def answer(self, route: bytes, header: Header, error: HuteroxError) -> None:
        """Refuse a message of the switchboard's."""
        self._fail(Call(route, header.request_id.to_bytes(8, "little"), header.handle), error)

    def refuse_malformed(self, route: bytes, first: Buffer, error: HuteroxError) -> None:
        """Refuse a message whose header may be no header: where it is too short to have a request id, nobody waits."""
        if len(first) >= HEADER_NBYTES:
            self._fail(Call(route, bytes(first[REQUEST_ID]), 0), error)

    def hand_back(self, route: bytes, frames: Sequence[Buffer]) -> None:
        """A call for a container that is not here, or not ready: the switchboard's to place anew."""
        self._link.send_frames(route, frames)

    def _fail(self, call: Call, error: HuteroxError) -> None:
        request_id = int.from_bytes(call.request_id, "little")
        self._link.send_frames(call.route, encode(Kind.ERROR, request_id, call.handle, 0, error_meta(error)))

    def _translated(self, exc: ShmError) -> HuteroxError:
        if isinstance(exc, LaneFull):
            return Busy(f"the container's lane is full: {exc}", retry_after_s=self._busy_retry_after_s)
        if isinstance(exc, LaneTooSmall):
            text = f"the call needs {exc.need} bytes; the container's lane carries at most {exc.limit}"
            return TooLarge(text, need=exc.need, limit=exc.limit)
        return WorkerLost(f"the container is ending: {exc}", executed="no")

    # Answers, on their way out.

    def _on_doorbell(self, lane: Lane) -> None:
        """Hot path. Take what is there and send it on."""
        try:
            replies = lane.end.take()
        except (LaneDead, PeerProtocolError) as exc:
            return self._break(lane, str(exc))
        for index, reply in enumerate(replies):
            if not self._answer(lane, reply):
                lane.unsent.extend(replies[index:])
                self._loop.remove_reader(lane.end.fileno())
                break
        if self._sending:
            self._settle()
        self._give_back(lane)
        return None

    def _answer(self, lane: Lane, reply: Reply) -> bool:
        """Hot path. Send one answer. False: the switchboard does not take it now."""
        call, _, kind, _, _, offset, nbytes = reply
        if not nbytes:
            self._fail_for_room(call)
            return True
        frame = lane.end.view(offset, nbytes)
        if frame[REQUEST_ID] != call.request_id or frame[_HEAD] != _HEADS[kind]:
            if kind != PART:
                lane.failed.append(call)
            self._break(lane, "it answered with what is no answer to this call")
            return True
        if nbytes >= UNCOPIED_NBYTES_MIN:
            if nbytes > MESSAGE_NBYTES_MAX:
                return self._refuse_large(lane, call, offset, nbytes)
            return self._answer_uncopied(lane, call.route, frame, offset, nbytes)
        if not self._link.send(call.route, frame):
            return False
        lane.released_nbytes += nbytes
        lane.end.release(offset)
        return True

    def _refuse_large(self, lane: Lane, call: Call, offset: int, nbytes: int) -> bool:
        """The worker should not have sent this. The socket's other end would hang up on all of the node."""
        limit = MESSAGE_NBYTES_MAX
        text = f"the container's answer has {nbytes} bytes; at most {limit} are carried"
        self._fail(call, TooLarge(text, need=nbytes, limit=limit, executed="yes"))
        lane.released_nbytes += nbytes
        lane.end.release(offset)
        return True

    def _fail_for_room(self, call: Call) -> None:
        self._fail(call, Busy("the container's lane had no room for the answer", executed="yes"))

    def _answer_uncopied(self, lane: Lane, route: bytes, frame: memoryview, offset: int, nbytes: int) -> bool:
        tracker = self._link.send_uncopied(route, frame)
        if tracker is None:
            return False
        self._sending.append((tracker, lane, offset, nbytes))
        self._tidy_soon(SENDING_LOOK_S)
        return True

    def resume(self) -> None:
        """The switchboard takes answers again."""
        for lane in [lane for lane in self._lanes.values() if lane.unsent]:
            while lane.unsent:
                reply = lane.unsent.popleft()
                if not self._answer(lane, reply):
                    lane.unsent.appendleft(reply)
                    return
            if lane.end.state != DEAD:
                self._loop.add_reader(lane.end.fileno(), self._on_doorbell, lane)
                self._give_back(lane)

    def _break(self, lane: Lane, reason: str) -> None:
        """The container cannot be worked with any more; its calls end when its process has."""
        self._loop.remove_reader(lane.end.fileno())
        lane.failed += [call for call, _, kind, _, _, _, _ in lane.unsent if kind != PART]
        lane.unsent.clear()
        lane.end.mark_dead()
        self._on_broken(lane.container, f"it broke its lane: {reason}")

    # Giving memory back.

    def _give_back(self, lane: Lane) -> None:
        """Hot path. Tell what was released: with the next call, but many or large blocks at once."""
        pending = lane.end.releases_pending
        if pending >= RELEASES_MAX or lane.released_nbytes >= RELEASES_NBYTES_MAX:
            self._tell_releases(lane)
        elif pending and self._tidy_timer is None:
            self._tidy_soon(TIDY_S)

    def _tell_releases(self, lane: Lane) -> None:
        lane.released_nbytes = 0
        try:
            lane.end.flush_releases()
        except ShmError:  # dead: its pidfd will tell
            return

    def _settle(self) -> None:
        """Release the blocks that the socket is done with."""
        still = []
        for item in self._sending:
            tracker, lane, offset, nbytes = item
            if not tracker.done:
                still.append(item)
                continue
            lane.end.release(offset)
            if lane.container in self._lanes:
                lane.released_nbytes += nbytes
                self._give_back(lane)
        self._sending = still

    def _tidy_soon(self, delay_s: float) -> None:
        if self._tidy_timer is not None:
            if self._tidy_timer.when() <= self._loop.time() + delay_s:
                return
            self._tidy_timer.cancel()
        self._tidy_timer = self._loop.call_later(delay_s, self._tidy)

    def _tidy(self) -> None:
        self._tidy_timer = None
        self._settle()
        for lane in self._lanes.values():
            if lane.end.releases_pending:
                self._tell_releases(lane)
        if self._sending:
            self._tidy_soon(SENDING_LOOK_S)

    def trim_idle(self) -> None:
        """Give back the memory of lanes that have had no call since this was last called."""
        for lane in self._lanes.values():
            if lane.end.calls or lane.unsent or lane.last_call == lane.trimmed_call:
                continue
            if lane.last_call == lane.seen_call:
                lane.end.trim()
                lane.trimmed_call = lane.last_call
            lane.seen_call = lane.last_call

    def close(self) -> None:
        """At the kernel's end."""
        if self._tidy_timer is not None:
            self._tidy_timer.cancel()
        for container in list(self._lanes):
            self.discard(container)
            self.fail_calls(container, "the kernel is ending")
