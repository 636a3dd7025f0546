"""How a lane ends: it drains, it dies, it is closed."""

import pytest
from tests.conformance.lane.lanes import CALLS_MAX, answer, begin, exchange, open_calls, publish, send

from huterox_shm.errors import LaneDead, LaneDraining
from huterox_shm.lane import CANCEL, DEAD, DRAINING, OPEN, PART, REPLY


def test_fresh_lane_is_open_and_nothing_has_begun(lane):
    assert (lane.caller.state, lane.container.state) == (OPEN, OPEN)
    assert lane.caller.begun == 0


def test_begun_tells_which_calls_the_container_has_touched(lane):
    caller, container, *_ = lane
    for call_id in open_calls(lane, 3)[:2]:
        begin(container, call_id)
        assert caller.begun == call_id
    answer(container, 1)
    container.flush()
    container.mark_dead()
    assert [call_id for _, call_id, *_ in caller.take()] == [1]
    with pytest.raises(LaneDead):
        caller.take()
    assert [(call_id, call_id <= caller.begun) for call_id in caller.calls] == [(2, True), (3, False)]


@pytest.mark.parametrize("who", ["caller", "container"])
def test_draining_lane_takes_no_new_call_and_ends_those_in_flight(lane, who):
    caller, container, *_ = lane
    send(caller)
    spare = caller.claim(1)
    caller.flush()
    getattr(lane, who).drain()
    assert (caller.state, container.state) == (DRAINING, DRAINING)
    with pytest.raises(LaneDraining):
        caller.claim(1)
    caller.abandon(spare)
    assert caller.take() == []
    assert [call_id for _, _, call_id, *_ in container.take()] == [1]
    caller.cancel(1)
    caller.flush()
    assert [kind for kind, *_ in container.take()] == [CANCEL]
    answer(container, 1, b"y")
    container.flush()
    assert [call_id for _, call_id, *_ in caller.take()] == [1]
    container.drain()


@pytest.mark.parametrize("who", ["caller", "container"])
def test_drain_and_death_wake_both_ends(lane, who):
    for end_it in ("drain", "mark_dead"):
        getattr(getattr(lane, who), end_it)()
        for bell in (lane.request_bell, lane.reply_bell):
            assert bell.read() == 1 << 32


def test_replies_that_were_published_are_taken_before_the_death_is_told(lane):
    caller, container, *_ = lane
    open_calls(lane, 2)
    answer(container, 1, b"last words")
    container.flush()
    caller.mark_dead()
    ((_, call_id, _, _, _, offset, nbytes),) = caller.take()
    assert (call_id, bytes(caller.view(offset, nbytes))) == (1, b"last words")
    assert lane.reply_bell.read() >> 32  # still ringing, so that a poll comes back
    for _ in range(2):
        with pytest.raises(LaneDead):
            caller.take()
    with pytest.raises(LaneDead):
        container.take()
    for end in (caller, container):
        assert end.state == DEAD
        with pytest.raises(LaneDead):
            end.claim(1)
    assert list(caller.calls) == [2]


def test_requests_of_a_dead_lane_are_not_taken(lane):
    send(lane.caller)
    lane.caller.flush()
    lane.caller.mark_dead()
    for _ in range(2):
        with pytest.raises(LaneDead):
            lane.container.take()


def test_a_dead_lane_does_not_drain(lane):
    lane.container.mark_dead()
    lane.caller.drain()
    assert lane.caller.state == DEAD


@pytest.mark.parametrize("word", [0, 4, 2**64 - 1])
def test_unknown_state_is_as_good_as_dead(lane, word):
    lane.memory[128:136] = word.to_bytes(8, "little")
    for end in (lane.caller, lane.container):
        assert end.state == DEAD
        with pytest.raises(LaneDead):
            end.take()
    with pytest.raises(LaneDead):
        lane.caller.claim(1)


def test_answers_that_wait_for_a_place_die_with_the_lane(lane):
    open_calls(lane, 1)
    for _ in range(95):
        publish(lane.container, PART, 1)
    lane.container.flush()
    for call_id in [1, *open_calls(lane, CALLS_MAX - 1)]:
        publish(lane.container, REPLY, call_id)
    lane.container.flush()
    lane.container.mark_dead()
    taken = lane.caller.take()
    assert len(taken) == 128
    with pytest.raises(LaneDead):
        lane.caller.take()
    with pytest.raises(LaneDead):
        lane.container.take()
    assert len(lane.caller.calls) == lane.container.open_count > 0


def test_closed_caller_refuses_and_forgives_late_releases(lane):
    caller, container, *_ = lane
    *_, offset, _ = exchange(lane)
    spare = caller.claim(1)
    caller.own(spare)
    caller.close()
    caller.close()
    for refused in (
        caller.take,
        caller.counters,
        lambda: caller.begun,
        lambda: caller.claim(1),
        lambda: caller.view(offset, 1),
        lambda: caller.write_view(spare, 1),
        lambda: caller.publish_call(None, spare, 1),
        lambda: caller.flush(),
        lambda: caller.wait(0.0),
    ):
        with pytest.raises(LaneDead):
            refused()
    caller.release(offset)
    caller.disown(spare)
    caller.mark_dead()
    caller.drain()
    assert (caller.state, caller.trim(), caller.calls) == (DEAD, 0, {})
    with pytest.raises(LaneDead):
        caller.wait(0.0)
    assert container.state == OPEN


def test_closed_container_refuses_and_forgives_late_releases(lane):
    caller, container, *_ = lane
    ((*_, offset, _, _, _),) = taken_requests(lane)
    spare = container.claim(1)
    container.close()
    container.close()
    for refused in (
        container.take,
        lambda: begin(container, 1),
        lambda: container.claim(1),
        lambda: container.view(offset, 1),
        lambda: container.write_view(spare, 1),
        lambda: publish(container, REPLY, 1),
        lambda: publish(container, PART, 1),
        container.flush,
        container.count_error,
        container.set_pinned,
        lambda: container.wait(0.0),
        lambda: container.wait_for_room(0.0),
    ):
        with pytest.raises(LaneDead):
            refused()
    container.release_request(1)
    container.mark_dead()
    container.drain()
    assert (container.state, container.trim()) == (DEAD, 0)
    assert caller.state == OPEN


def taken_requests(lane):
    send(lane.caller)
    lane.caller.flush()
    return lane.container.take()


def test_ends_are_closed_by_a_with_statement(make_lane):
    lane = make_lane()
    with lane.caller as caller, lane.container as container:
        assert (caller.state, container.state) == (OPEN, OPEN)
    assert (caller.state, container.state) == (DEAD, DEAD)
