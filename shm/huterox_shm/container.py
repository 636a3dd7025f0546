"""The container's end of a lane: takes requests, publishes replies. See `lane` for the whole."""

from time import monotonic, monotonic_ns
from typing import NamedTuple, NoReturn, Self

from huterox_shm.end import Bell, End, Memory
from huterox_shm.errors import LaneFull, PeerProtocolError
from huterox_shm.layout import (
    BUSY_US,
    CALL,
    CALLS_DONE,
    CALLS_TAKEN,
    CANCEL,
    CONTAINER_ACTIVITY_US,
    CURRENT_CALL,
    DEAD,
    ERRORS,
    PART,
    READY,
    RELEASE,
    REQUEST_RELEASED,
    STATE,
    STREAM,
    LaneLayout,
)
from huterox_shm.ring import CALL_HEADROOM, PART_HEADROOM


class Request(NamedTuple):
    """One entry for the container. `kind` is CALL, or CANCEL (then only `call_id` means something)."""

    kind: int
    call_id: int
    offset: int
    nbytes: int
    deadline_us: int
    stream: bool


_new_tuple = tuple.__new__


class ContainerEnd(End):
    """Takes requests, publishes replies. One thread at a time, but for `release_request`."""

    __slots__ = ("_backlog", "_busy_us", "_calls_done", "_calls_max", "_calls_taken", "_cancelled", "_errors", "_open")

    def __init__(self, memory: Memory, bell: Bell, peer_bell: Bell) -> None:
        """
        Args:
            bell: the request doorbell, which this end reads.
            peer_bell: the reply doorbell, which it rings.
        """
        super().__init__(memory, bell, peer_bell)
        self._open: dict[int, int] = {}  # call id -> request block; taken and without a final reply
        self._cancelled: set[int] = set()
        self._backlog: list[Request] = []
        self._calls_max = self._entries - CALL_HEADROOM
        self._calls_taken = self._calls_done = self._errors = self._busy_us = 0

    @classmethod
    def attach(cls, descriptors: tuple[int, int, int]) -> Self:
        """Take over LaneDescriptors; they are closed if this fails.

        Raises:
            HandoverError, PeerProtocolError: this is not a lane.
        """
        memfd, request_doorbell, reply_doorbell = descriptors
        return cls._attach(memfd, request_doorbell, reply_doorbell)

    @staticmethod
    def _places(layout: LaneLayout) -> tuple[int, int, int, int, int, int]:
        return (
            layout.reply_ring,
            layout.request_ring,
            layout.reply_half,
            layout.reply_half_nbytes,
            layout.request_half,
            layout.reply_half,
        )

    def take(self) -> list[Request]:
        """Hot path. All requests that are here; never waits. Released reply blocks are free again afterwards.

        Raises:
            LaneDead: the lane is dead or closed; the caller does not wait for answers.
            PeerProtocolError: the caller wrote nonsense; the lane has been marked dead.
        """
        if self._backlog:
            return self._take_backlog()
        try:
            count = self._read_bell()
        except BlockingIOError:
            self._check_alive()
            return []
        if count > self._entries:
            self._check_alive()
            count = self._odd_count(count)
        try:
            return self._take(count)
        except PeerProtocolError as exc:
            self._on_protocol_error(exc)
            raise

    def _take_backlog(self) -> list[Request]:
        """What `wait_for_room` has taken, then what has come since."""
        requests, self._backlog = self._backlog, []
        return requests + self.take()

    def _take(self, count: int) -> list[Request]:
        """Hot path. Copy, validate and apply the next `count` entries."""
        requests: list[Request] = []
        producer = self._producer
        open_calls = self._open
        open_before = len(open_calls)
        held = self._held
        lent = self._lent
        free = self._free
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
            if kind == CALL:
                if offset & 63 or offset < low or offset + nbytes > high or offset in held or call_id in open_calls:
                    self._bad_call(call_id, offset, nbytes)
                held.add(offset)
                open_calls[call_id] = offset
                requests.append(_new_tuple(Request, (kind, call_id, offset, nbytes, deadline_us, flags & STREAM != 0)))
            elif kind == CANCEL:
                # Only the first for an open call: so a backlog stays as small as the calls in flight.
                if call_id in open_calls and call_id not in self._cancelled:
                    self._cancelled.add(call_id)
                    requests.append(Request(CANCEL, call_id, 0, 0, 0, False))
            else:
                raise PeerProtocolError(f"an entry of kind {kind} in the request ring")
        if len(open_calls) > self._calls_max:
            raise PeerProtocolError(f"{len(open_calls)} calls in flight; at most {self._calls_max} may be")
        self._calls_taken += len(open_calls) - open_before
        words = self._words
        words[CALLS_TAKEN] = self._calls_taken
        words[CONTAINER_ACTIVITY_US] = monotonic_ns() // 1000
        if consumer.consumed - consumer.acknowledged >= self._acknowledge_at:
            self._acknowledge()
        return requests

    def publish_reply(self, kind: int, call_id: int, offset: int, nbytes: int, *, request_released: bool) -> None:
        """Hot path. Queue an answer; the caller sees it after `flush`. The block is the caller's from then on.

        Args:
            kind: REPLY or ERROR, which end the call, or PART.
            offset, nbytes: a claimed block, or 0, 0: none.
            request_released: the request's bytes are no longer needed. With a final reply only; otherwise tell it
                later by `release_request`.
        Raises:
            LaneFull: the ring has no room for another PART now; the block is still claimed.
            ValueError: the call is not open, no claimed block begins there, or the request was released before.
            PeerProtocolError: no room for a final reply: the caller does not acknowledge. The lane is marked dead.
        """
        claimed = self._claimed
        open_calls = self._open
        request = open_calls.get(call_id)
        if request is None or (nbytes and offset not in claimed):
            raise ValueError(f"call {call_id} is not open, or no claimed block begins at {offset}")
        if kind == PART:
            self._publish_part(call_id, offset, nbytes, request_released)
        else:
            flags = 0
            if request_released:
                flags = REQUEST_RELEASED
                try:
                    self._held.remove(request)
                except KeyError:
                    raise ValueError(f"call {call_id}: its request was released before") from None
            try:
                self._producer.publish(kind, flags, call_id, offset, nbytes, 0, 0)
            except LaneFull as exc:
                raise self._unacknowledged() from exc
            del open_calls[call_id]
            if self._cancelled:
                self._cancelled.discard(call_id)
        if nbytes:
            self._lent[offset] = claimed.pop(offset)

    def _publish_part(self, call_id: int, offset: int, nbytes: int, request_released: bool) -> None:
        if request_released:
            raise ValueError(f"call {call_id}: a part cannot release the request")
        self._producer.publish(PART, 0, call_id, offset, nbytes, 0, PART_HEADROOM + len(self._open))

    def _unacknowledged(self) -> PeerProtocolError:
        error = PeerProtocolError("the caller does not acknowledge final replies")
        self._on_protocol_error(error)
        return error

    def release_request(self, offset: int) -> None:
        """A request's bytes are no longer needed; the caller learns it with the next flush. Any thread may call this,
        also from a finalizer and after `close`.

        Raises:
            ValueError: no request block that this end still has begins there.
        """
        self._release(offset)

    def claim(self, nbytes: int) -> int:
        """Hot path. Offset of a fresh reply block, on a 64-byte boundary.

        Raises:
            LaneFull: no block is free now. See `wait_for_room`.
            LaneTooSmall: none of this size can ever be.
            LaneDead: the lane is dead or closed.
        """
        if self._words[STATE] == DEAD:
            self._check_alive()
        return self._claim(nbytes)

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
        try:
            self._ring_peer(count)
        except BlockingIOError as exc:
            raise self._stuffed() from exc

    def wait_for_room(self, timeout_s: float) -> bool:
        """Tell what is queued, then wait until the caller has released or acknowledged something.

        Requests that come meanwhile are kept for the next `take`, and the doorbell stays readable for them.

        Returns:
            False if the time was over first. True does not promise that there is enough room.
        Raises:
            LaneDead, PeerProtocolError: as `take`.
        """
        self.flush()
        end_s = monotonic() + timeout_s
        producer = self._producer
        lent_count, acked = len(self._lent), producer.acked
        more = False
        while not more and self.wait(end_s - monotonic()):
            self._backlog = self.take()
            more = len(self._lent) < lent_count or producer.acked > acked
        if self._backlog:
            self._bell.wake()
        return more

    def begin(self, call_id: int) -> None:
        """Hot path. The model starts on this call. Should the process die, the kernel reads which one it was."""
        self._words[CURRENT_CALL] = call_id

    def end(self, call_id: int, busy_us: int, error: bool) -> None:
        """Hot path. The model has ended the call after `busy_us`."""
        words = self._words
        self._calls_done = words[CALLS_DONE] = self._calls_done + 1
        self._busy_us = words[BUSY_US] = self._busy_us + busy_us
        words[CURRENT_CALL] = 0
        if error:
            self._errors = words[ERRORS] = self._errors + 1

    def set_ready(self, ready: bool = True) -> None:
        """Show in the header whether this container serves the lane."""
        self._words[READY] = int(ready)

    def _finals_due(self) -> int:
        return len(self._open)

    def _bad_call(self, call_id: int, offset: int, nbytes: int) -> NoReturn:
        raise PeerProtocolError(
            f"call {call_id}: {nbytes} bytes at {offset} are no block of the caller, or its id is open"
        )
