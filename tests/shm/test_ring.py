import pytest
from tests.shm.rings import ENTRIES, make_sides, publish

from huterox_shm.errors import LaneFull, PeerProtocolError
from huterox_shm.layout import ACKED_MASK, CALL, RELEASE
from huterox_shm.ring import CALL_HEADROOM, CONTROL_HEADROOM, PART_HEADROOM, calls_max


def test_entry_comes_out_as_it_went_in():
    left, right = make_sides()
    left.producer.publish(CALL, 255, 2**64 - 1, 640, 2**32 - 1, 2**32 - 2, 2**63, 0)
    assert right.take(left.flush()) == [(CALL, 255, 0, 0, 2**64 - 1, 640, 2**32 - 1, 2**32 - 2, 2**63, 0, 0, 0)]


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
    assert sorted([*entry[9 : 9 + count], *left.producer.pending]) == offsets
    assert entry[9 + count :] == (0,) * (3 - count)


@pytest.mark.parametrize("pending_count", [0, 1, 2, 3, 5, 6, 7, 13])
def test_entry_of_its_own_carries_up_to_six_releases(pending_count):
    left, right = make_sides()
    releases = [64 * (index + 1) for index in range(pending_count)]
    left.producer.pending += releases
    assert left.producer.publish_releases(0)
    (entry,) = right.take(left.flush())
    count = min(pending_count, 6)
    kind, flags, told, _, r0, r1, nbytes, signature, r2, *more = entry
    assert (kind, flags, told, nbytes, signature) == (RELEASE, 0, count, 0, 0)
    fields = [r0, r1, r2, *more]
    assert sorted([*fields[:count], *left.producer.pending]) == releases
    assert fields[count:] == [0] * (6 - count)


def test_release_appended_while_others_are_told_is_told_with_them():
    left, right = make_sides()

    class Pending(list):
        def __delitem__(self, index):  # a garbage collection in the midst of it
            if self[index] == 128:
                self.append(999)
            super().__delitem__(index)

    left.producer.pending = Pending([64, 128])
    publish(left, 1)
    (entry,) = right.take(left.flush())
    assert (entry[2], set(entry[9:])) == (3, {64, 128, 999})
    left.producer.pending = Pending([64, 128])
    left.producer.publish_releases(0)
    (entry,) = right.take(left.flush())
    assert (entry[2], {*entry[4:6], *entry[8:]}) == (3, {64, 128, 999, 0})
    assert left.producer.pending == []


@pytest.mark.parametrize("entries", [128, 256, 1024, 65536])
def test_no_consumer_may_leave_so_much_unacknowledged_that_its_peer_stands_still(entries):
    """What the module's text says: beside all final replies that are due there is room for parts, and on the other side
    for calls, although an honest consumer is silent about less than a quarter."""
    silent = entries // 4 - 1
    assert silent + calls_max(entries) + PART_HEADROOM < entries
    assert silent + CALL_HEADROOM < entries
    assert CALL_HEADROOM > PART_HEADROOM > CONTROL_HEADROOM > 5


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
