from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from huterox_shm.errors import LaneFull, PeerProtocolError
from huterox_shm.layout import ACKED_MASK, CALL, ENTRY_NBYTES, RELEASE
from huterox_shm.ring import Consumer, Producer

ENTRIES = 128
OUT, BACK = 64, 64 + ENTRIES * ENTRY_NBYTES


class Side:
    """One end of a pair of rings."""

    def __init__(self, buffer, outgoing, incoming, start=0):
        self.consumer = Consumer(buffer, incoming, ENTRIES)
        self.producer = Producer(buffer, outgoing, ENTRIES, self.consumer)
        self.consumer.consumed = self.consumer.acknowledged = start
        self.producer.published = self.producer.flushed = self.producer.acked = start

    def flush(self):
        count = self.producer.published - self.producer.flushed
        self.producer.flushed = self.producer.published
        return count

    def take(self, count):
        entries = list(self.consumer.take(count))
        for entry in entries:
            self.producer.on_acked(entry[3])
        return entries


def make_sides(start=0):
    buffer = bytearray(64 + 2 * ENTRIES * ENTRY_NBYTES)
    return Side(buffer, OUT, BACK, start), Side(buffer, BACK, OUT, start)


def publish(side, number, kept=0):
    side.producer.publish(CALL, 0, number, 64 * number, number, 0, kept)


def test_entry_comes_out_as_it_went_in():
    left, right = make_sides()
    left.producer.publish(CALL, 2, 2**64 - 1, 640, 2**64 - 2, 2**63, 0)
    assert right.take(left.flush()) == [(CALL, 2, 0, 0, 2**64 - 1, 640, 2**64 - 2, 2**63, 0, 0, 0)]


def test_first_unacknowledged_round_of_the_ring_is_full():
    left, right = make_sides()
    for number in range(ENTRIES):
        publish(left, number)
    with pytest.raises(LaneFull):
        publish(left, 0)
    assert [entry[4] for entry in right.take(left.flush())] == list(range(ENTRIES))
    with pytest.raises(LaneFull):
        publish(left, 0)
    publish(right, 0)
    left.take(right.flush())
    for number in range(ENTRIES):
        publish(left, number)


def test_kept_places_stay_free():
    left, _ = make_sides()
    for number in range(ENTRIES - 8):
        publish(left, number, kept=8)
    with pytest.raises(LaneFull):
        publish(left, 0, kept=8)
    assert left.producer.publish_releases(7)
    assert not left.producer.publish_releases(7)


def test_refused_entry_takes_no_pending_release_with_it():
    left, _ = make_sides()
    for number in range(ENTRIES):
        publish(left, number)
    left.producer.pending.append(640)
    with pytest.raises(LaneFull):
        publish(left, 0)
    assert not left.producer.publish_releases(0)
    assert left.producer.pending == [640]


@pytest.mark.parametrize("pending_count", [0, 1, 2, 3, 4, 10])
def test_entry_carries_up_to_three_releases(pending_count):
    left, right = make_sides()
    offsets = [64 * (index + 1) for index in range(pending_count)]
    left.producer.pending += offsets
    publish(left, 5)
    (entry,) = right.take(left.flush())
    count = min(pending_count, 3)
    assert entry[2] == count
    assert sorted([*entry[8 : 8 + count], *left.producer.pending]) == offsets
    assert entry[8 + count :] == (0,) * (3 - count)


@pytest.mark.parametrize("pending_count", [0, 1, 6, 7, 8])
def test_entry_of_its_own_carries_up_to_seven_releases(pending_count):
    left, right = make_sides()
    left.producer.pending += [64 * (index + 1) for index in range(pending_count)]
    assert left.producer.publish_releases(0)
    (entry,) = right.take(left.flush())
    count = min(pending_count, 7)
    assert (entry[0], entry[2]) == (RELEASE, count)
    assert len({*entry[4 : 4 + count]} - {0}) == count
    assert len(left.producer.pending) == pending_count - count
    assert left.producer.control_count == 1


def test_acknowledgement_of_what_was_not_published_is_refused():
    left, _ = make_sides()
    publish(left, 1)
    with pytest.raises(PeerProtocolError):
        left.producer.on_acked(1)  # not yet told
    left.flush()
    left.producer.on_acked(1)
    for wrong in (0, 2, ACKED_MASK):
        with pytest.raises(PeerProtocolError):
            left.producer.on_acked(wrong)
    assert left.producer.acked == 1


def test_doorbell_that_tells_more_than_the_ring_holds_is_refused():
    _, right = make_sides()
    with pytest.raises(PeerProtocolError):
        right.consumer.take(ENTRIES + 1)
    right.consumer.take(ENTRIES)
    with pytest.raises(PeerProtocolError):
        right.consumer.take(1)


@pytest.mark.parametrize("start", [2**32 - 5, 2**32 - ENTRIES, 2**31 - 3, 2**40 - 1])
def test_acknowledgements_wrap_around(start):
    left, right = make_sides(start)
    for number in range(3 * ENTRIES):
        publish(left, number)
        assert [entry[4] for entry in right.take(left.flush())] == [number]
        publish(right, number)
        assert [entry[4] for entry in left.take(right.flush())] == [number]
    assert left.producer.acked == start + 3 * ENTRIES


class RingMachine(RuleBasedStateMachine):
    """Two sides against two plain queues."""

    @initialize(start=st.sampled_from([0, 1, 2**32 - 40, 2**31 - 7]))
    def make(self, start):
        self.sides = make_sides(start)
        self.queued = (deque(), deque())  # written, not told
        self.told = (deque(), deque())
        self.next_number = 1

    @rule(who=st.integers(0, 1), count=st.integers(1, 70), kept=st.sampled_from([0, 8, 64]))
    def publish(self, who, count, kept):
        side = self.sides[who]
        for _ in range(count):
            free = ENTRIES - (side.producer.published - side.producer.acked)
            if free <= kept:
                with pytest.raises(LaneFull):
                    publish(side, self.next_number, kept)
                return
            publish(side, self.next_number, kept)
            self.queued[who].append((self.next_number, side.consumer.consumed))
            self.next_number += 1

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
        entries = side.take(count)
        assert [entry[4] for entry in entries] == [number for number, _ in expected]
        if expected:
            assert side.producer.acked == expected[-1][1]

    @invariant()
    def nobody_is_overrun(self):
        for who in (0, 1):
            producer, peer = self.sides[who].producer, self.sides[1 - who].consumer
            assert producer.acked <= peer.consumed <= producer.flushed <= producer.published
            assert producer.published - producer.acked <= ENTRIES


RingMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
test_rings_agree_with_queues = RingMachine.TestCase
