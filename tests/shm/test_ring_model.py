"""Two sides of a pair of rings against plain queues, with releases, and whether they can come to a standstill."""

from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.shm.rings import BACK, ENTRIES, OUT, make_sides, publish

from huterox_shm.errors import LaneFull, PeerProtocolError
from huterox_shm.layout import ENTRY_NBYTES, RELEASE

PLACES = (range(OUT, OUT + ENTRIES * ENTRY_NBYTES), range(BACK, BACK + ENTRIES * ENTRY_NBYTES))


class RingMachine(RuleBasedStateMachine):
    @initialize(start=st.sampled_from([0, 1, 2**32 - 40, 2**31 - 7, 2**40 - 3]))
    def make(self, start):
        self.sides = make_sides(start)
        self.queued = (deque(), deque())  # written, not told: (number or None for a RELEASE, acknowledged)
        self.told = (deque(), deque())
        self.pending = ([], [])  # releases that were not told
        self.on_their_way = (set(), set())
        self.next_number = 1

    @rule(who=st.integers(0, 1), count=st.integers(1, 70), kept=st.sampled_from([8, 32, 64]))
    def publish(self, who, count, kept):
        side = self.sides[who]
        for _ in range(count):
            free = ENTRIES - (side.producer.published - side.producer.acked)
            before = bytes(side.producer.buffer)
            if free <= kept:
                with pytest.raises(LaneFull):
                    publish(side, self.next_number, kept)
                assert bytes(side.producer.buffer) == before
                return
            publish(side, self.next_number, kept)
            self.wrote_in_its_ring_only(who, before)
            self.queued[who].append((self.next_number, side.consumer.consumed))
            self.note_told_releases(who)
            self.next_number += 1

    @rule(who=st.integers(0, 1), kept=st.sampled_from([8, 40]))
    def publish_releases(self, who, kept):
        side = self.sides[who]
        free = ENTRIES - (side.producer.published - side.producer.acked)
        before = bytes(side.producer.buffer)
        assert side.producer.publish_releases(kept) is (free > kept)
        self.wrote_in_its_ring_only(who, before)
        if free > kept:
            self.queued[who].append((None, side.consumer.consumed))
        self.note_told_releases(who)

    def wrote_in_its_ring_only(self, who, before):
        after, place = bytes(self.sides[who].producer.buffer), PLACES[who]
        assert after[: place.start] == before[: place.start]
        assert after[place.stop :] == before[place.stop :]

    def note_told_releases(self, who):
        left = set(self.sides[who].producer.pending)
        self.on_their_way[who].update(set(self.pending[who]) - left)
        self.pending[who][:] = self.sides[who].producer.pending

    @rule(who=st.integers(0, 1), count=st.integers(1, 20))
    def release(self, who, count):
        for _ in range(count):
            self.next_number += 1
            self.pending[who].append(self.next_number)
            self.sides[who].producer.pending.append(self.next_number)

    @rule(who=st.integers(0, 1))
    def tell(self, who):
        assert self.sides[who].flush() == len(self.queued[who])
        self.told[who].extend(self.queued[who])
        self.queued[who].clear()

    @rule(who=st.integers(0, 1), part=st.floats(0, 1))
    def take(self, who, part):
        told = self.told[1 - who]
        count = int(len(told) * part) if part < 0.9 else len(told)
        expected = [told.popleft() for _ in range(count)]
        side = self.sides[who]
        released = []
        entries = side.take(count)
        for (kind, flags, n, acked, call_id, offset, nbytes, signature, at_us, *fields), (number, ack) in zip(
            entries, expected, strict=True
        ):
            assert acked == ack & 0xFFFFFFFF
            if number is None:
                assert kind == RELEASE
                fields = [call_id, offset, at_us, *fields]
            else:
                assert (call_id, offset, at_us) == (number, 64 * number, number)
                assert (flags, nbytes, signature) == (number & 0xFF, number & 0xFFFFFFFF, number & 0xFFFFFFFF)
            released += fields[:n]
            assert not any(fields[n:])
        assert len(set(released)) == len(released)
        assert set(released) <= self.on_their_way[1 - who]
        self.on_their_way[1 - who].difference_update(released)
        if expected:
            assert side.producer.acked == expected[-1][1]
        self.acknowledge(who)

    def acknowledge(self, who):
        """As a lane's end does; there is always a place for it."""
        side = self.sides[who]
        if side.consumer.consumed - side.consumer.acknowledged >= ENTRIES // 4:
            assert side.producer.publish_releases(0)
            self.queued[who].append((None, side.consumer.consumed))
            self.note_told_releases(who)
            self.tell(who)

    @rule(who=st.integers(0, 1), more=st.integers(1, 1000))
    def lie_about_the_count(self, who, more):
        """More entries than the other side can have published are refused, and nothing is consumed."""
        side = self.sides[who]
        unacknowledged = side.consumer.consumed - side.consumer.acknowledged
        with pytest.raises(PeerProtocolError):
            side.consumer.take(ENTRIES - unacknowledged + more)

    @invariant()
    def nobody_is_overrun(self):
        for who in (0, 1):
            producer, peer = self.sides[who].producer, self.sides[1 - who].consumer
            assert producer.acked <= peer.acknowledged <= peer.consumed <= producer.flushed <= producer.published
            assert producer.published - producer.acked <= ENTRIES

    def teardown(self):
        """Two sides that take all and acknowledge a quarter, as lanes do, get everything told."""
        if not hasattr(self, "sides"):
            return
        for _ in range(100):
            for who in (0, 1):
                while self.sides[who].producer.pending and self.sides[who].producer.publish_releases(8):
                    self.queued[who].append((None, self.sides[who].consumer.consumed))
                self.note_told_releases(who)
                self.tell(who)
                self.take(1 - who, 1.0)
        assert not any(self.told) and not any(self.on_their_way)
        assert not any(side.producer.pending for side in self.sides)
        for side in self.sides:
            publish(side, 1, kept=64)


RingMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=60)
test_rings_agree_with_queues = RingMachine.TestCase
