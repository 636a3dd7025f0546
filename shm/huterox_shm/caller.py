"""The caller's end of a lane: claims and publishes requests, takes replies. See `lane` for the whole."""

from collections import Counter
from typing import Any, Final, NoReturn, Self

from huterox_shm.doorbell import COUNT_MASK
from huterox_shm.end import Bell, End, Memory
from huterox_shm.errors import LaneDead, LaneDraining, LaneFull, PeerProtocolError
from huterox_shm.layout import (
    BEGUN,
    CALL,
    CANCEL,
    COUNTERS,
    DRAINING,
    ERROR,
    OPEN,
    PART,
    RELEASE,
    REPLIES_TOLD,
    REPLY,
    REQUEST_RELEASED,
    REQUESTS_TOLD,
    RUNNING_UNTIL,
    STATE,
    LaneCounters,
    LaneLayout,
    read_counters,
)
from huterox_shm.ring import CALL_HEADROOM, CONTROL_HEADROOM, calls_max

Reply = tuple[Any, int, int, int, int, int, int]
"""An answer or a part of one: (call, call_id, kind, flags, signature, offset, nbytes).

`call` is what `publish_call` was given. `kind` is REPLY, ERROR (both final) or PART; nbytes 0: it has no block.
"""

Blocks = int | tuple[int, ...]

_FINAL: Final = (REPLY, ERROR)


class CallerEnd(End):
    """Publishes requests, takes replies. One thread at a time, but for `release` and `disown`.

    `calls` holds the calls without a final reply, in the order of their ids: id -> (call, its blocks). `header` is the
    lane's first page as words; slices of `buffer`, the whole segment, are copies. `replies` are those that `gather` has
    brought and nobody has removed, by their number.

    A thread of the caller's may be interrupted by an exception between any two steps. So every step that others see is
    one assignment, what has happened is noted where that does not tell, and `mend` goes on from there.
    """

    __slots__ = (
        "buffer",
        "calls",
        "header",
        "replies",
        "_applied",
        "_call_at",
        "_calls_max",
        "_counts",
        "_disowned",
        "_flush_to",
        "_kept",
        "_last_id",
        "_mended",
        "_owned",
        "_owners",
        "_publish",
        "_released_early",
        "_rung",
        "_told",
        "_told_before",
        "_word",
    )

    def __init__(self, memory: Memory, bell: Bell, peer_bell: Bell) -> None:
        """
        Args:
            bell: the reply doorbell, which this end reads.
            peer_bell: the request doorbell, which it rings.
        """
        super().__init__(memory, bell, peer_bell)
        self._told_at = REPLIES_TOLD
        self.buffer = memory.buffer
        self.header = self._words
        self._publish: Any = self._producer.publish
        self.calls: dict[int, tuple[Any, Blocks]] = {}
        self._kept: dict[int, Blocks] = {}  # of calls that have ended, and whose request the container still reads
        self._released_early: set[int] = set()  # of calls in flight, whose final reply is still on its way
        self._owned: dict[int, int] = {}  # blocks that outlive their calls -> how many reasons to keep each
        self._owners: set[int] = set()  # those of them that somebody owns
        self._disowned: list[int] = []
        self._last_id = 0
        self._call_at = 0  # how many entries were published before the last call
        self._counts = [0]
        self._rung: list[None] = []  # not empty: the doorbell was rung for what `_flush_to` says
        self._flush_to = 0
        self._word = bell.word
        self._told = self._told_before = 0  # entries that the doorbell has told of, now and before it was read last
        self._applied = 0  # of these
        self._mended = -1  # the entry that may have been applied in part
        self.replies: dict[int, Reply] = {}
        self._calls_max = calls_max(self._entries)

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

    # --- blocks -----------------------------------------------------------------------------------------------------

    def claim(self, nbytes: int) -> int:
        """Hot path. Offset of a fresh request block, on a 64-byte boundary.

        Raises:
            LaneFull: no block is free now.
            LaneTooSmall: none of this size can ever be.
            LaneDead: the lane is dead, closed, or (LaneDraining) takes no new calls.
        """
        if self._words[STATE] != OPEN:
            self._refuse()
        if self._disowned:
            self._tend()
        return self._claim(nbytes)

    def own(self, offset: int) -> None:
        """Keep a claimed block beyond the calls that use it, until `disown`."""
        self._owned[offset] = 1
        self._owners.add(offset)

    def disown(self, offset: int) -> None:
        """An owned block goes as soon as no call uses it. Once for each. Any thread may call this, also from a
        finalizer and after `close`."""
        self._disowned.append(offset)

    def is_owned(self, offset: int) -> bool:
        """Whether this block outlives its calls."""
        return offset in self._owned

    @property
    def owned(self) -> list[int]:
        """The blocks that have not been disowned yet, as far as `claim` and `take` know."""
        return list(self._owners)

    @property
    def owned_count(self) -> int:
        """How many blocks are owned."""
        return len(self._owned)

    def trim(self) -> int:
        if self._disowned:
            self._tend()
        return super().trim()

    def _tend(self) -> None:
        disowned = self._disowned
        while disowned:
            offset = disowned[0]
            self._owners.discard(offset)
            self._let_go(offset)
            del disowned[0]  # from the front: others append meanwhile

    def _let_go(self, offset: int) -> None:
        """One reason less to keep a block."""
        reasons = self._owned.get(offset, 1) - 1
        if reasons:
            self._owned[offset] = reasons
        else:
            self._owned.pop(offset, None)
            self.free[self.out.pop(offset)].append(offset)

    def _free_blocks(self, blocks: Blocks) -> None:
        for offset in (blocks,) if isinstance(blocks, int) else blocks:
            self._let_go(offset)

    # --- calls ------------------------------------------------------------------------------------------------------

    def publish_call(
        self,
        call: Any,
        offset: int,
        nbytes: int,
        signature: int = 0,
        flags: int = 0,
        deadline_us: int = 0,
        blocks: tuple[int, ...] | None = None,
    ) -> int:
        """Hot path. Queue a call; the container sees it after `flush`, or after a `take` that acknowledges. Returns its
        id: one more than the last.

        Args:
            call: what comes back with the answers.
            offset, nbytes: a claimed block; 0, 0: none.
            flags: STREAM, DEFINES, INDIRECT.
            deadline_us: on CLOCK_MONOTONIC, 0 for none.
            blocks: all blocks that the container reads; None: just the one at `offset`. They are the container's from
                `flush` on, and free again once it has released them; owned ones are free when they are disowned too.
        Raises:
            LaneFull: as many calls as the lane carries are in flight; the blocks are still claimed.
        """
        calls = self.calls
        if len(calls) >= self._calls_max:
            raise LaneFull(f"{len(calls)} calls are in flight on this lane")
        call_id = self._last_id + 1
        self._call_at = self._producer.published
        held: Blocks = blocks if blocks is not None else offset if nbytes else ()
        calls[call_id] = (call, held)
        try:
            self._publish(CALL, flags, call_id, offset, nbytes, signature, deadline_us, CALL_HEADROOM)
        except LaneFull:
            del calls[call_id]
            raise
        self._last_id = call_id
        if owned := self._owned:
            for block in (held,) if isinstance(held, int) else held:
                if block in owned:
                    owned[block] += 1
        return call_id

    def publish_block(self, call: Any, offset: int, nbytes: int, signature: int, deadline_us: int) -> int:
        """Hot path. `publish_call` of one fresh block, which nobody owns. Raises LaneFull: it is still claimed."""
        calls = self.calls
        if len(calls) >= self._calls_max:
            raise LaneFull(f"{len(calls)} calls are in flight on this lane")
        call_id = self._last_id + 1
        self._call_at = self._producer.published
        calls[call_id] = (call, offset)
        try:
            self._publish(CALL, 0, call_id, offset, nbytes, signature, deadline_us, CALL_HEADROOM)
        except LaneFull:
            del calls[call_id]
            raise
        self._last_id = call_id
        return call_id

    def cancel(self, call_id: int) -> None:
        """Queue the wish that a call ends early, once for each. It still ends with one final reply; nothing is sent if
        that is here.

        Raises:
            LaneFull: no ring entry is free now.
        """
        if call_id in self.calls:
            self._producer.publish(CANCEL, 0, call_id, 0, 0, 0, 0, CONTROL_HEADROOM)

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
        self._flush_to = published
        counts, rung = self._counts, self._rung
        counts[0] = published - producer.flushed
        try:
            rung.extend(map(self._ring_peer, counts))  # rings, and notes that, with nothing in between
        except BlockingIOError as exc:
            raise self._stuffed() from exc
        producer.flushed = published
        rung.clear()
        self._words[REQUESTS_TOLD] = published

    # --- answers ----------------------------------------------------------------------------------------------------

    def take(self) -> list[Reply]:
        """Hot path. All replies that are here; never waits. Released request blocks are free again afterwards.

        Raises:
            LaneDead: the lane is dead, and no reply is left to take.
            PeerProtocolError: the container wrote nonsense; the lane has been marked dead.
        """
        self.gather()
        replies = list(self.replies.values())
        self.replies.clear()
        return replies

    def gather(self) -> None:
        """Hot path. Bring all replies that are here into `replies`; never waits. Raises as `take` does."""
        self._seen = self._words[REPLIES_TOLD]
        told = self._told_before = self._told
        try:
            count = self._read_bell()
        except BlockingIOError:
            self._check_alive()
            return
        if count > self._entries:
            count = self._odd_count(count)
            if not count:
                self._word[0] = 0
                self._check_alive()
                return
        self._told = told + count
        self._word[0] = 0
        self._apply_told()

    def _apply_told(self) -> None:
        """Hot path."""
        try:
            self._apply()
        except PeerProtocolError as exc:
            self._on_protocol_error(exc)
            if not self.replies:
                raise
            # The replies before the nonsense are good, and those calls are no longer in flight: the next take raises.

    def _apply(self) -> None:
        """Hot path. Copy, validate and apply the entries that the doorbell has told of, one after another."""
        producer = self._producer
        out, free, calls, owned = self.out, self.free, self.calls, self._owned
        low, high = self._peer_low, self._peer_high
        replies = self.replies
        applied = self._applied
        acked_last = -1
        consumer = self._consumer
        for kind, flags, released, acked, call_id, offset, nbytes, signature, r3, r0, r1, r2 in consumer.take(
            self._told - applied
        ):
            if acked != acked_last:
                producer.on_acked(acked)
                acked_last = acked
            if kind == RELEASE:
                self._on_released(released, (call_id, offset, r3, r0, r1, r2))
                self._applied = applied = applied + 1
                continue
            if released:
                self._on_released(released, (r0, r1, r2))
            if nbytes:
                if offset & 63 or offset < low or offset + nbytes > high:
                    self._bad_block(call_id, offset, nbytes)
            elif offset:
                self._bad_block(call_id, offset, nbytes)
            if (known := calls.get(call_id)) is None:
                if kind not in _FINAL or applied != self._mended:
                    self._bad_entry(kind, call_id)
                self._released_early.discard(call_id)
                self._applied = applied = applied + 1
                continue
            call, blocks = known
            replies[applied] = (call, call_id, kind, flags, signature, offset, nbytes)
            if kind in _FINAL:
                if flags & REQUEST_RELEASED:
                    del calls[call_id]
                    if type(blocks) is int and not owned:
                        free[out.pop(blocks)].append(blocks)
                    else:
                        self._free_blocks(blocks)
                elif call_id in self._released_early:
                    del calls[call_id]
                    self._released_early.discard(call_id)
                    self._free_blocks(blocks)
                else:
                    self._kept[call_id] = blocks
                    del calls[call_id]
            elif kind != PART:
                del replies[applied]
                self._bad_entry(kind, call_id)
            self._applied = applied = applied + 1
        if consumer.consumed - consumer.acknowledged >= self._acknowledge_at:
            self._acknowledge()
        if self._disowned:
            self._tend()

    def _on_released(self, count: int, call_ids: tuple[int, ...]) -> None:
        """The container needs the requests of the first `count` of these calls no longer.

        That may be told before the call's final reply is, by any thread or where the reply had to wait for a place.
        """
        self._check_release_count(count, len(call_ids))
        early = self._released_early
        for call_id in call_ids[:count]:
            blocks = self._kept.pop(call_id, None)
            if blocks is not None:
                self._free_blocks(blocks)
            elif call_id in self.calls and call_id not in early and len(early) < self._calls_max:
                early.add(call_id)
            elif self._applied != self._mended:
                raise PeerProtocolError(f"the container releases a request that it does not have: call {call_id}")

    def release(self, offset: int) -> None:
        """Hot path. A reply's block is no longer needed; the container learns it with the next flush. Once for each
        reply that has a block. Any thread may call this, also from a finalizer and after `close`."""
        self._pending.append(offset)

    def is_released(self, offset: int) -> bool:
        """Whether a reply's block waits for the container to be told of its release."""
        return offset in self._pending

    # --- after an exception -----------------------------------------------------------------------------------------

    def mend(self) -> None:
        """Set right whatever an exception has left half done, wherever it came. What was told and not yet taken is in
        `replies` afterwards; a call that was being published either is in `calls` or never was.

        Raises:
            PeerProtocolError: as `gather`.
        """
        if self._closed:
            return
        producer = self._producer
        producer.mend()
        if self._rung:
            producer.flushed = self._flush_to
            self._rung.clear()
        call_id = self._last_id + 1
        if call_id in self.calls:
            if producer.published > self._call_at:
                self._last_id = call_id
            else:
                del self.calls[call_id]
        if self._word[0]:
            self._told = self._told_before + (self._word[0] & COUNT_MASK)
            self._word[0] = 0
        self._bell.wake()  # whatever it said about the lane's state is found anew
        self._consumer.consumed = self._mended = self._applied
        self._sweep()  # what is applied now finds blocks and reasons as they should be
        try:
            self._apply_told()
        finally:
            self._mended = -1
            self._sweep()

    def _sweep(self) -> None:
        """Blocks that nobody uses are free."""
        while self._disowned:
            self._owners.discard(self._disowned[0])
            del self._disowned[0]
        reasons = Counter(self._owners)
        for blocks in [*(blocks for _, blocks in self.calls.values()), *self._kept.values()]:
            reasons.update((blocks,) if isinstance(blocks, int) else blocks)
        self._owned = {offset: count for offset, count in reasons.items() if count > 1 or offset in self._owners}
        self._slab.mend(reasons)

    def close(self) -> None:
        super().close()
        self._publish = self.header = self.buffer = self._ring_peer

    @property
    def begun(self) -> int:
        """The highest id of a call that the container has begun. Final once the container is dead or has drained.

        Raises:
            LaneDead: this end is closed. A dead lane still answers.
        """
        begun: int = self._words[BEGUN]
        return begun

    def counters(self) -> LaneCounters:
        """What the container counts in the header, now; for a lane that counts elsewhere (see `ledger`), zeros."""
        return read_counters(self._words[COUNTERS])

    @property
    def running_until(self) -> int:
        """The deadline of the call that runs, as `counters` (see `layout.RUNNING_UNTIL`)."""
        return int(self._words[COUNTERS.start + RUNNING_UNTIL])

    def is_unheard(self) -> bool:
        """Has the container not looked since the doorbell was rung last?"""
        return self._peer_bell.is_rung()

    def _refuse(self) -> NoReturn:
        if self.state == DRAINING:
            raise LaneDraining("the lane takes no new calls")
        raise LaneDead("the lane is dead")

    def _bad_block(self, call_id: int, offset: int, nbytes: int) -> NoReturn:
        raise PeerProtocolError(f"reply to call {call_id}: {nbytes} bytes at {offset} are no block of the container")

    def _bad_entry(self, kind: int, call_id: int) -> NoReturn:
        raise PeerProtocolError(f"an entry of kind {kind} for call {call_id}, which is not in flight")
