"""The caller's end of a lane: claims and publishes requests, takes replies. See `lane` for the whole."""

from time import monotonic_ns
from typing import NamedTuple, NoReturn, Self

from huterox_shm.end import Bell, End, Memory
from huterox_shm.errors import LaneDead, LaneDraining, LaneFull, PeerProtocolError
from huterox_shm.layout import (
    CALL,
    CALLER_ACTIVITY_US,
    CALLS_PUBLISHED,
    CALLS_TAKEN,
    CANCEL,
    DRAINING,
    ERROR,
    OPEN,
    PART,
    RELEASE,
    REPLY,
    REQUEST_RELEASED,
    STATE,
    STREAM,
    LaneLayout,
)
from huterox_shm.ring import CALL_HEADROOM, CONTROL_HEADROOM


class Reply(NamedTuple):
    """An answer or a part of one. `kind` is REPLY, ERROR (both final) or PART; nbytes 0 means that it has no block."""

    kind: int
    call_id: int
    offset: int
    nbytes: int
    request_released: bool


_FINAL = (REPLY, ERROR)
_new_tuple = tuple.__new__  # a NamedTuple's own constructor takes 240 ns, this 150


class CallerEnd(End):
    """Publishes requests, takes replies. One thread at a time, but for `release`."""

    __slots__ = ("_calls", "_calls_max")

    def __init__(self, memory: Memory, bell: Bell, peer_bell: Bell) -> None:
        """
        Args:
            bell: the reply doorbell, which this end reads.
            peer_bell: the request doorbell, which it rings.
        """
        super().__init__(memory, bell, peer_bell)
        self._calls: dict[int, int] = {}  # call id -> request block, in the order of publication
        self._calls_max = self._entries - CALL_HEADROOM

    @classmethod
    def attach(cls, descriptors: tuple[int, int, int]) -> Self:
        """Take over LaneDescriptors; they are closed if this fails.

        Raises:
            HandoverError, PeerProtocolError: this is not a lane.
        """
        memfd, request_doorbell, reply_doorbell = descriptors
        return cls._attach(memfd, reply_doorbell, request_doorbell)

    @staticmethod
    def _places(layout: LaneLayout) -> tuple[int, int, int, int, int, int]:
        return (
            layout.request_ring,
            layout.reply_ring,
            layout.request_half,
            layout.request_half_nbytes,
            layout.reply_half,
            layout.segment_nbytes,
        )

    def claim(self, nbytes: int) -> int:
        """Hot path. Offset of a fresh request block, on a 64-byte boundary.

        Raises:
            LaneFull: no block is free now.
            LaneTooSmall: none of this size can ever be.
            LaneDead: the lane is dead, closed, or (LaneDraining) takes no new calls.
        """
        if self._words[STATE] != OPEN:
            self._refuse()
        return self._claim(nbytes)

    def publish_call(
        self, call_id: int, offset: int, nbytes: int, *, deadline_us: int = 0, stream: bool = False
    ) -> None:
        """Hot path. Queue a call; the container sees it after `flush`. The block is the container's from then on.

        Args:
            call_id: not in use by another call in flight on this lane.
            deadline_us: on CLOCK_MONOTONIC, 0 for none.
            stream: the answer may come in parts.
        Raises:
            LaneFull: as many calls as the lane carries are in flight; the block is still claimed.
            ValueError: no claimed block begins at `offset`, or the id is in use.
        """
        claimed = self._claimed
        calls = self._calls
        if offset not in claimed or call_id in calls:
            raise ValueError(f"call {call_id}: its id is in flight, or no claimed block begins at {offset}")
        if len(calls) >= self._calls_max:
            raise LaneFull(f"{len(calls)} calls are in flight on this lane")
        self._producer.publish(CALL, STREAM if stream else 0, call_id, offset, nbytes, deadline_us, CALL_HEADROOM)
        self._lent[offset] = claimed.pop(offset)
        calls[call_id] = offset

    def publish_cancel(self, call_id: int) -> None:
        """Queue the wish that a call ends early. It still ends with one final reply; nothing is sent if that is here.

        Raises:
            LaneFull: no ring entry is free now.
        """
        if call_id in self._calls:
            self._producer.publish(CANCEL, 0, call_id, 0, 0, 0, CONTROL_HEADROOM)
            self._producer.control_count += 1

    def flush(self) -> None:
        """Hot path. Make all that is queued visible, with one ring of the doorbell. Nothing queued: nothing done.

        Raises:
            LaneDead: this end is closed.
            PeerProtocolError: the doorbell was tampered with.
        """
        producer = self._producer
        if producer.published == producer.flushed:
            return
        if self._pending:
            self._publish_releases()
        published = producer.published
        count = published - producer.flushed
        producer.flushed = published
        words = self._words
        words[CALLS_PUBLISHED] = published - producer.control_count
        words[CALLER_ACTIVITY_US] = monotonic_ns() // 1000
        try:
            self._ring_peer(count)
        except BlockingIOError as exc:
            raise self._stuffed() from exc

    def take(self) -> list[Reply]:
        """Hot path. All replies that are here; never waits. Released request blocks are free again afterwards.

        Raises:
            LaneDead: the lane is dead, and no reply is left to take.
            PeerProtocolError: the container wrote nonsense; the lane has been marked dead.
        """
        try:
            count = self._read_bell()
        except BlockingIOError:
            self._check_alive()
            return []
        if count > self._entries:
            count = self._odd_count(count)
            if not count:
                self._check_alive()
                return []
        replies: list[Reply] = []
        try:
            self._take(count, replies)
        except PeerProtocolError as exc:
            self._on_protocol_error(exc)
            if not replies:
                raise
            # The replies before the nonsense are good, and those calls are no longer in flight: the next take raises.
        return replies

    def _take(self, count: int, replies: list[Reply]) -> None:
        """Hot path. Copy, validate and apply the next `count` entries."""
        producer = self._producer
        lent = self._lent
        free = self._free
        calls = self._calls
        held = self._held
        low = self._peer_low
        high = self._peer_high
        acked_last = -1
        consumer = self._consumer
        for kind, flags, release_count, acked, call_id, offset, nbytes, deadline_us, r0, r1, r2 in consumer.take(count):
            if acked != acked_last:
                producer.on_acked(acked)
                acked_last = acked
            if kind == RELEASE:
                self._take_back(release_count, (call_id, offset, nbytes, deadline_us, r0, r1, r2))
                continue
            if release_count:
                if release_count == 1 and (order := lent.pop(r0, None)) is not None:
                    free[order].append(r0)
                else:
                    self._take_back(release_count, (r0, r1, r2))
            if nbytes:
                if offset & 63 or offset < low or offset + nbytes > high or offset in held:
                    self._bad_block(call_id, offset, nbytes)
                held.add(offset)
            elif offset:
                self._bad_block(call_id, offset, nbytes)
            if kind in _FINAL:
                request = calls.pop(call_id, None)
                if request is None:
                    self._bad_entry(kind, call_id)
                if released := flags & REQUEST_RELEASED != 0:
                    order = lent.pop(request, None)
                    if order is None:
                        self._bad_block(call_id, request, 0)
                    free[order].append(request)
                replies.append(_new_tuple(Reply, (kind, call_id, offset, nbytes, released)))
            elif kind == PART and call_id in calls:
                replies.append(_new_tuple(Reply, (kind, call_id, offset, nbytes, False)))
            else:
                self._bad_entry(kind, call_id)
        if consumer.consumed - consumer.acknowledged >= self._acknowledge_at:
            self._acknowledge()

    def release(self, offset: int) -> None:
        """A reply's block is no longer needed; the container learns it with the next flush. Any thread may call this,
        also from a finalizer and after `close`.

        Raises:
            ValueError: no reply block begins there, or it was released already.
        """
        self._release(offset)

    def in_flight(self) -> list[tuple[int, bool]]:
        """Calls without a final reply, oldest first: (call id, has the container taken it from the ring?).

        Raises:
            LaneDead: this end is closed. A dead lane still answers.
        """
        published = self._producer.published - self._producer.control_count
        left = max(published - self._words[CALLS_TAKEN], 0)
        first_left = len(self._calls) - left
        return [(call_id, index < first_left) for index, call_id in enumerate(self._calls)]

    def _refuse(self) -> NoReturn:
        if self.state == DRAINING:
            raise LaneDraining("the lane takes no new calls")
        raise LaneDead("the lane is dead")

    def _bad_block(self, call_id: int, offset: int, nbytes: int) -> NoReturn:
        raise PeerProtocolError(f"reply to call {call_id}: {nbytes} bytes at {offset} are no block of the container")

    def _bad_entry(self, kind: int, call_id: int) -> NoReturn:
        raise PeerProtocolError(f"an entry of kind {kind} for call {call_id}, which is not in flight")
