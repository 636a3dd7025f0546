"""The container's end of a lane: takes requests, publishes replies. See `lane` for the whole."""

import ctypes
from collections import deque
from time import monotonic, monotonic_ns
from typing import Any, NoReturn, Self

from huterox_shm.end import Bell, End, Memory
from huterox_shm.errors import LaneFull, PeerProtocolError
from huterox_shm.layout import (
    ACTIVITY_US,
    BUSY_US,
    CALL,
    CALLS_DONE,
    CALLS_TAKEN,
    CANCEL,
    COUNTERS,
    DEAD,
    DEFINES,
    ERRORS,
    PART,
    PINNED,
    RELEASE,
    REPLIES_TOLD,
    REQUESTS_TOLD,
    STATE,
    LaneLayout,
)
from huterox_shm.ring import PART_HEADROOM, calls_max

Request = tuple[int, int, int, int, int, int, int]
"""One entry for the container: (kind, flags, call_id, offset, nbytes, signature, deadline_us).

`kind` is CALL, or CANCEL (then only `call_id` means something). nbytes 0: it has no block.
"""


class ContainerEnd(End):
    """Takes requests, publishes replies. One thread at a time, but for `release_request`.

    Every request that was taken is answered with one final reply; `open_count` have none yet. `took_calls_only` says
    of the last `take` that it had neither cancellations nor definitions. `header` is the lane's first page as words:
    before anything of a call runs, its id goes to `header[BEGUN]`, and its deadline to `counts[RUNNING_UNTIL]`.
    """

    __slots__ = (
        "counts",
        "header",
        "open_count",
        "took_calls_only",
        "_backlog",
        "_busy_us",
        "_calls_done",
        "_calls_max",
        "_calls_taken",
        "_definitions",
        "_errors",
        "_late",
        "_publish",
    )

    def __init__(self, memory: Memory, bell: Bell, peer_bell: Bell, counters: Any = None) -> None:
        """
        Args:
            bell: the request doorbell, which this end reads.
            peer_bell: the reply doorbell, which it rings.
            counters: u64 words to count in, where the caller must not write them; None: in the lane's header.
        """
        super().__init__(memory, bell, peer_bell)
        self._told_at = REQUESTS_TOLD
        self.header = self._words
        self.open_count = 0
        self.took_calls_only = True
        self._backlog: list[Request] = []
        self._late: deque[tuple[int, ...]] = deque()  # final answers that found no place in the ring
        self._calls_max = calls_max(self._entries)
        self._calls_taken = self._definitions = self._calls_done = self._errors = self._busy_us = 0
        self.counts = self._words[COUNTERS] if counters is None else counters
        self._publish: Any = self._producer.publish

    @classmethod
    def attach(cls, descriptors: tuple[int, int, int], counters: Any = None) -> Self:
        """Take over LaneDescriptors; they are closed if this fails.

        Raises:
            HandoverError, PeerProtocolError: this is not a lane.
        """
        memfd, request_doorbell, reply_doorbell = descriptors
        return cls._attach(memfd, request_doorbell, reply_doorbell, counters)

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

    def hide_from_children(self) -> None:
        """Take header and rings out of the memory of whatever this process forks from now on, by whatever way. A child
        that touches them is ended by a signal. It keeps the blocks, so it can read the inputs that it inherited."""
        self._memory.hide_from_children(0, self._layout.rings_end)

    # --- requests ---------------------------------------------------------------------------------------------------

    def take(self) -> list[Request]:
        """Hot path. All requests that are here; never waits. Released reply blocks are free again afterwards.

        Raises:
            LaneDead: the lane is dead or closed; the caller does not wait for answers.
            PeerProtocolError: the caller wrote nonsense; the lane has been marked dead.
        """
        if self._backlog:
            return self._take_backlog()
        self.took_calls_only = True
        self._seen = self._words[REQUESTS_TOLD]
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
        requests += self.take()
        self.took_calls_only = False
        return requests

    def _take(self, count: int) -> list[Request]:
        """Hot path. Copy, validate and apply the next `count` entries."""
        requests: list[Request] = []
        append = requests.append
        producer = self._producer
        out, free = self.out, self.free
        low, high = self._peer_low, self._peer_high
        taken = self._calls_taken  # ids are consecutive: the last one taken
        acked_last = -1
        consumer = self._consumer
        for kind, flags, released, acked, call_id, offset, nbytes, signature, at_us, r0, r1, r2 in consumer.take(count):
            if acked != acked_last:
                producer.on_acked(acked)
                acked_last = acked
            if kind == CALL:
                if released:
                    if released == 1 and (order := out.pop(r0, None)) is not None:
                        free[order].append(r0)
                    else:
                        self._on_released(released, (r0, r1, r2))
                taken += 1
                if (offset & 63 or offset < low or offset + nbytes > high or call_id != taken) and (
                    offset or nbytes or call_id != taken
                ):
                    self._bad_call(call_id, offset, nbytes)
                if flags & DEFINES:
                    self.took_calls_only = False
                    self._definitions += 1
                append((CALL, flags, call_id, offset, nbytes, signature, at_us))
            elif kind == RELEASE:
                self._on_released(released, (call_id, offset, at_us, r0, r1, r2))
            elif kind == CANCEL:
                self._on_released(released, (r0, r1, r2))
                self.took_calls_only = False
                append((CANCEL, 0, call_id, 0, 0, 0, 0))
            else:
                raise PeerProtocolError(f"an entry of kind {kind} in the request ring")
        self.open_count = open_count = self.open_count + taken - self._calls_taken
        if open_count > self._calls_max:
            raise PeerProtocolError(f"{open_count} calls in flight; at most {self._calls_max} may be")
        self._calls_taken = taken
        self.counts[CALLS_TAKEN] = taken - self._definitions
        if self._late:
            self._publish_late()
        if consumer.consumed - consumer.acknowledged >= self._acknowledge_at:
            self._acknowledge()
        return requests

    def _on_released(self, count: int, offsets: tuple[int, ...]) -> None:
        """The caller needs the first `count` of these reply blocks no longer."""
        self._check_release_count(count, len(offsets))
        out, free = self.out, self.free
        for offset in offsets[:count]:
            order = out.pop(offset, None)
            if order is None:
                raise PeerProtocolError(f"the caller releases a block that it does not have, at {offset}")
            free[order].append(offset)

    def check_block(self, offset: int, nbytes: int) -> None:
        """Raise PeerProtocolError, and mark the lane dead, unless this span lies in the caller's half, aligned."""
        if offset & 63 or offset < self._peer_low or offset + nbytes > self._peer_high:
            self.refuse(f"{nbytes} bytes at {offset} are no block of the caller")

    def refuse(self, reason: str) -> NoReturn:
        """The caller wrote what no honest caller writes: mark the lane dead and raise PeerProtocolError."""
        error = PeerProtocolError(reason)
        self._on_protocol_error(error)
        raise error

    def release_request(self, call_id: int) -> None:
        """A request that was kept beyond its final reply is no longer needed; the caller learns it with the next
        flush. Once for each. Any thread may call this, also from a finalizer and after `close`."""
        self._pending.append(call_id)

    # --- answers ----------------------------------------------------------------------------------------------------

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

    def publish_reply(self, kind: int, flags: int, call_id: int, offset: int, nbytes: int, signature: int = 0) -> None:
        """Hot path. Queue a final answer; the caller sees it after `flush`. The block is the caller's from then on.

        Args:
            kind: REPLY or ERROR.
            flags: REQUEST_RELEASED where the request's bytes are no longer needed (otherwise tell it later by
                `release_request`), DEFINES.
            offset, nbytes: a claimed block, or 0, 0: none.
        """
        try:
            self._publish(kind, flags, call_id, offset, nbytes, signature, 0, 0)
        except LaneFull:  # parts came first, then calls: it waits until the caller has taken some, and stays open
            self._late.append((kind, flags, call_id, offset, nbytes, signature, 0, 0))
            return
        self.open_count -= 1

    def publish_part(self, flags: int, call_id: int, offset: int, nbytes: int, signature: int = 0) -> None:
        """Queue a part of an answer.

        Raises:
            LaneFull: the ring has no room for another part now; the block is still claimed.
        """
        self._publish(PART, flags, call_id, offset, nbytes, signature, 0, PART_HEADROOM + self.open_count)

    def _publish_late(self) -> None:
        """Publish those final replies that find a place now, and make them visible. As many may wait as calls may be
        in flight: a caller that never takes its answers cannot have more calls."""
        late = self._late
        try:
            while late:
                self._publish(*late[0])
                late.popleft()
                self.open_count -= 1
        except LaneFull:
            pass
        self.flush()

    def flush(self) -> None:
        """Hot path. Make all that is queued visible, with one ring of the doorbell. Nothing queued: nothing done.

        Raises:
            LaneDead: this end is closed.
            PeerProtocolError: the doorbell was tampered with.
        """
        producer = self._producer
        published = producer.published
        if published == producer.flushed:
            return
        if self._pending:
            self._publish_releases()
            published = producer.published
        count = published - producer.flushed
        producer.flushed = published
        counters = self.counts  # first: who has seen an answer finds it counted
        counters[CALLS_DONE] = self._calls_done
        counters[BUSY_US] = self._busy_us
        counters[ACTIVITY_US] = monotonic_ns() // 1000
        try:
            self._ring_peer(count)
        except BlockingIOError as exc:
            raise self._stuffed() from exc
        self._words[REPLIES_TOLD] = published

    def wait_for_room(self, timeout_s: float) -> bool:
        """Tell what is queued, then wait until the caller has released or acknowledged something.

        Requests that come meanwhile are kept for the next `take`, and the doorbell stays readable for them. They are
        no more than the calls that may be in flight, and a cancellation of each.

        Returns:
            False if the time was over first. True does not promise that there is enough room.
        Raises:
            LaneDead, PeerProtocolError: as `take`.
        """
        self.flush()
        end_s = monotonic() + timeout_s
        producer = self._producer
        out_count, acked = len(self.out), producer.acked
        more, left_s = False, timeout_s
        while self.wait(left_s):
            self._backlog = self.take()
            if len(self._backlog) > self._entries:
                self.refuse("more requests than calls in flight and their cancellations")
            more = len(self.out) < out_count or producer.acked > acked
            left_s = end_s - monotonic()
            if more or left_s <= 0:  # the time is over also for a caller that rings without end
                break
        if self._backlog:
            self._bell.wake()
        return more

    # --- what is counted --------------------------------------------------------------------------------------------

    def count(self, calls: int, busy_us: int) -> None:
        """Hot path. Calls have been worked off, in `busy_us`. Shown from the next `flush` on, with their answers."""
        self._calls_done += calls
        self._busy_us += busy_us

    def count_error(self) -> None:
        """The call has ended in an error."""
        self._errors = self.counts[ERRORS] = self._errors + 1

    def reserve_all(self) -> None:
        """Give pages to the whole lane. Raises LaneFull: the system has not so many."""
        self._memory.reserve(0, self._memory.nbytes)

    @property
    def address(self) -> int:
        """Where the segment begins in this process."""
        return ctypes.addressof(ctypes.c_char.from_buffer(self.writable))

    def set_pinned(self) -> None:
        """No page of this lane goes back to the system from now on, at either end."""
        self._words[PINNED] = 1

    def close(self) -> None:
        super().close()
        self._publish = self.counts = self.header = self._ring_peer

    def _finals_due(self) -> int:
        return self.open_count

    def _no_block(self, offset: int, nbytes: int) -> NoReturn:
        # What is not yet published is out as well: only a caller that lies releases it.
        self.refuse(f"no block of {nbytes} bytes that is out begins at {offset}: the caller has released it unseen")

    def _bad_call(self, call_id: int, offset: int, nbytes: int) -> NoReturn:
        raise PeerProtocolError(
            f"call {call_id} after {self._calls_taken}: {nbytes} bytes at {offset}; ids are consecutive, and blocks the"
            " caller's"
        )
