"""Answers in parts."""

import pytest
from tests.conformance.lane.lanes import CALLS_MAX, answer, nothing_is_out, open_calls, publish, send

from huterox_shm.errors import LaneFull
from huterox_shm.lane import DEFINES, ERROR, PART, REPLY, REQUEST_RELEASED, STREAM


def fill_with_parts(container, call_id=1):
    """Publish parts without a block until no more go in; returns how many did."""
    count = 0
    with pytest.raises(LaneFull):
        while True:
            publish(container, PART, call_id)
            count += 1
    return count


def test_parts_come_in_order_before_the_final_reply(lane):
    caller, container, *_ = lane
    open_calls(lane, 1, flags=STREAM, call="stream")
    for number in range(3):
        answer(container, 1, bytes([number]), kind=PART)
    publish(container, REPLY, 1)
    container.flush()
    replies = caller.take()
    assert [(call, call_id, kind) for call, call_id, kind, *_ in replies] == [("stream", 1, PART)] * 3 + [
        ("stream", 1, REPLY)
    ]
    assert [bytes(caller.view(offset, nbytes)) for *_, offset, nbytes in replies] == [b"\0", b"\1", b"\2", b""]
    assert nothing_is_out(caller)


@pytest.mark.parametrize(("flags", "signature"), [(0, 0), (DEFINES, 5), (0, 2**32 - 1)])
def test_form_of_a_part_travels_untouched(lane, flags, signature):
    open_calls(lane, 1, flags=STREAM)
    answer(lane.container, 1, b"part", kind=PART, flags=flags, signature=signature)
    lane.container.flush()
    ((_, _, *seen, _, _),) = lane.caller.take()
    assert seen == [PART, flags, signature]


def test_parts_of_several_calls_may_be_mixed(lane):
    open_calls(lane, 3, flags=STREAM)
    for call_id in (2, 1, 2, 3):
        publish(lane.container, PART, call_id)
    publish(lane.container, REPLY, 2)
    publish(lane.container, PART, 1)
    lane.container.flush()
    assert [(call_id, kind) for _, call_id, kind, *_ in lane.caller.take()] == [
        (2, PART), (1, PART), (2, PART), (3, PART), (2, REPLY), (1, PART)
    ]  # fmt: skip
    assert list(lane.caller.calls) == [1, 3]


def test_part_that_finds_no_place_keeps_its_block(lane):
    open_calls(lane, 1, flags=STREAM)
    fill_with_parts(lane.container)
    offset = lane.container.claim(5)
    with pytest.raises(LaneFull):
        publish(lane.container, PART, 1, offset, 5)
    lane.container.flush()
    lane.caller.take()
    lane.container.take()
    lane.container.write_view(offset, 5)[:] = b"after"
    publish(lane.container, PART, 1, offset, 5)
    lane.container.flush()
    ((*_, offset, nbytes),) = lane.caller.take()
    assert bytes(lane.caller.view(offset, nbytes)) == b"after"


def test_caller_that_only_takes_does_not_stall_a_long_stream(lane):
    caller, container, *_ = lane
    open_calls(lane, 1, flags=STREAM)
    taken = 0
    for number in range(3000):
        try:
            answer(container, 1, number.to_bytes(4, "little"), kind=PART)
        except LaneFull:
            container.flush()
            caller.flush_releases()
            container.take()
            answer(container, 1, number.to_bytes(4, "little"), kind=PART)
        if number % 20 == 0:
            container.flush()
        for *_, offset, nbytes in caller.take():
            assert int.from_bytes(caller.view(offset, nbytes), "little") == taken
            caller.release(offset)
            taken += 1
        container.take()
    container.flush()
    assert taken + len(caller.take()) == 3000


def test_stream_without_releases_goes_on_through_acknowledgements_alone(lane):
    caller, container, *_ = lane
    open_calls(lane, 1, flags=STREAM)
    taken = 0
    for _ in range(1000):
        publish(container, PART, 1)
        container.flush()
        taken += len(caller.take())
        container.take()
    assert taken == 1000


@pytest.mark.parametrize("ring_entries", [128, 256, 1024])
def test_stream_without_releases_goes_on_behind_as_many_calls_as_may_be_in_flight(make_lane, ring_entries):
    lane = make_lane((ring_entries, 1 << 18, 1 << 18))
    caller, container, *_ = lane
    with pytest.raises(LaneFull):
        while True:
            caller.publish_call(None, 0, 0, flags=STREAM)
    caller.flush()
    container.take()
    taken = 0
    for _ in range(20):
        fill_with_parts(container)
        container.flush()
        new = len(caller.take())
        assert new > 0
        taken += new
        container.take()
    assert taken > 2 * ring_entries
    lane.close()


def test_final_replies_have_room_when_parts_fill_the_ring(lane):
    caller, container, *_ = lane
    ids = open_calls(lane, CALLS_MAX, flags=STREAM)
    fill_with_parts(container)
    for call_id in ids:
        publish(container, REPLY, call_id)
    container.flush()
    replies = caller.take()
    assert sum(kind == REPLY for _, _, kind, *_ in replies) == CALLS_MAX
    assert nothing_is_out(caller)


@pytest.mark.parametrize("kind", [REPLY, ERROR])
def test_final_replies_wait_for_a_slow_caller_when_parts_came_first_and_calls_then(lane, kind):
    caller, container, *_ = lane
    open_calls(lane, 1, flags=STREAM)
    parts = fill_with_parts(container)
    container.flush()
    ids = [1, *open_calls(lane, CALLS_MAX - 1)]
    for call_id in ids:
        answer(container, call_id, b"%d" % call_id, kind=kind, signature=call_id)
    container.flush()
    assert container.open_count > 0  # more answers than places
    answers = {}
    for _ in range(5):
        for _, call_id, got, flags, signature, offset, nbytes in caller.take():
            if got == PART:
                parts -= 1
                assert call_id not in answers
            else:
                assert (got, flags, signature) == (kind, REQUEST_RELEASED, call_id)
                answers[call_id] = bytes(caller.view(offset, nbytes))
                caller.release(offset)
        container.take()
    assert answers == {call_id: b"%d" % call_id for call_id in ids}
    assert (parts, container.open_count) == (0, 0)
    caller.flush_releases()
    container.take()
    assert nothing_is_out(caller) and nothing_is_out(container)
    send(caller)
    caller.flush()
    assert len(container.take()) == 1
