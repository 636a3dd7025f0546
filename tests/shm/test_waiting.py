"""Ends that wait: for a doorbell, for room."""

import threading

import pytest
from tests.conformance.lane.lanes import answer, exchange, open_calls, publish, send

from huterox_shm.errors import LaneDead, LaneFull, PeerProtocolError
from huterox_shm.lane import CANCEL, PART
from huterox_shm.layout import RELEASE


def fill_replies(lane):
    """Answer a call with all of the reply half; returns the block that the caller has taken."""
    *_, offset, _ = exchange(lane, b"a", bytes(lane.container.nbytes_max))
    with pytest.raises(LaneFull):
        lane.container.claim(1)
    return offset


def ids_of(requests):
    return [call_id for _, _, call_id, *_ in requests]


# --- for the doorbell -------------------------------------------------------------------------------------------------


def test_wait_ends_with_a_doorbell_or_with_its_time(ends):
    caller, container = ends
    assert not caller.wait(0.0)
    assert not caller.wait(-1.0)
    thread = threading.Thread(target=container._peer_bell.ring, args=(1 << 32,))
    thread.start()
    assert caller.wait(10.0)
    thread.join()


def test_wait_tells_pending_releases_first(lane):
    caller, container, *_ = lane
    *_, offset, _ = exchange(lane)
    caller.release(offset)
    assert not caller.wait(0.0)
    container.take()
    assert not container.out


def test_wait_of_a_closed_end_is_refused(ends):
    caller, container = ends
    caller.wait(0.0)
    caller.close()
    container.close()
    for end in ends:
        with pytest.raises(LaneDead):
            end.wait(0.0)


def test_death_ends_a_wait_in_another_thread(ends):
    caller, container = ends
    woken = []

    def wait():
        woken.append(caller.wait(10.0))
        with pytest.raises(LaneDead):
            caller.take()

    thread = threading.Thread(target=wait)
    thread.start()
    container.mark_dead()
    thread.join(20)
    assert woken == [True]


# --- for room ---------------------------------------------------------------------------------------------------------


def test_container_without_room_goes_on_when_the_caller_releases(lane):
    caller, container, *_ = lane
    offset = fill_replies(lane)
    assert not container.wait_for_room(0.0)

    def release():
        caller.release(offset)
        caller.flush_releases()

    thread = threading.Thread(target=release)
    thread.start()
    assert container.wait_for_room(10.0)
    thread.join()
    container.claim(container.nbytes_max)


def test_container_whose_ring_is_full_goes_on_when_the_caller_takes(lane):
    caller, container, *_ = lane
    open_calls(lane, 1)
    with pytest.raises(LaneFull):
        while True:
            publish(container, PART, 1)
    assert not container.wait_for_room(0.0)  # and what is queued has been told
    assert len(caller.take()) == 95
    assert container.wait_for_room(10.0)
    publish(container, PART, 1)


def test_requests_that_come_while_a_container_waits_for_room_are_kept(lane):
    caller, container, *_ = lane
    offset = fill_replies(lane)
    for acknowledges in (True, False):
        send(caller)
        caller.flush()
        assert container.wait_for_room(0.0) is acknowledges
    assert container.wait(10.0)  # the doorbell stays readable for them
    caller.release(offset)
    send(caller)
    caller.flush()
    assert container.wait_for_room(10.0)
    send(caller)
    caller.flush()
    assert container.wait(10.0)
    assert ids_of(container.take()) == [2, 3, 4, 5]
    assert container.take() == []


def test_cancellations_that_come_while_a_container_waits_for_room_are_not_overlooked(lane):
    caller, container, *_ = lane
    fill_replies(lane)
    open_calls(lane, 1)
    caller.cancel(2)
    caller.flush()
    container.wait_for_room(0.0)
    assert [kind for kind, *_ in container.take()] == [CANCEL]
    assert not container.took_calls_only


def test_as_many_calls_as_may_be_and_their_cancellations_are_kept(lane):
    caller, container, *_ = lane
    fill_replies(lane)
    for _ in range(64):
        caller.cancel(send(caller))
        caller.flush()
        container.wait_for_room(0.0)
        caller.take()
    assert len(container.take()) == 128


def test_caller_that_cancels_without_end_while_a_container_waits_for_room_is_cut_off(lane):
    caller, container, *_ = lane
    fill_replies(lane)
    send(caller)
    with pytest.raises(PeerProtocolError, match="cancellations"):
        for _ in range(1000):
            caller.cancel(2)
            caller.flush()
            container.wait_for_room(0.0)
            caller.take()
    assert len(container._backlog) <= 129


def test_dead_lane_ends_the_wait_for_room(lane):
    fill_replies(lane)
    lane.caller.mark_dead()
    with pytest.raises(LaneDead):
        lane.container.wait_for_room(10.0)


def test_nonsense_ends_the_wait_for_room(lane):
    fill_replies(lane)
    lane.forge_request(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, index=1)
    with pytest.raises(PeerProtocolError):
        lane.container.wait_for_room(10.0)


def test_caller_that_rings_without_end_does_not_hold_a_container_that_waits_for_room(lane, monkeypatch):
    """However fast it rings: here as soon as it was looked at."""
    container = lane.container
    fill_replies(lane)
    looks = 0

    def read():
        nonlocal looks
        looks += 1
        assert looks < 10_000, "it looks for ever"
        count = container._bell.read()
        lane.request_bell.wake()
        return count

    monkeypatch.setattr(container, "_read_bell", read)
    lane.request_bell.wake()
    assert not container.wait_for_room(0.0)
    assert not container.wait_for_room(-1.0)
    assert looks == 2
    assert not container.wait_for_room(0.01)


def test_block_that_is_released_unseen_while_a_container_waits_for_room_ends_the_lane(lane):
    """As a stream's part that has a block and no place in the ring."""
    caller, container, *_ = lane
    open_calls(lane, 1)
    offset = container.claim(64)
    with pytest.raises(LaneFull):
        while True:
            publish(container, PART, 1)
    lane.forge_request(RELEASE, 0, 1, 0, offset, 0, 0, 0, 0, 0, 0, 0, index=1)
    assert container.wait_for_room(0.0)
    with pytest.raises(PeerProtocolError, match="unseen"):
        container.abandon(offset)
    with pytest.raises(LaneDead):
        caller.take()
        caller.take()


def test_answers_that_wait_for_a_place_are_told_while_the_container_waits(lane):
    caller, container, *_ = lane
    open_calls(lane, 1)
    with pytest.raises(LaneFull):
        while True:
            publish(container, PART, 1)
    container.flush()
    for call_id in [1, *open_calls(lane, 63)]:
        answer(container, call_id)
    container.flush()
    waiting = container.open_count
    assert waiting > 0
    caller.take()
    assert container.wait_for_room(10.0)
    assert container.open_count == 0
    assert len(caller.take()) == waiting
