"""What a lying peer can do: end its own lane, by a typed error, and nothing else."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from huterox_shm.errors import LaneDead, PeerProtocolError, ShmError
from huterox_shm.lane import DEAD
from huterox_shm.layout import CALL, CANCEL, ERROR, PAGE_NBYTES, PART, RELEASE, REPLY, REQUEST_RELEASED

BIG = 2**64 - 64


def in_flight_lane(lane):
    """Call 1 is taken and open, call 2 was answered and its reply taken. Ring positions: 2 requests, 1 reply."""
    for call_id in (1, 2):
        lane.caller.publish_call(call_id, lane.caller.claim(64), 64)
    lane.caller.flush()
    lane.container.take()
    lane.container.publish_reply(REPLY, 2, lane.container.claim(64), 64, request_released=True)
    lane.container.flush()
    (reply,) = lane.caller.take()
    return lane, reply.offset


def offsets(lane):
    layout = lane.layout
    return {"request": layout.request_half, "reply": layout.reply_half, "end": layout.segment_nbytes}


# kind, flags, release_count, acked, call_id, offset, nbytes, deadline_us, released 0, 1, 2; strings stand for positions
BAD_REPLIES = {
    "unknown kind": (0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0),
    "another unknown kind": (255, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0),
    "a call": (CALL, 0, 0, 2, 1, "reply", 64, 0, 0, 0, 0),
    "unknown call": (REPLY, 0, 0, 2, 3, 0, 0, 0, 0, 0, 0),
    "ended call": (ERROR, 0, 0, 2, 2, 0, 0, 0, 0, 0, 0),
    "part of an ended call": (PART, 0, 0, 2, 2, 0, 0, 0, 0, 0, 0),
    "block in the request half": (REPLY, 0, 0, 2, 1, "request", 64, 0, 0, 0, 0),
    "block at the header": (REPLY, 0, 0, 2, 1, 0, 64, 0, 0, 0, 0),
    "block beyond the end": (REPLY, 0, 0, 2, 1, "end", 64, 0, 0, 0, 0),
    "block over the end": (REPLY, 0, 0, 2, 1, "reply", 1 << 20, 0, 0, 0, 0),
    "block of all memory": (REPLY, 0, 0, 2, 1, "reply", 2**64 - 1, 0, 0, 0, 0),
    "block at the end of numbers": (REPLY, 0, 0, 2, 1, BIG, 64, 0, 0, 0, 0),
    "crooked block": (REPLY, 0, 0, 2, 1, "reply+65", 64, 0, 0, 0, 0),
    "place without bytes": (REPLY, 0, 0, 2, 1, "reply", 0, 0, 0, 0, 0),
    "acknowledges the future": (REPLY, 0, 0, 3, 1, 0, 0, 0, 0, 0, 0),
    "acknowledges the past": (REPLY, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0),
    "acknowledges nonsense": (REPLY, 0, 0, 2**32 - 1, 1, 0, 0, 0, 0, 0, 0),
    "releases the unknown": (PART, 0, 1, 2, 1, 0, 0, 0, 64, 0, 0),
    "releases what was released": (PART, 0, 2, 2, 1, 0, 0, 0, "request", "request", 0),
    "releases a request twice": (REPLY, REQUEST_RELEASED, 1, 2, 1, 0, 0, 0, "request", 0, 0),
    "releases more than there are": (PART, 0, 4, 2, 1, 0, 0, 0, 0, 0, 0),
    "release entry with too many": (RELEASE, 0, 8, 2, 0, 0, 0, 0, 0, 0, 0),
    "release entry of the unknown": (RELEASE, 0, 1, 2, 7, 0, 0, 0, 0, 0, 0),
}

BAD_REQUESTS = {
    "unknown kind": (0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0),
    "a reply": (REPLY, 0, 0, 0, 1, "request", 64, 0, 0, 0, 0),
    "id of an open call": (CALL, 0, 0, 0, 1, "request+128", 64, 0, 0, 0, 0),
    "block of an open call": (CALL, 0, 0, 0, 3, "request", 64, 0, 0, 0, 0),
    "block in the reply half": (CALL, 0, 0, 0, 3, "reply", 64, 0, 0, 0, 0),
    "block at the header": (CALL, 0, 0, 0, 3, 0, 64, 0, 0, 0, 0),
    "block over the end of the half": (CALL, 0, 0, 0, 3, "request", 1 << 20, 0, 0, 0, 0),
    "crooked block": (CALL, 0, 0, 0, 3, "request+1", 64, 0, 0, 0, 0),
    "acknowledges the future": (CALL, 0, 0, 2, 3, "request+128", 64, 0, 0, 0, 0),
    "releases the unknown": (CANCEL, 0, 1, 0, 3, 0, 0, 0, "reply+64", 0, 0),
    "releases what was released": (CANCEL, 0, 2, 0, 3, 0, 0, 0, "reply", "reply", 0),
    "releases more than there are": (CANCEL, 0, 65535, 0, 3, 0, 0, 0, 0, 0, 0),
}


def resolve(lane, fields):
    def place(field):
        name, _, more = field.partition("+")
        return offsets(lane)[name] + int(more or 0)

    return [place(field) if isinstance(field, str) else field for field in fields]


@pytest.mark.parametrize("fields", BAD_REPLIES.values(), ids=BAD_REPLIES.keys())
def test_nonsense_in_the_reply_ring_ends_the_lane(lane, fields):
    in_flight_lane(lane)
    lane.forge_reply(*resolve(lane, fields), index=1)
    for _ in range(2):
        with pytest.raises(PeerProtocolError):
            lane.caller.take()
    assert lane.caller.state == DEAD
    assert [call_id for call_id, _ in lane.caller.in_flight() if call_id != 1] == []
    with pytest.raises(LaneDead):
        lane.container.take()


@pytest.mark.parametrize("fields", BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys())
def test_nonsense_in_the_request_ring_ends_the_lane(lane, fields):
    in_flight_lane(lane)
    lane.forge_request(*resolve(lane, fields), index=2)
    for _ in range(2):
        with pytest.raises(PeerProtocolError):
            lane.container.take()
    assert lane.container.state == DEAD
    with pytest.raises(LaneDead):
        lane.caller.take()


def test_block_given_twice_ends_the_lane(lane):
    _, reply_offset = in_flight_lane(lane)
    lane.forge_reply(REPLY, 0, 0, 2, 1, reply_offset, 64, 0, 0, 0, 0, index=1)
    with pytest.raises(PeerProtocolError):
        lane.caller.take()


@pytest.mark.parametrize(("kind", "count"), [(PART, 4), (RELEASE, 8)])
def test_entry_that_counts_more_releases_than_it_carries_ends_the_lane(lane, kind, count):
    blocks = [lane.caller.claim(64) for _ in range(7)]
    for call_id, offset in enumerate(blocks, 1):
        lane.caller.publish_call(call_id, offset, 64)
    lane.caller.flush()
    fields = blocks if kind == RELEASE else [1, 0, 0, 0, *blocks[:3]]
    lane.forge_reply(kind, 0, count, 0, *fields)
    with pytest.raises(PeerProtocolError, match="releases"):
        lane.caller.take()


def test_good_replies_before_the_nonsense_are_delivered_first(lane):
    in_flight_lane(lane)
    lane.forge_reply(REPLY, 1, 0, 2, 1, 0, 0, 0, 0, 0, 0, index=1)
    lane.forge_reply(0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, index=2)
    assert [reply.call_id for reply in lane.caller.take()] == [1]
    assert lane.caller.state == DEAD
    assert lane.caller.in_flight() == []
    with pytest.raises(PeerProtocolError):
        lane.caller.take()


@pytest.mark.parametrize("count", [129, 2**32 - 1, 2**33 + 500])
def test_doorbell_that_tells_of_more_than_the_ring_holds_ends_the_lane(make_lane, count):
    for take, bell in (("caller", "reply_bell"), ("container", "request_bell")):
        lane = make_lane()
        getattr(lane, bell).ring(count)
        with pytest.raises(PeerProtocolError):
            getattr(lane, take).take()
        assert lane.caller.state == DEAD
        lane.close()


def test_stuffed_doorbell_ends_the_lane(lane):
    lane.request_bell.ring(2**64 - 2)
    lane.caller.publish_call(1, lane.caller.claim(64), 64)
    with pytest.raises(PeerProtocolError, match="stuffed"):
        lane.caller.flush()
    assert lane.container.state == DEAD


def test_bells_without_entries_wake_and_change_nothing(lane):
    lane.reply_bell.ring(3 << 32)
    lane.request_bell.ring(3 << 32)
    assert lane.caller.take() == []
    assert lane.container.take() == []


def test_caller_with_more_calls_than_may_be_in_flight_ends_the_lane(lane):
    half = lane.layout.request_half
    for index in range(65):
        lane.forge_request(CALL, 0, 0, 0, index + 1, half + 64 * index, 64, 0, 0, 0, 0, index=index)
    with pytest.raises(PeerProtocolError, match="in flight"):
        lane.container.take()


def test_caller_that_never_acknowledges_ends_the_lane(lane):
    half = lane.layout.request_half
    with pytest.raises(PeerProtocolError, match="acknowledge"):
        for number in range(200):
            lane.forge_request(CALL, 0, 0, 0, number + 1, half, 64, 0, 0, 0, 0, index=number % 128)
            lane.container.take()
            lane.container.publish_reply(REPLY, number + 1, 0, 0, request_released=True)
            lane.container.flush()
    assert lane.caller.state == DEAD


def test_geometry_changed_under_a_living_end_moves_nothing(lane):
    lane.memory[8:128] = bytes([255]) * 120
    in_flight_lane(lane)
    assert lane.caller.in_flight() == [(1, True)]


def use_honestly(end, call_id):
    """Whatever an honest end does next; only ShmError may come of it."""
    for request in end.take():
        if hasattr(request, "deadline_us"):
            bytes(end.view(request.offset, request.nbytes))
            if request.kind == CALL:
                end.begin(request.call_id)
                end.publish_reply(REPLY, request.call_id, end.claim(64), 64, request_released=True)
                end.end(request.call_id, 1, False)
        else:
            bytes(end.view(request.offset, request.nbytes))
            if request.nbytes:
                end.release(request.offset)
    if hasattr(end, "in_flight"):
        end.in_flight()
        end.publish_call(call_id, end.claim(64), 64)
        end.publish_cancel(call_id)
    end.counters()
    end.flush()
    end.flush_releases()
    end.trim()


PATCHES = st.lists(
    st.tuples(st.integers(0, PAGE_NBYTES + 2 * 128 * 64), st.binary(min_size=1, max_size=300)), max_size=20
)
COUNTS = st.lists(st.one_of(st.integers(1, 130), st.integers(1, 2**64 - 2)), max_size=3)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rounds=st.lists(st.tuples(PATCHES, COUNTS, COUNTS), min_size=1, max_size=4))
def test_random_bytes_over_header_and_rings_raise_nothing_but_shm_errors(memory_lane_maker, rounds):
    lane = memory_lane_maker()
    next_id = 1
    for patches, requests, replies in rounds:
        for end in (lane.caller, lane.container):
            try:
                use_honestly(end, next_id)
            except ShmError:
                pass
            next_id += 1
        for at, data in patches:
            end_at = min(at + len(data), lane.layout.rings_end)
            lane.memory[at:end_at] = data[: max(end_at - at, 0)]
        for bell, counts in ((lane.request_bell, requests), (lane.reply_bell, replies)):
            for count in counts:
                try:
                    bell.ring(count)
                except BlockingIOError:
                    pass
    for end in (lane.caller, lane.container):
        try:
            use_honestly(end, next_id)
        except ShmError:
            pass


entries = st.tuples(
    st.integers(0, 7),
    st.integers(0, 3),
    st.sampled_from([0, 0, 0, 1, 2, 7]),
    st.integers(0, 6),
    st.integers(0, 6),
    st.sampled_from(["request", "request+64", "request+128", "reply", "reply+64", "end", 0, 65]),
    st.sampled_from([0, 1, 64, 1 << 19, 2**64 - 1]),
    st.just(0),
    *[st.sampled_from(["request", "request+64", "reply", "reply+64", 0])] * 3,
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(forged=st.lists(st.tuples(st.booleans(), entries), max_size=12))
def test_nearly_honest_entries_raise_nothing_but_shm_errors(memory_lane_maker, forged):
    lane = memory_lane_maker()
    next_id = 1
    for in_request_ring, fields in forged:
        end = lane.caller if in_request_ring else lane.container
        forge = lane.forge_request if in_request_ring else lane.forge_reply
        forge(*resolve(lane, fields), index=end._producer.published % 128)
        for end in (lane.caller, lane.container):
            try:
                use_honestly(end, next_id)
            except ShmError:
                pass
            next_id += 1
