"""The wish that a call ends early."""

import pytest
from tests.conformance.lane.lanes import ENTRIES, answer, open_calls, publish, send

from huterox_shm.errors import LaneFull
from huterox_shm.lane import CALL, CANCEL, ERROR


def kinds(requests):
    return [(kind, call_id) for kind, _, call_id, *_ in requests]


def test_cancel_comes_after_its_call(lane):
    call_id = send(lane.caller)
    lane.caller.cancel(call_id)
    lane.caller.flush()
    assert kinds(lane.container.take()) == [(CALL, call_id), (CANCEL, call_id)]


def test_cancelled_call_still_ends_with_one_final_reply(lane):
    open_calls(lane, 1)
    lane.caller.cancel(1)
    lane.caller.flush()
    assert kinds(lane.container.take()) == [(CANCEL, 1)]
    assert lane.container.open_count == 1
    publish(lane.container, ERROR, 1)
    lane.container.flush()
    assert [(call_id, kind) for _, call_id, kind, *_ in lane.caller.take()] == [(1, ERROR)]
    assert not lane.caller.calls


def test_nothing_is_sent_for_a_call_that_is_not_in_flight(lane):
    open_calls(lane, 1)
    publish(lane.container, ERROR, 1)
    lane.container.flush()
    lane.caller.take()
    for call_id in (1, 2, 0, -1):
        lane.caller.cancel(call_id)
    lane.caller.flush()
    with pytest.raises(BlockingIOError):
        lane.request_bell.read()


def test_cancel_that_crosses_the_answer_changes_nothing(lane):
    open_calls(lane, 2)
    answer(lane.container, 1, b"first")
    lane.container.flush()
    lane.caller.cancel(1)
    lane.caller.flush()
    assert kinds(lane.container.take()) == [(CANCEL, 1)]
    assert [call_id for _, call_id, *_ in lane.caller.take()] == [1]
    assert lane.container.open_count == 1


def test_cancel_carries_releases(lane):
    open_calls(lane, 2)
    answer(lane.container, 1, b"first")
    lane.container.flush()
    ((*_, offset, _),) = lane.caller.take()
    lane.caller.release(offset)
    lane.caller.cancel(2)
    lane.caller.flush()
    lane.container.take()
    assert lane.caller.releases_pending == 0
    assert not lane.container.out


def test_cancels_beyond_the_ring_are_refused_and_the_lane_goes_on(lane):
    send(lane.caller)
    with pytest.raises(LaneFull):
        for _ in range(ENTRIES):
            lane.caller.cancel(1)
    lane.caller.flush()
    seen = kinds(lane.container.take())
    assert seen[0] == (CALL, 1)
    assert set(seen[1:]) == {(CANCEL, 1)}
    lane.caller.take()
    lane.caller.cancel(1)


def test_container_that_only_takes_does_not_stall_its_caller(lane):
    open_calls(lane, 1)
    for _ in range(1000):
        lane.caller.cancel(1)
        lane.caller.flush()
        lane.container.take()
        lane.caller.take()
