"""A call and its answer: what travels, in which order, and when it is seen."""

import random

import pytest
from tests.conformance.lane.lanes import CALLS_MAX, answer, exchange, nothing_is_out, open_calls, publish, send

from huterox_shm.errors import LaneFull
from huterox_shm.lane import CALL, DEFINES, ERROR, INDIRECT, REPLY, REQUEST_RELEASED, STREAM


def test_call_and_reply_carry_their_bytes_and_give_back_their_blocks(lane):
    caller, container, *_ = lane
    call_id = send(caller, b"question", call="mine")
    caller.flush()
    ((kind, flags, taken_id, offset, nbytes, signature, deadline_us),) = container.take()
    assert (kind, taken_id, flags, nbytes, signature, deadline_us) == (CALL, call_id, 0, 8, 0, 0)
    assert bytes(container.view(offset, nbytes)) == b"question"
    answer(container, call_id, b"the answer")
    container.flush()
    ((call, answered_id, kind, flags, signature, offset, nbytes),) = caller.take()
    assert (call, answered_id, kind, flags, signature, nbytes) == ("mine", call_id, REPLY, REQUEST_RELEASED, 0, 10)
    assert bytes(caller.view(offset, nbytes)) == b"the answer"
    assert nothing_is_out(caller)
    caller.release(offset)
    assert not nothing_is_out(container)
    caller.flush_releases()
    assert container.take() == []
    assert nothing_is_out(container)


def test_calls_are_numbered_from_one_in_the_order_of_their_publication(lane):
    caller, container, *_ = lane
    assert [send(caller), send(caller), caller.publish_call(None, 0, 0)] == [1, 2, 3]
    caller.flush()
    assert [request[2] for request in container.take()] == [1, 2, 3]
    assert list(caller.calls) == [1, 2, 3]


def test_refused_call_uses_no_number_up(lane):
    caller, container, *_ = lane
    open_calls(lane, CALLS_MAX)
    for _ in range(3):
        with pytest.raises(LaneFull):
            caller.publish_call(None, 0, 0)
    answer(container, 1)
    container.flush()
    caller.take()
    assert send(caller) == CALLS_MAX + 1
    caller.flush()
    assert [request[2] for request in container.take()] == [CALLS_MAX + 1]


def test_number_of_a_call_that_found_no_ring_entry_is_given_to_the_next(lane):
    caller, container, *_ = lane
    send(caller)
    for _ in range(70):
        caller.cancel(1)
    with pytest.raises(LaneFull, match="acknowledged"):
        send(caller, call="refused")
    assert list(caller.calls) == [1]
    caller.flush()
    container.take()
    container.flush()
    caller.take()
    assert send(caller) == 2
    caller.flush()
    assert [request[2] for request in container.take()] == [2]


def test_call_of_one_fresh_block_is_published_the_same_by_the_short_way(lane):
    caller, container, *_ = lane
    offset = caller.claim(4)
    caller.write_view(offset, 4)[:] = b"bare"
    assert caller.publish_block("mine", offset, 4, 17, 1234) == 1
    caller.flush()
    assert container.take() == [(CALL, 0, 1, offset, 4, 17, 1234)]
    answer(container, 1)
    container.flush()
    assert [call for call, *_ in caller.take()] == ["mine"]
    assert nothing_is_out(caller)


def test_call_that_is_refused_by_the_short_way_uses_no_number_up(lane):
    caller = lane.caller
    send(caller)
    for _ in range(70):
        caller.cancel(1)
    offset = caller.claim(4)
    with pytest.raises(LaneFull, match="acknowledged"):
        caller.publish_block(None, offset, 4, 0, 0)
    caller.flush()
    lane.container.take()
    caller.take()
    assert caller.publish_block(None, offset, 4, 0, 0) == 2
    for number in range(3, CALLS_MAX + 1):
        assert caller.publish_call(None, 0, 0) == number
        caller.flush()
        lane.container.take()
        caller.take()
    with pytest.raises(LaneFull, match="in flight"):
        caller.publish_block(None, caller.claim(4), 4, 0, 0)
    assert list(caller.calls) == list(range(1, CALLS_MAX + 1))


def test_nothing_is_seen_before_the_flush(lane):
    caller, container, *_ = lane
    send(caller)
    assert container.take() == []
    caller.flush()
    assert len(container.take()) == 1
    answer(container, 1, b"y")
    assert caller.take() == []
    container.flush()
    assert len(caller.take()) == 1


def test_flush_of_nothing_rings_nothing(lane):
    for end in (lane.caller, lane.container):
        end.flush()
        end.flush_releases()
    for bell in (lane.request_bell, lane.reply_bell):
        with pytest.raises(BlockingIOError):
            bell.read()


def test_many_entries_are_told_by_one_ring(lane):
    open_calls(lane, 5)
    for call_id in range(1, 6):
        publish(lane.container, REPLY, call_id)
    lane.container.flush()
    assert lane.reply_bell.read() == 5


@pytest.mark.parametrize("flags", [0, STREAM, DEFINES, INDIRECT, STREAM | DEFINES | INDIRECT])
@pytest.mark.parametrize("signature", [0, 1, 256, 2**32 - 1])
def test_what_a_call_says_about_itself_travels_untouched(lane, flags, signature):
    deadline_us = 2**64 - 1 - signature
    send(lane.caller, flags=flags, signature=signature, deadline_us=deadline_us)
    lane.caller.flush()
    ((_, seen_flags, _, _, _, seen_signature, seen_deadline_us),) = lane.container.take()
    assert (seen_flags, seen_signature, seen_deadline_us) == (flags, signature, deadline_us)


@pytest.mark.parametrize("kind", [REPLY, ERROR])
@pytest.mark.parametrize("flags", [REQUEST_RELEASED, REQUEST_RELEASED | DEFINES])
@pytest.mark.parametrize("signature", [0, 7, 2**32 - 1])
def test_what_an_answer_says_about_itself_travels_untouched(lane, kind, flags, signature):
    open_calls(lane, 1)
    answer(lane.container, 1, b"y", kind=kind, flags=flags, signature=signature)
    lane.container.flush()
    ((_, _, *seen, _, _),) = lane.caller.take()
    assert seen == [kind, flags, signature]


def test_call_and_answer_need_no_block(lane):
    caller, container, *_ = lane
    caller.publish_call("empty", 0, 0, signature=3)
    caller.flush()
    assert container.take() == [(CALL, 0, 1, 0, 0, 3, 0)]
    publish(container, ERROR, 1)
    container.flush()
    assert caller.take() == [("empty", 1, ERROR, REQUEST_RELEASED, 0, 0, 0)]
    assert nothing_is_out(caller) and nothing_is_out(container)


def test_many_calls_are_answered_in_any_order_each_with_its_own_bytes(lane):
    caller, container, *_ = lane
    shuffle = random.Random(1)
    for _ in range(50):
        payloads = {}
        for _ in range(shuffle.randint(1, CALLS_MAX)):
            payload = shuffle.randbytes(shuffle.randint(1, 2000))
            payloads[send(caller, payload, call=payload)] = payload
        caller.flush()
        requests = container.take()
        shuffle.shuffle(requests)
        for _, _, call_id, offset, nbytes, _, _ in requests:
            answer(container, call_id, bytes(container.view(offset, nbytes))[::-1])
        container.flush()
        for call, call_id, _, _, _, offset, nbytes in caller.take():
            assert call is payloads.pop(call_id)
            assert bytes(caller.view(offset, nbytes)) == call[::-1]
            caller.release(offset)
        assert not payloads
        assert not caller.calls
    assert nothing_is_out(caller)


def test_calls_in_flight_are_listed_in_order_until_their_answer_is_taken(lane):
    caller, container, *_ = lane
    for name in "abc":
        send(caller, call=name)
    caller.flush()
    container.take()
    answer(container, 2)
    container.flush()
    assert [call for call, _ in caller.calls.values()] == ["a", "b", "c"]
    caller.take()
    assert {call_id: call for call_id, (call, _) in caller.calls.items()} == {1: "a", 3: "c"}


def test_open_calls_are_counted_until_they_are_answered(lane):
    open_calls(lane, 3)
    assert lane.container.open_count == 3
    answer(lane.container, 2)
    assert lane.container.open_count == 2


def test_rings_go_round_many_times(lane):
    for number in range(1000):
        request = number.to_bytes(4, "little")
        _, call_id, _, _, _, offset, nbytes = exchange(lane, request, request[::-1])
        assert call_id == number + 1
        assert bytes(lane.caller.view(offset, nbytes)) == request[::-1]
        lane.caller.release(offset)
