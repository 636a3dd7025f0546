"""One lie at a time: it ends the lane by a typed error, and nothing else."""

import pytest
from tests.conformance.lane.lanes import CALLS_MAX, ENTRIES, check_slab, nothing_is_out, open_calls, publish, send

from huterox_shm.errors import LaneDead, LaneFull, PeerProtocolError
from huterox_shm.lane import CALL, CANCEL, DEAD, ERROR, PART, REPLY, REQUEST_RELEASED
from huterox_shm.layout import RELEASE

BIG = 2**64 - 64
U32 = 2**32 - 1


def in_flight_lane(lane):
    """Call 1 is open; call 2 is answered, with a block; call 3 too, without one, and its request kept. Ring positions:
    3 requests, 2 replies."""
    for _ in range(3):
        send(lane.caller, bytes(64))
    lane.caller.flush()
    lane.container.take()
    publish(lane.container, REPLY, 2, lane.container.claim(64), 64)
    publish(lane.container, REPLY, 3, flags=0)
    lane.container.flush()
    ((*_, offset, _), _) = lane.caller.take()
    return lane, offset


def resolve(lane, fields):
    """Strings stand for positions."""
    layout = lane.layout
    places = {"request": layout.request_half, "reply": layout.reply_half, "end": layout.segment_nbytes}

    def place(field):
        name, _, more = field.partition("+")
        return places[name] + int(more or 0)

    return [place(field) if isinstance(field, str) else field for field in fields]


# kind, flags, release_count, acked, call_id, offset, nbytes, signature, deadline_us, released 0, 1, 2
BAD_REPLIES = {
    "unknown kind": (0, 0, 0, 3, 1, 0, 0, 0, 0, 0, 0, 0),
    "another unknown kind": (255, 0, 0, 3, 1, 0, 0, 0, 0, 0, 0, 0),
    "a call": (CALL, 0, 0, 3, 1, "reply", 64, 0, 0, 0, 0, 0),
    "a cancel": (CANCEL, 0, 0, 3, 1, 0, 0, 0, 0, 0, 0, 0),
    "unknown call": (REPLY, 0, 0, 3, 4, 0, 0, 0, 0, 0, 0, 0),
    "call zero": (REPLY, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0),
    "ended call": (ERROR, 0, 0, 3, 2, 0, 0, 0, 0, 0, 0, 0),
    "ended call whose request is kept": (REPLY, REQUEST_RELEASED, 0, 3, 3, 0, 0, 0, 0, 0, 0, 0),
    "part of an ended call": (PART, 0, 0, 3, 2, 0, 0, 0, 0, 0, 0, 0),
    "block in the request half": (REPLY, 0, 0, 3, 1, "request", 64, 0, 0, 0, 0, 0),
    "block over the start of the half": (REPLY, 0, 0, 3, 1, "reply+-64", 128, 0, 0, 0, 0, 0),
    "block at the header": (REPLY, 0, 0, 3, 1, 0, 64, 0, 0, 0, 0, 0),
    "block beyond the end": (REPLY, 0, 0, 3, 1, "end", 64, 0, 0, 0, 0, 0),
    "block over the end": (REPLY, 0, 0, 3, 1, "reply", 1 << 20, 0, 0, 0, 0, 0),
    "block of all memory": (REPLY, 0, 0, 3, 1, "reply", U32, 0, 0, 0, 0, 0),
    "block at the end of numbers": (REPLY, 0, 0, 3, 1, BIG, 64, 0, 0, 0, 0, 0),
    "crooked block": (REPLY, 0, 0, 3, 1, "reply+65", 64, 0, 0, 0, 0, 0),
    "crooked block of a part": (PART, 0, 0, 3, 1, "reply+1", 64, 0, 0, 0, 0, 0),
    "place without bytes": (REPLY, 0, 0, 3, 1, "reply", 0, 0, 0, 0, 0, 0),
    "acknowledges the future": (REPLY, 0, 0, 4, 1, 0, 0, 0, 0, 0, 0, 0),
    "acknowledges the past": (REPLY, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0),
    "acknowledges nonsense": (REPLY, 0, 0, U32, 1, 0, 0, 0, 0, 0, 0, 0),
    "releases an unknown call": (PART, 0, 1, 3, 1, 0, 0, 0, 0, 64, 0, 0),
    "releases a call in flight twice": (PART, 0, 2, 3, 1, 0, 0, 0, 0, 1, 1, 0),
    "releases what the answer has released": (PART, 0, 1, 3, 1, 0, 0, 0, 0, 2, 0, 0),
    "releases twice": (PART, 0, 2, 3, 1, 0, 0, 0, 0, 3, 3, 0),
    "releases more than there is room for": (PART, 0, 4, 3, 1, 0, 0, 0, 0, 3, 0, 0),
    "release entry with too many": (RELEASE, 0, 7, 3, 3, 0, 0, 0, 0, 0, 0, 0),
    "release entry of an unknown call": (RELEASE, 0, 1, 3, 7, 0, 0, 0, 0, 0, 0, 0),
    "release entry that repeats itself": (RELEASE, 0, 2, 3, 3, 3, 0, 0, 0, 0, 0, 0),
}

BAD_REQUESTS = {
    "unknown kind": (0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0),
    "another unknown kind": (255, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0),
    "a reply": (REPLY, 0, 0, 0, 4, "request", 64, 0, 0, 0, 0, 0),
    "a part": (PART, 0, 0, 0, 1, "request", 64, 0, 0, 0, 0, 0),
    "id of an open call": (CALL, 0, 0, 0, 1, "request", 64, 0, 0, 0, 0, 0),
    "id of the last call": (CALL, 0, 0, 0, 3, "request", 64, 0, 0, 0, 0, 0),
    "id left out": (CALL, 0, 0, 0, 5, "request", 64, 0, 0, 0, 0, 0),
    "id left out, without a block": (CALL, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0),
    "largest id": (CALL, 0, 0, 0, 2**64 - 1, "request", 64, 0, 0, 0, 0, 0),
    "block in the reply half": (CALL, 0, 0, 0, 4, "reply", 64, 0, 0, 0, 0, 0),
    "block over the end of the half": (CALL, 0, 0, 0, 4, "reply+-64", 128, 0, 0, 0, 0, 0),
    "block at the header": (CALL, 0, 0, 0, 4, 0, 64, 0, 0, 0, 0, 0),
    "block larger than the half": (CALL, 0, 0, 0, 4, "request", 1 << 20, 0, 0, 0, 0, 0),
    "block of all memory": (CALL, 0, 0, 0, 4, "request", U32, 0, 0, 0, 0, 0),
    "block at the end of numbers": (CALL, 0, 0, 0, 4, BIG, 64, 0, 0, 0, 0, 0),
    "crooked block": (CALL, 0, 0, 0, 4, "request+1", 64, 0, 0, 0, 0, 0),
    "acknowledges the future": (CALL, 0, 0, 3, 4, "request", 64, 0, 0, 0, 0, 0),
    "acknowledges nonsense": (CALL, 0, 0, U32, 4, "request", 64, 0, 0, 0, 0, 0),
    "releases the unknown": (CANCEL, 0, 1, 0, 1, 0, 0, 0, 0, "reply+64", 0, 0),
    "releases the unknown with a call": (CALL, 0, 1, 0, 4, "request", 64, 0, 0, "reply+64", 0, 0),
    "releases its own block": (CALL, 0, 1, 0, 4, "request", 64, 0, 0, "request", 0, 0),
    "releases twice": (CANCEL, 0, 2, 0, 1, 0, 0, 0, 0, "reply", "reply", 0),
    "releases twice with a call": (CALL, 0, 2, 0, 4, "request", 64, 0, 0, "reply", "reply", 0),
    "releases more than there is room for": (CALL, 0, 65535, 0, 4, "request", 64, 0, 0, "reply", 0, 0),
    "release entry with too many": (RELEASE, 0, 7, 0, "reply", 0, 0, 0, 0, 0, 0, 0),
    "release entry that repeats itself": (RELEASE, 0, 2, 0, "reply", "reply", 0, 0, 0, 0, 0, 0),
}


@pytest.mark.parametrize("fields", BAD_REPLIES.values(), ids=BAD_REPLIES.keys())
def test_nonsense_in_the_reply_ring_ends_the_lane(lane, fields):
    in_flight_lane(lane)
    lane.forge_reply(*resolve(lane, fields), index=2)
    for _ in range(2):
        with pytest.raises(PeerProtocolError):
            lane.caller.take()
    assert lane.caller.state == DEAD
    assert set(lane.caller.calls) <= {1}
    check_slab(lane.caller)
    with pytest.raises(LaneDead):
        lane.container.take()


@pytest.mark.parametrize("fields", BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys())
def test_nonsense_in_the_request_ring_ends_the_lane(lane, fields):
    in_flight_lane(lane)
    lane.forge_request(*resolve(lane, fields), index=3)
    for _ in range(2):
        with pytest.raises(PeerProtocolError):
            lane.container.take()
    assert lane.container.state == DEAD
    assert lane.container.open_count == 1
    check_slab(lane.container)
    with pytest.raises(LaneDead):
        lane.caller.take()


def test_nearly_the_same_entries_are_good(lane):
    """So the lies above are refused for what they are named after."""
    in_flight_lane(lane)
    low, high = lane.layout.request_half, lane.layout.reply_half
    good_requests = [
        (CALL, 0, 1, 2, 4, "request", 64, 0, 0, "reply", 0, 0),
        (CANCEL, 0, 0, 2, 4, 0, 0, 0, 0, 0, 0, 0),
        (CALL, 0, 0, 2, 5, "reply+-64", 64, 0, 0, 0, 0, 0),
        (CALL, 0, 0, 2, 6, 0, 0, 0, 0, 0, 0, 0),
        (CALL, 0, 0, 2, 7, "request", high - low, 0, 0, 0, 0, 0),
        (RELEASE, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0),
    ]
    for index, fields in enumerate(good_requests, 3):
        lane.forge_request(*resolve(lane, fields), index=index)
    assert [call_id for kind, _, call_id, *_ in lane.container.take()] == [4, 4, 5, 6, 7]
    assert nothing_is_out(lane.container)
    nbytes = lane.layout.reply_half_nbytes
    good_replies = [
        (PART, 0, 0, 3, 1, "reply", nbytes, 0, 0, 0, 0, 0),
        (REPLY, REQUEST_RELEASED, 1, 3, 1, "end+-64", 64, 0, 0, 3, 0, 0),
        (RELEASE, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0),
    ]
    for index, fields in enumerate(good_replies, 2):
        lane.forge_reply(*resolve(lane, fields), index=index)
    assert [call_id for _, call_id, *_ in lane.caller.take()] == [1, 1]
    assert nothing_is_out(lane.caller)


def test_good_replies_before_the_nonsense_are_delivered_first(lane):
    in_flight_lane(lane)
    lane.forge_reply(REPLY, 1, 0, 3, 1, 0, 0, 0, 0, 0, 0, 0, index=2)
    lane.forge_reply(0, 0, 0, 3, 1, 0, 0, 0, 0, 0, 0, 0, index=3)
    assert [call_id for _, call_id, *_ in lane.caller.take()] == [1]
    assert lane.caller.state == DEAD
    assert lane.caller.calls == {}
    with pytest.raises(PeerProtocolError):
        lane.caller.take()


def test_container_that_releases_by_answer_and_by_entry_is_cut_off_before_that_costs_its_caller_much(lane):
    caller = lane.caller
    with pytest.raises(PeerProtocolError, match="does not have"):
        for number in range(10 * ENTRIES):
            send(caller)
            caller.flush()
            fields = (number + 1, 0, 0, 0, 0, number + 1, 0, 0)
            lane.forge_reply(REPLY, REQUEST_RELEASED, 1, number + 1, *fields, index=number)
            caller.take()
            lane.request_bell.read()
    assert number <= CALLS_MAX
    check_slab(caller)


# --- blocks that are released unseen ----------------------------------------------------------------------------------


@pytest.mark.parametrize("use", ["abandon", "write_view"])
def test_block_that_is_released_before_it_was_published_ends_the_lane_when_it_is_used(lane, use):
    container = lane.container
    open_calls(lane, 1)
    offset = container.claim(64)
    lane.forge_request(RELEASE, 0, 1, 0, offset, 0, 0, 0, 0, 0, 0, 0, index=1)
    assert container.take() == []
    check_slab(container)
    with pytest.raises(PeerProtocolError, match="begins at"):
        container.abandon(offset) if use == "abandon" else container.write_view(offset, 64)
    assert lane.caller.state == DEAD


def test_block_that_is_released_while_its_answer_waits_harms_only_the_callers_own_lane(lane):
    container = lane.container
    open_calls(lane, 2)
    first = container.claim(64)
    publish(container, REPLY, 1, first, 64)
    lane.forge_request(RELEASE, 0, 1, 0, first, 0, 0, 0, 0, 0, 0, 0, index=2)
    container.take()
    second = container.claim(64)
    assert second == first  # the caller has asked for it
    publish(container, REPLY, 2, second, 64)
    container.flush()
    check_slab(container)
    for index, error in ((3, None), (4, PeerProtocolError)):
        lane.forge_request(RELEASE, 0, 1, 0, first, 0, 0, 0, 0, 0, 0, 0, index=index)
        if error is None:
            container.take()
        else:
            with pytest.raises(error):
                container.take()
    check_slab(container)


# --- doorbells --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [ENTRIES + 1, U32, 2**33 + 500, 2**64 - 2])
def test_doorbell_that_tells_of_more_than_the_ring_holds_ends_the_lane(make_lane, count):
    for who, bell in (("caller", "reply_bell"), ("container", "request_bell")):
        lane = make_lane()
        getattr(lane, bell).ring(count)
        with pytest.raises(PeerProtocolError):
            getattr(lane, who).take()
        assert lane.caller.state == DEAD
        lane.close()


def test_doorbell_that_tells_of_entries_that_were_never_written_ends_the_lane(make_lane):
    for who, bell in (("caller", "reply_bell"), ("container", "request_bell")):
        lane = make_lane()
        getattr(lane, bell).ring(1)
        with pytest.raises(PeerProtocolError):
            getattr(lane, who).take()
        lane.close()


def test_stuffed_doorbell_ends_the_lane_and_keeps_nobody_waiting(make_lane):
    lane = make_lane()
    lane.request_bell.ring(2**64 - 2)
    send(lane.caller)
    with pytest.raises(PeerProtocolError, match="stuffed"):
        lane.caller.flush()
    assert lane.container.state == DEAD
    lane.close()
    lane = make_lane()
    open_calls(lane, 1)
    lane.reply_bell.ring(2**64 - 2)
    publish(lane.container, REPLY, 1)
    with pytest.raises(PeerProtocolError, match="stuffed"):
        lane.container.flush()
    assert lane.container.state == DEAD
    lane.container.mark_dead()
    lane.close()


def test_bells_without_entries_wake_and_change_nothing(lane):
    lane.reply_bell.ring(3 << 32)
    lane.request_bell.ring(3 << 32)
    assert lane.caller.take() == []
    assert lane.container.take() == []


# --- limits -----------------------------------------------------------------------------------------------------------


def test_caller_with_more_calls_than_may_be_in_flight_ends_the_lane(lane):
    half = lane.layout.request_half
    for number in range(CALLS_MAX + 1):
        lane.forge_request(CALL, 0, 0, 0, number + 1, half, 64, 0, 0, 0, 0, 0, index=number)
    with pytest.raises(PeerProtocolError, match="in flight"):
        lane.container.take()


def test_caller_that_never_takes_its_answers_is_cut_off(lane):
    """What it can make the container keep is bounded by the ring and the calls in flight."""
    container, half = lane.container, lane.layout.request_half
    with pytest.raises(PeerProtocolError):
        for number in range(10 * ENTRIES):
            lane.forge_request(CALL, 0, 0, 0, number + 1, half, 64, 0, 0, 0, 0, 0, index=number)
            container.take()
            publish(container, REPLY, number + 1)
            container.flush()
    assert lane.caller.state == DEAD
    assert number <= ENTRIES + CALLS_MAX
    assert len(container._late) <= CALLS_MAX


def test_caller_that_acknowledges_nothing_cannot_cancel_for_ever(lane):
    open_calls(lane, 1)
    with pytest.raises(PeerProtocolError):
        for number in range(100 * ENTRIES):
            lane.forge_request(CANCEL, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, index=1 + number)
            lane.container.take()
    assert number <= 50 * ENTRIES


def test_container_that_acknowledges_nothing_stops_its_caller_and_not_more(lane):
    """A lie by silence: the caller is full, and stays so."""
    caller = lane.caller
    for number in range(ENTRIES // 2):
        send(caller)
        caller.flush()
        lane.forge_reply(REPLY, 1, 0, 0, number + 1, 0, 0, 0, 0, 0, 0, 0, index=number)
        caller.take()
    with pytest.raises(LaneFull, match="not yet acknowledged"):
        send(caller)
    assert caller.calls == {}


def test_geometry_changed_under_a_living_end_moves_nothing(lane):
    lane.memory[8:128] = bytes([255]) * 120
    in_flight_lane(lane)
    assert list(lane.caller.calls) == [1]
