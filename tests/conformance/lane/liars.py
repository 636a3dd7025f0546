"""Peers that lie, at random from a seed, and honest ends that use a lane as their owners do and look at what they get.

A liar knows all that its victim knows. Mostly it writes entries that are nearly right, as nonsense from the start is
found out at once; and at times it writes over anything that is mapped: rings, header, blocks, also those of its victim.
"""

import contextlib

from tests.conformance.lane.lanes import CALLS_MAX, ENTRIES, begin, is_block, publish

from huterox_shm.errors import LaneDead, LaneFull, PeerProtocolError
from huterox_shm.lane import CALL, CANCEL, DEAD, DRAINING, ERROR, OPEN, PART, REPLY, REQUEST_RELEASED
from huterox_shm.layout import (
    ACKED_MASK,
    BEGUN,
    COUNTERS,
    ENTRY,
    ENTRY_NBYTES,
    PAGE_NBYTES,
    PINNED,
    RELEASE,
    REPLIES_TOLD,
    REQUESTS_TOLD,
    STATE,
)

OVER = (PeerProtocolError, LaneDead)
WIDTHS = (8, 8, 16, 32, 64, 64, 32, 32, 64, 64, 64, 64)
"""Bits of the fields of an entry."""
NBYTES_MAX = 3000


class Liar:
    """Writes into the lane as the peer of `victim` would, and as no peer would."""

    def __init__(self, lane, victim, bell, ring, half, rng):
        """
        Args:
            bell: which the victim reads.
            ring: where the victim reads entries.
            half: (offset, end) of the half that is the liar's.
        """
        self.lane, self.victim, self.bell, self.ring, self.half, self.rng = lane, victim, bell, ring, half, rng
        self.told = 0
        self.last_acked = 0
        self.seen_releases = set()  # told, and not yet taken by the victim
        self.wildness = rng.choice([0.0, 0.0, 0.02, 0.1, 1.0])
        self.boldness = rng.choice([0.0, 0.0, 0.001, 0.02, 0.3])

    def act(self):
        if self.rng.random() < self.wildness:
            self.rng.choice([self.scribble, self.scribble, self.rewrite_header, self.ring_oddly, self.steal])()
        else:
            self.publish(self.rng.choice([1, 1, 1, 2, 5, 40]))

    def publish(self, count):
        consumer = self.victim._consumer
        if consumer.consumed >= self.told:
            self.seen_releases.clear()
        if self.rng.random() >= self.boldness:
            count = min(count, ENTRIES - (self.told - consumer.acknowledged))
        if count <= 0:
            return
        for _ in range(count):
            fields = list(self.entry())
            while self.rng.random() < self.boldness:
                index = self.rng.randrange(len(fields))
                fields[index] = self.odd_number() & ((1 << WIDTHS[index]) - 1)
            at = self.ring + self.told % ENTRIES * ENTRY_NBYTES
            ENTRY.pack_into(self.lane.memory, at, *fields)
            self.told += 1
        self.tell(count)

    def acked(self):
        """What it admits to have taken: never less than before, often all."""
        flushed = self.victim._producer.flushed
        self.last_acked = self.rng.choice([self.last_acked, flushed, self.rng.randint(self.last_acked, flushed)])
        return self.last_acked & ACKED_MASK

    def releases(self, known):
        """Up to three of these that it has not released before: how many, and the fields."""
        known = [item for item in known if item not in self.seen_releases]
        chosen = self.rng.sample(known, min(len(known), self.rng.choice([0, 0, 1, 3])))
        self.seen_releases.update(chosen)
        return len(chosen), *chosen, *[0] * (3 - len(chosen))

    def block(self):
        low, high = self.half
        offset = self.rng.randrange(low, high, 64)
        return offset, self.rng.randint(1, min(NBYTES_MAX, high - offset))

    def odd_number(self):
        low, high = self.half
        rng = self.rng
        return rng.choice([
            0, 1, 2, 3, 7, 63, 64, 65, 255, 2**16 - 1, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 64, 2**64 - 1,
            low - 64, low, low + 1, high - 64, high - 1, high, rng.randrange(low, high), rng.getrandbits(64),
        ])  # fmt: skip

    def scribble(self):
        memory, rng = self.lane.memory, self.rng
        layout = self.lane.layout
        low, high = rng.choice([
            (0, layout.rings_end), (0, PAGE_NBYTES), (self.ring, self.ring + ENTRIES * ENTRY_NBYTES),
            (layout.request_half, layout.reply_half), (layout.reply_half, layout.segment_nbytes),
        ])  # fmt: skip
        at = rng.randrange(low, high)
        nbytes = min(rng.choice([1, 8, 64, 1000]), high - at)
        memory[at : at + nbytes] = rng.randbytes(nbytes)

    def rewrite_header(self):
        rng = self.rng
        word = rng.choice([
            STATE if rng.random() < 0.2 else 100, BEGUN, PINNED, REPLIES_TOLD, REQUESTS_TOLD,
            *range(6), *range(COUNTERS.start, COUNTERS.stop),
        ])  # fmt: skip
        value = rng.choice([OPEN, DRAINING, DEAD, self.odd_number()])
        self.lane.memory[8 * word : 8 * word + 8] = (value & (2**64 - 1)).to_bytes(8, "little")

    def ring_oddly(self):
        self.tell(self.rng.choice([1, 3, ENTRIES, ENTRIES + 1, 2**32 - 1, 1 << 32, (1 << 32) + 2, 2**40, 2**64 - 2]))

    def steal(self):
        """Read what was rung for the victim."""
        with contextlib.suppress(BlockingIOError):
            self.bell.read()

    def tell(self, count):
        with contextlib.suppress(BlockingIOError):
            self.bell.ring(count)


class LyingCaller(Liar):
    def __init__(self, lane, rng):
        layout = lane.layout
        super().__init__(
            lane, lane.container, lane.request_bell, layout.request_ring, (layout.request_half, layout.reply_half), rng
        )
        self.calls = 0
        self.unseen = []  # blocks that the victim has claimed and not published
        self.steals_unseen = rng.random() < 0.2

    def entry(self):
        rng = self.rng
        kind = rng.choice([CALL] * 6 + [CANCEL, RELEASE])
        flags, signature, deadline_us = rng.choice([0, 0, 2, 4, 255]), rng.getrandbits(32), rng.getrandbits(64)
        known = self.victim.out if self.steals_unseen else [at for at in self.victim.out if at not in self.unseen]
        count, *released = self.releases(known)
        if kind == RELEASE:
            return RELEASE, flags, count, self.acked(), *released[:2], 0, 0, released[2], 0, 0, 0
        if kind == CANCEL or self.calls - self.answers_seen() >= CALLS_MAX:
            return CANCEL, flags, count, self.acked(), rng.randint(0, self.calls + 1), 0, 0, 0, 0, *released
        self.calls += 1
        offset, nbytes = self.block() if rng.random() < 0.9 else (0, 0)
        return CALL, flags, count, self.acked(), self.calls, offset, nbytes, signature, deadline_us, *released

    def answers_seen(self):
        return self.victim._calls_taken - self.victim.open_count


class LyingContainer(Liar):
    def __init__(self, lane, rng):
        layout = lane.layout
        super().__init__(
            lane, lane.caller, lane.reply_bell, layout.reply_ring, (layout.reply_half, layout.segment_nbytes), rng
        )
        self.answered = set()

    def entry(self):
        rng, victim = self.rng, self.victim
        count, *released = self.releases(victim._kept)
        in_flight = [call_id for call_id in victim.calls if call_id not in self.answered]
        if not in_flight or rng.random() < 0.1:
            return RELEASE, 0, count, self.acked(), *released[:2], 0, 0, released[2], 0, 0, 0
        call_id = rng.choice(in_flight)
        kind = rng.choice([REPLY, REPLY, ERROR, PART])
        flags = rng.choice([0, REQUEST_RELEASED, 4, 255])
        if kind != PART:
            self.answered.add(call_id)
        offset, nbytes = self.block() if rng.random() < 0.9 else (0, 0)
        return kind, flags, count, self.acked(), call_id, offset, nbytes, rng.getrandbits(32), 0, *released


# --- honest ends ------------------------------------------------------------------------------------------------------


class HonestCaller:
    """Uses a CallerEnd for anything that it can be used for. Raises OVER, or AssertionError."""

    def __init__(self, lane, rng, can_wait):
        self.lane, self.end, self.rng = lane, lane.caller, rng
        layout = lane.layout
        self.peer_half = (layout.reply_half, layout.segment_nbytes)
        self.places = [
            (layout.request_ring, layout.reply_ring),
            (layout.request_half, layout.reply_half),
            (8 * STATE, 8 * STATE + 8),
            (8 * REQUESTS_TOLD, 8 * REQUESTS_TOLD + 8),
        ]
        self.calls = {}  # id -> what was published with it
        self.held = []
        self.owned = []
        self.acts = [self.call, self.call, self.call, self.take, self.take, self.release, self.look, self.cancel]
        self.acts += [self.own, self.disown, self.end.flush, self.end.flush_releases, self.end.trim]
        self.acts += [lambda: self.end.wait(0.0)] if can_wait else []

    def act(self):
        self.rng.choice(self.acts)()

    def call(self):
        rng, end = self.rng, self.end
        try:
            nbytes = rng.choice([0, 1, 64, NBYTES_MAX])
            offset = end.claim(nbytes) if nbytes else 0
        except LaneFull:
            return
        call = object()
        blocks = (offset, *rng.sample(self.owned, min(len(self.owned), 2))) if nbytes and self.owned else None
        try:
            if nbytes:
                end.write_view(offset, nbytes)[:] = rng.randbytes(nbytes)
            call_id = end.publish_call(call, offset, nbytes, signature=rng.getrandbits(32), flags=2, blocks=blocks)
        except LaneFull:
            if nbytes:
                end.abandon(offset)
            return
        self.calls[call_id] = call
        if rng.random() < 0.5:
            end.flush()

    def own(self):
        with contextlib.suppress(LaneFull):
            if len(self.owned) < 5:
                offset = self.end.claim(100)
                self.end.own(offset)
                self.owned.append(offset)

    def disown(self):
        if self.owned:
            self.end.disown(self.owned.pop())

    def cancel(self):
        with contextlib.suppress(LaneFull):
            self.end.cancel(self.rng.randint(0, len(self.calls) + 1))

    def take(self):
        replies = self.end.take()
        assert len(replies) <= ENTRIES
        for call, call_id, kind, _, _, offset, nbytes in replies:
            assert call is self.calls[call_id]
            assert kind in (REPLY, ERROR, PART)
            assert is_block(offset, nbytes, *self.peer_half)
            assert len(bytes(self.end.view(offset, nbytes))) == nbytes
            if nbytes:
                self.held.append(offset)

    def release(self):
        while self.held and self.rng.random() < 0.8:
            self.end.release(self.held.pop())

    def look(self):
        self.end.counters()
        assert 0 <= self.end.begun < 2**64
        assert self.end.state in (OPEN, DRAINING, DEAD)
        assert len(self.end.calls) <= CALLS_MAX


class HonestContainer:
    """The same for a ContainerEnd."""

    def __init__(self, lane, rng, can_wait):
        self.lane, self.end, self.rng = lane, lane.container, rng
        layout = lane.layout
        self.peer_half = (layout.request_half, layout.reply_half)
        self.places = [
            (layout.reply_ring, layout.rings_end),
            (layout.reply_half, layout.segment_nbytes),
            (8 * STATE, 8 * STATE + 8),
            (8 * COUNTERS.start, 8 * COUNTERS.stop),
            (8 * BEGUN, 8 * BEGUN + 8),
            (8 * REPLIES_TOLD, 8 * REPLIES_TOLD + 8),
        ]
        self.open = []
        self.kept = []
        self.claimed = []  # and not published: an answer may have its block long before
        self.acts = [self.take, self.take, self.answer, self.answer, self.part, self.claim, self.answer_late]
        self.acts += [self.release, self.look, self.end.flush, self.end.flush_releases, self.end.trim]
        self.acts += [lambda: self.end.wait(0.0), lambda: self.end.wait_for_room(0.0)] if can_wait else []

    def act(self):
        self.rng.choice(self.acts)()

    def take(self):
        for kind, _, call_id, offset, nbytes, _, _ in self.end.take():
            assert kind in (CALL, CANCEL)
            if kind == CANCEL:
                continue
            assert is_block(offset, nbytes, *self.peer_half)
            assert len(bytes(self.end.view(offset, nbytes))) == nbytes
            self.open.append(call_id)
            assert len(self.open) <= CALLS_MAX
            if self.rng.random() < 0.01:
                self.end.check_block(self.peer_half[0], self.peer_half[1] - self.peer_half[0])

    def answer(self):
        while self.open and self.rng.random() < 0.9:
            begin(self.end, max(self.open))
            nbytes = self.rng.choice([0, 1, 64, NBYTES_MAX])
            try:
                offset = self.end.claim(nbytes) if nbytes else 0
            except LaneFull:
                return
            self.finish(offset, nbytes)
        if self.rng.random() < 0.5:
            self.end.flush()

    def finish(self, offset, nbytes):
        if nbytes:
            self.end.write_view(offset, nbytes)[:] = self.rng.randbytes(nbytes)
        call_id = self.open.pop(self.rng.randrange(len(self.open)))
        flags = self.rng.choice([0, REQUEST_RELEASED])
        publish(self.end, self.rng.choice([REPLY, ERROR]), call_id, offset, nbytes, flags)
        self.end.count(1, 1)
        if not flags:
            self.kept.append(call_id)

    def claim(self):
        with contextlib.suppress(LaneFull):
            if len(self.claimed) < 10:
                self.claimed.append(self.end.claim(64))

    def answer_late(self):
        if self.claimed and self.open:
            self.finish(self.claimed.pop(), 64)
        elif self.claimed:
            self.end.abandon(self.claimed.pop())

    def part(self):
        if not self.open:
            return
        offset = 0
        try:
            for _ in range(self.rng.choice([1, 40])):
                offset = self.end.claim(64)
                publish(self.end, PART, self.rng.choice(self.open), offset, 64)
                offset = 0
        except LaneFull:
            if offset:
                self.end.abandon(offset)

    def release(self):
        while self.kept and self.rng.random() < 0.8:
            self.end.release_request(self.kept.pop())

    def look(self):
        assert self.end.state in (OPEN, DRAINING, DEAD)
        assert len(self.end._late) <= CALLS_MAX
        self.end.slab_stats()
        self.end.count_error()
