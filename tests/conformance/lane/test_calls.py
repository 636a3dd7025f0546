"""What every lane does for honest ends."""

import random

import pytest

from huterox_shm.errors import LaneDead, LaneDraining, LaneFull, LaneTooSmall
from huterox_shm.lane import CALL, CANCEL, DEAD, DRAINING, ERROR, OPEN, PART, REPLY

CALLS_MAX = 128 - 64


def send(caller, call_id, payload, **options):
    offset = caller.claim(len(payload))
    caller.write_view(offset, len(payload))[:] = payload
    caller.publish_call(call_id, offset, len(payload), **options)
    return offset


def answer(container, call_id, payload, kind=REPLY, request_released=True):
    offset = container.claim(len(payload))
    container.write_view(offset, len(payload))[:] = payload
    container.publish_reply(kind, call_id, offset, len(payload), request_released=request_released and kind is not PART)
    return offset


def nothing_is_out(end):
    stats = end.slab_stats()
    return (stats.claimed_count, stats.lent_count) == (0, 0)


def test_call_and_reply_carry_their_bytes_and_give_back_their_blocks(lane):
    caller, container, *_ = lane
    sent_at = send(caller, 9, b"question")
    caller.flush()
    ((kind, call_id, offset, nbytes, deadline_us, stream),) = container.take()
    assert (kind, call_id, offset, nbytes, deadline_us, stream) == (CALL, 9, sent_at, 8, 0, False)
    assert bytes(container.view(offset, nbytes)) == b"question"
    answer(container, 9, b"the answer")
    container.flush()
    (reply,) = caller.take()
    assert (reply.kind, reply.call_id, reply.nbytes, reply.request_released) == (REPLY, 9, 10, True)
    assert bytes(caller.view(reply.offset, reply.nbytes)) == b"the answer"
    assert nothing_is_out(caller)
    caller.release(reply.offset)
    assert not nothing_is_out(container)
    caller.flush_releases()
    assert container.take() == []
    assert nothing_is_out(container)


def test_nothing_is_seen_before_the_flush(lane):
    caller, container, *_ = lane
    send(caller, 1, b"x")
    assert container.take() == []
    caller.flush()
    assert len(container.take()) == 1
    answer(container, 1, b"y")
    assert caller.take() == []
    container.flush()
    assert len(caller.take()) == 1


def test_flush_of_nothing_rings_nothing(lane):
    lane.caller.flush()
    lane.container.flush()
    lane.caller.flush_releases()
    with pytest.raises(BlockingIOError):
        lane.request_bell.read()
    with pytest.raises(BlockingIOError):
        lane.reply_bell.read()


def test_deadline_and_stream_flag_travel_with_the_call(lane):
    send(lane.caller, 1, b"x", deadline_us=123_456_789_012, stream=True)
    lane.caller.flush()
    (request,) = lane.container.take()
    assert (request.deadline_us, request.stream) == (123_456_789_012, True)


def test_many_calls_are_answered_in_any_order_each_with_its_own_bytes(lane):
    caller, container, *_ = lane
    shuffle = random.Random(1)
    next_id = 1
    for _ in range(50):
        count = shuffle.randint(1, CALLS_MAX)
        payloads = {next_id + index: shuffle.randbytes(shuffle.randint(1, 2000)) for index in range(count)}
        next_id += count
        for call_id, payload in payloads.items():
            send(caller, call_id, payload)
        caller.flush()
        requests = container.take()
        shuffle.shuffle(requests)
        for _, call_id, offset, nbytes, _, _ in requests:
            answer(container, call_id, bytes(container.view(offset, nbytes))[::-1])
        container.flush()
        for reply in caller.take():
            assert bytes(caller.view(reply.offset, reply.nbytes)) == payloads.pop(reply.call_id)[::-1]
            caller.release(reply.offset)
        assert not payloads
    assert nothing_is_out(caller)


def test_parts_come_in_order_before_the_final_reply(lane):
    caller, container, *_ = lane
    send(caller, 4, b"x", stream=True)
    caller.flush()
    container.take()
    for number in range(3):
        answer(container, 4, bytes([number]), kind=PART)
    container.publish_reply(REPLY, 4, 0, 0, request_released=True)
    container.flush()
    replies = caller.take()
    assert [reply.kind for reply in replies] == [PART, PART, PART, REPLY]
    assert [bytes(caller.view(reply.offset, reply.nbytes)) for reply in replies] == [b"\0", b"\1", b"\2", b""]
    assert [reply.request_released for reply in replies] == [False, False, False, True]
    assert nothing_is_out(caller)


def test_caller_that_only_takes_does_not_stall_a_long_stream(lane):
    caller, container, *_ = lane
    send(caller, 1, b"x", stream=True)
    caller.flush()
    container.take()
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
        for reply in caller.take():
            assert int.from_bytes(caller.view(reply.offset, 4), "little") == taken
            caller.release(reply.offset)
            taken += 1
        container.take()
    container.flush()
    assert taken + len(caller.take()) == 3000


def test_stream_without_releases_goes_on_through_acknowledgements_alone(lane):
    caller, container, *_ = lane
    send(caller, 1, b"x", stream=True)
    caller.flush()
    container.take()
    taken = 0
    for _ in range(1000):
        container.publish_reply(PART, 1, 0, 0, request_released=False)
        container.flush()
        taken += len(caller.take())
        container.take()
    assert taken == 1000


def test_request_that_the_model_keeps_is_freed_when_it_is_released_later(lane):
    caller, container, *_ = lane
    offset = send(caller, 1, b"keep me")
    caller.flush()
    container.take()
    answer(container, 1, b"done", request_released=False)
    container.flush()
    (reply,) = caller.take()
    assert not reply.request_released
    assert caller.slab_stats().lent_count == 1
    container.release_request(offset)
    assert container.releases_pending == 1
    container.flush_releases()
    assert container.releases_pending == 0
    assert caller.take() == []
    assert nothing_is_out(caller)


def test_request_released_while_its_call_runs_is_not_released_again(lane):
    caller, container, *_ = lane
    offset = send(caller, 1, b"x")
    caller.flush()
    container.take()
    container.release_request(offset)
    container.flush_releases()
    assert caller.take() == []
    assert nothing_is_out(caller)
    with pytest.raises(ValueError, match="released before"):
        container.publish_reply(REPLY, 1, 0, 0, request_released=True)
    container.publish_reply(REPLY, 1, 0, 0, request_released=False)
    container.flush()
    assert len(caller.take()) == 1


def test_releases_travel_with_the_next_call(lane):
    caller, container, *_ = lane
    for call_id in range(1, 6):
        send(caller, call_id, b"x")
    caller.flush()
    for request in container.take():
        answer(container, request.call_id, b"y")
    container.flush()
    for reply in caller.take():
        caller.release(reply.offset)
    assert caller.releases_pending == 5
    send(caller, 6, b"x")
    caller.flush()
    assert caller.releases_pending == 0
    assert len(container.take()) == 1
    assert nothing_is_out(container)


def test_final_reply_needs_no_block(lane):
    caller, container, *_ = lane
    send(caller, 1, b"x")
    caller.flush()
    container.take()
    container.publish_reply(ERROR, 1, 0, 0, request_released=True)
    container.flush()
    assert caller.take() == [(ERROR, 1, 0, 0, True)]


def test_calls_beyond_what_the_rings_carry_are_refused_until_one_ends(lane):
    caller, container, *_ = lane
    for call_id in range(1, CALLS_MAX + 1):
        send(caller, call_id, b"x")
    offset = caller.claim(1)
    with pytest.raises(LaneFull):
        caller.publish_call(1000, offset, 1)
    caller.flush()
    container.take()
    with pytest.raises(LaneFull):
        caller.publish_call(1000, offset, 1)
    answer(container, 5, b"y")
    container.flush()
    caller.take()
    caller.publish_call(1000, offset, 1)
    caller.flush()
    assert [request.call_id for request in container.take()] == [1000]


def test_final_replies_have_room_when_parts_fill_the_ring(lane):
    caller, container, *_ = lane
    for call_id in range(1, CALLS_MAX + 1):
        send(caller, call_id, b"x", stream=True)
    caller.flush()
    container.take()
    with pytest.raises(LaneFull):
        for _ in range(128):
            container.publish_reply(PART, 1, 0, 0, request_released=False)
    for call_id in range(1, CALLS_MAX + 1):
        container.publish_reply(REPLY, call_id, 0, 0, request_released=True)
    container.flush()
    replies = caller.take()
    assert sum(reply.kind == REPLY for reply in replies) == CALLS_MAX
    assert nothing_is_out(caller)


def test_final_replies_have_room_when_releases_press(lane):
    caller, container, *_ = lane
    for call_id in range(1, CALLS_MAX + 1):
        send(caller, call_id, b"x", stream=True)
    caller.flush()
    requests = container.take()
    with pytest.raises(LaneFull):
        for _ in range(128):
            container.publish_reply(PART, 1, 0, 0, request_released=False)
    for request in requests:
        container.release_request(request.offset)
        container.flush_releases()
    assert container.releases_pending > 0
    for request in requests:
        container.publish_reply(REPLY, request.call_id, 0, 0, request_released=False)
    container.flush()
    caller.take()
    caller.flush_releases()
    container.take()
    container.flush_releases()
    caller.take()
    assert container.releases_pending == 0
    assert nothing_is_out(caller)


def test_container_that_only_takes_does_not_stall_its_caller(lane):
    caller, container, *_ = lane
    send(caller, 1, b"x")
    for _ in range(1000):
        caller.publish_cancel(1)
        caller.flush()
        container.take()
        caller.take()


def test_full_half_is_refused_until_a_block_comes_back(lane):
    caller, container, *_ = lane
    offset = send(caller, 1, bytes(caller.nbytes_max))
    with pytest.raises(LaneFull):
        caller.claim(1)
    caller.flush()
    container.take()
    container.publish_reply(REPLY, 1, 0, 0, request_released=True)
    container.flush()
    caller.take()
    assert caller.claim(caller.nbytes_max) == offset


def test_block_larger_than_the_half_is_refused_with_the_limit(lane):
    for end in (lane.caller, lane.container):
        with pytest.raises(LaneTooSmall) as refused:
            end.claim(end.nbytes_max + 1)
        assert (refused.value.need, refused.value.limit) == (end.nbytes_max + 1, end.nbytes_max)


def test_cancel_arrives_once_and_only_for_a_call_in_flight(lane):
    caller, container, *_ = lane
    send(caller, 1, b"x")
    caller.publish_cancel(1)
    caller.publish_cancel(1)
    caller.publish_cancel(2)
    caller.flush()
    assert [(request.kind, request.call_id) for request in container.take()] == [(CALL, 1), (CANCEL, 1)]
    container.publish_reply(ERROR, 1, 0, 0, request_released=True)
    caller.publish_cancel(1)
    caller.flush()
    assert container.take() == []
    container.flush()
    assert [reply.call_id for reply in caller.take()] == [1]
    caller.publish_cancel(1)
    caller.flush()
    with pytest.raises(BlockingIOError):
        lane.request_bell.read()


def test_id_of_an_ended_call_may_be_used_again_even_after_a_cancel(lane):
    caller, container, *_ = lane
    for _ in range(3):
        send(caller, 1, b"x")
        caller.publish_cancel(1)
        caller.flush()
        assert [request.kind for request in container.take()] == [CALL, CANCEL]
        container.publish_reply(ERROR, 1, 0, 0, request_released=True)
        container.flush()
        caller.take()


def test_cancels_beyond_the_ring_are_refused(lane):
    caller = lane.caller
    send(caller, 1, b"x")
    with pytest.raises(LaneFull):
        for _ in range(128):
            caller.publish_cancel(1)
    caller.flush()
    assert [request.kind for request in lane.container.take()] == [CALL, CANCEL]


def test_misuse_of_blocks_by_their_owner_is_refused(lane):
    caller, container, *_ = lane
    offset = caller.claim(64)
    for end, wrong in ((caller, offset + 64), (caller, 0), (container, offset)):
        with pytest.raises(ValueError, match="begins at"):
            end.abandon(wrong)
        with pytest.raises(ValueError, match="begins at"):
            end.write_view(wrong, 1)
    with pytest.raises(ValueError, match="65 bytes"):
        caller.write_view(offset, 65)
    with pytest.raises(ValueError, match="call 1"):
        caller.publish_call(1, offset + 64, 1)
    caller.publish_call(1, offset, 64)
    with pytest.raises(ValueError, match="begins at"):
        caller.abandon(offset)
    other = caller.claim(64)
    with pytest.raises(ValueError, match="call 1"):
        caller.publish_call(1, other, 64)
    caller.abandon(other)


def test_misuse_of_calls_by_the_container_is_refused(lane):
    caller, container, *_ = lane
    offset = send(caller, 1, b"x")
    caller.flush()
    container.take()
    with pytest.raises(ValueError, match="call 2"):
        container.publish_reply(REPLY, 2, 0, 0, request_released=True)
    with pytest.raises(ValueError, match="call 1"):
        container.publish_reply(REPLY, 1, offset, 1, request_released=True)
    with pytest.raises(ValueError, match="part"):
        container.publish_reply(PART, 1, 0, 0, request_released=True)
    container.publish_reply(REPLY, 1, 0, 0, request_released=True)
    with pytest.raises(ValueError, match="call 1"):
        container.publish_reply(REPLY, 1, 0, 0, request_released=True)
    with pytest.raises(ValueError, match="begins at"):
        container.release_request(offset)


def test_reply_released_twice_is_refused(lane):
    caller, container, *_ = lane
    send(caller, 1, b"x")
    caller.flush()
    container.take()
    offset = answer(container, 1, b"y")
    with pytest.raises(ValueError, match="begins at"):
        caller.release(offset)
    container.flush()
    caller.take()
    caller.release(offset)
    with pytest.raises(ValueError, match="begins at"):
        caller.release(offset)


def test_views_on_the_peers_half_are_read_only(lane):
    caller, container, *_ = lane
    send(caller, 1, b"x")
    caller.flush()
    (request,) = container.take()
    view = container.view(request.offset, request.nbytes)
    assert view.readonly
    with pytest.raises(TypeError):
        view[0] = 1


def test_counters_count_every_call_exactly(lane):
    caller, container, *_ = lane
    for call_id in range(1, 11):
        send(caller, call_id, b"x")
    caller.publish_cancel(3)
    caller.flush()
    container.set_ready()
    for request in container.take():
        if request.kind == CALL and request.call_id <= 7:
            container.begin(request.call_id)
            assert container.counters().current_call == request.call_id
            answer(container, request.call_id, b"y")
            container.end(request.call_id, 100, error=request.call_id == 7)
    container.flush()
    counters = caller.counters()
    assert counters == container.counters()
    assert (counters.calls_published, counters.calls_taken, counters.calls_done, counters.errors) == (10, 10, 7, 1)
    assert (counters.busy_us, counters.current_call, counters.ready) == (700, 0, 1)
    assert 0 < counters.caller_activity_us <= counters.container_activity_us


def test_calls_in_flight_tell_whether_the_container_took_them(lane):
    caller, container, *_ = lane
    for call_id in (5, 3, 8):
        send(caller, call_id, b"x")
    caller.flush()
    assert caller.in_flight() == [(5, False), (3, False), (8, False)]
    container.take()
    send(caller, 1, b"x")
    answer(container, 3, b"y")
    container.flush()
    caller.take()
    assert caller.in_flight() == [(5, True), (8, True), (1, False)]


def test_draining_lane_takes_no_new_call_and_ends_those_in_flight(lane):
    caller, container, *_ = lane
    send(caller, 1, b"x")
    caller.flush()
    container.drain()
    assert (caller.state, container.state) == (DRAINING, DRAINING)
    with pytest.raises(LaneDraining):
        caller.claim(1)
    assert caller.take() == []
    assert [request.call_id for request in container.take()] == [1]
    answer(container, 1, b"y")
    container.flush()
    assert [reply.call_id for reply in caller.take()] == [1]
    container.drain()


def test_replies_that_were_published_are_taken_before_the_death_is_told(lane):
    caller, container, *_ = lane
    send(caller, 1, b"x")
    send(caller, 2, b"x")
    caller.flush()
    container.take()
    answer(container, 1, b"last words")
    container.flush()
    caller.mark_dead()
    (reply,) = caller.take()
    assert bytes(caller.view(reply.offset, reply.nbytes)) == b"last words"
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
    assert caller.in_flight() == [(2, True)]


def test_a_dead_lane_does_not_drain(lane):
    lane.container.mark_dead()
    lane.caller.drain()
    assert lane.caller.state == DEAD


def test_closed_end_refuses_and_forgives_late_releases(lane):
    caller, container, *_ = lane
    assert caller.state == OPEN
    send(caller, 1, b"x")
    caller.flush()
    container.take()
    answer(container, 1, b"y")
    container.flush()
    (reply,) = caller.take()
    spare = caller.claim(1)
    caller.close()
    caller.close()
    for refused in (
        caller.take,
        caller.flush,
        caller.counters,
        caller.in_flight,
        lambda: caller.claim(1),
        lambda: caller.view(reply.offset, 1),
        lambda: caller.write_view(spare, 1),
        lambda: caller.publish_call(2, spare, 1),
        lambda: caller.wait(0.0),
    ):
        with pytest.raises(LaneDead):
            refused()
    caller.release(reply.offset)
    caller.mark_dead()
    caller.drain()
    assert (caller.state, caller.trim()) == (DEAD, 0)
    assert container.state == OPEN


def test_trim_between_calls_loses_nothing(lane):
    caller, container, *_ = lane
    for round_number in range(1, 5):
        payload = bytes([round_number]) * 100_000
        send(caller, round_number, payload)
        caller.flush()
        (request,) = container.take()
        answer(container, round_number, bytes(container.view(request.offset, request.nbytes)))
        container.flush()
        (reply,) = caller.take()
        assert bytes(caller.view(reply.offset, reply.nbytes)) == payload
        caller.release(reply.offset)
        caller.flush_releases()
        container.take()
        assert caller.trim() > 0
        assert container.trim() > 0
