"""What a container counts, in the lane's header or where its caller cannot reach."""

import pytest
from tests.conformance.lane.lanes import answer, begin, open_calls, publish, send

from huterox_shm.lane import DEFINES, ERROR, REPLY, LaneCounters
from huterox_shm.layout import COUNTERS, read_counters


@pytest.fixture(params=["header", "elsewhere"])
def counted(request, make_lane):
    """A lane, and a function that reads its counters."""
    words = memoryview(bytearray(64)).cast("Q")
    lane = make_lane(counters=None if request.param == "header" else words)
    yield lane, lane.caller.counters if request.param == "header" else lambda: read_counters(words)
    lane.close()


def test_fresh_counters_are_zero(counted):
    assert counted[1]() == LaneCounters(0, 0, 0, 0, 0)


def test_counters_count_every_call_exactly(counted):
    lane, read = counted
    caller, container, *_ = lane
    for _ in range(10):
        send(caller)
    caller.cancel(3)
    caller.flush()
    container.take()
    assert read()[:4] == (10, 0, 0, 0)
    for call_id in range(1, 8):
        begin(container, call_id)
        publish(container, ERROR if call_id == 7 else REPLY, call_id)
        container.count(1, 100)
    container.count_error()
    container.flush()
    assert read()[:4] == (10, 7, 1, 700)
    assert read().activity_us > 0


def test_calls_are_counted_in_batches(counted):
    lane, read = counted
    for call_id in open_calls(lane, 5):
        answer(lane.container, call_id)
    lane.container.count(5, 1234)
    lane.container.flush()
    assert read()[:4] == (5, 5, 0, 1234)


def test_definitions_are_no_calls_but_are_open_until_they_are_answered(counted):
    lane, read = counted
    caller, container, *_ = lane
    send(caller, flags=DEFINES)
    send(caller)
    caller.flush()
    assert [call_id for _, _, call_id, *_ in container.take()] == [1, 2]
    assert not container.took_calls_only
    assert (read().calls_taken, container.open_count) == (1, 2)
    publish(container, REPLY, 1)
    publish(container, REPLY, 2)
    container.count(1, 10)
    container.flush()
    assert read()[:2] == (1, 1)
    assert len(caller.take()) == 2
    open_calls(lane, 1)
    assert container.took_calls_only


def test_who_has_seen_an_answer_finds_it_counted(counted):
    lane, read = counted
    open_calls(lane, 1)
    answer(lane.container, 1)
    lane.container.count(1, 10)
    assert read().calls_done == 0
    lane.container.flush()
    assert len(lane.caller.take()) == 1
    assert read().calls_done == 1


def test_activity_moves_on_with_every_answer(counted):
    lane, read = counted
    before = 0
    for call_id in range(1, 4):
        open_calls(lane, 1)
        answer(lane.container, call_id)
        lane.container.flush()
        assert read().activity_us >= before
        before = read().activity_us


def test_lane_that_counts_elsewhere_leaves_the_header_alone(make_lane):
    words = memoryview(bytearray(64)).cast("Q")
    lane = make_lane(counters=words)
    counters = slice(8 * COUNTERS.start, 8 * COUNTERS.stop)
    for call_id in open_calls(lane, 3):
        answer(lane.container, call_id)
        lane.container.count(1, 10)
        lane.container.count_error()
    lane.container.flush()
    assert bytes(lane.memory[counters]) == bytes(48)
    assert lane.caller.counters() == LaneCounters(0, 0, 0, 0, 0)
    assert words.tolist()[5:] == [0, 0, 0]
    lane.close()


def test_caller_that_forges_counters_in_its_header_changes_nothing_elsewhere(make_lane):
    words = memoryview(bytearray(64)).cast("Q")
    lane = make_lane(counters=words)
    lane.memory[8 * COUNTERS.start : 8 * COUNTERS.stop] = b"\xff" * 48
    for call_id in open_calls(lane, 3):
        answer(lane.container, call_id)
        lane.container.count(1, 10)
    lane.container.flush()
    assert words.tolist()[:4] == [3, 3, 0, 30]
    lane.close()


def test_closed_end_lets_go_of_counters_that_lie_elsewhere(make_lane):
    memory = bytearray(64)
    words = memoryview(memory).cast("Q")
    lane = make_lane(counters=words)
    lane.close()
    del words
    memory.extend(b"x")  # refused while a view of it lives
