"""Whose a block is, and when it is free again."""

import sys
import threading

import pytest
from tests.conformance.lane.lanes import (
    CALLS_MAX,
    ENTRIES,
    all_pages_are_back,
    answer,
    check_slab,
    exchange,
    nothing_is_out,
    open_calls,
    publish,
    send,
)

from huterox_shm.errors import LaneFull, LaneTooSmall, PeerProtocolError
from huterox_shm.lane import DEAD, PART, REPLY, REQUEST_RELEASED, STREAM


def end_call(lane, call_id, flags=REQUEST_RELEASED):
    """The container answers without a block, and the caller takes it."""
    publish(lane.container, REPLY, call_id, flags=flags)
    lane.container.flush()
    lane.caller.take()


def tell_releases(lane, rounds=20):
    """Releases of both ends reach the other."""
    for _ in range(rounds):
        lane.caller.flush_releases()
        lane.container.take()
        lane.container.flush_releases()
        lane.caller.take()
    assert rounds == 1 or not (lane.caller.releases_pending or lane.container.releases_pending)


# --- released by the peer ---------------------------------------------------------------------------------------------


def test_releases_travel_with_the_next_call(lane):
    caller, container, *_ = lane
    for call_id in open_calls(lane, 5):
        answer(container, call_id, b"y")
    container.flush()
    for *_, offset, _ in caller.take():
        caller.release(offset)
    assert caller.releases_pending == 5
    send(caller)
    caller.flush()
    assert caller.releases_pending == 0
    assert len(container.take()) == 1
    assert nothing_is_out(container)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 7, 13, 64])
def test_any_number_of_replies_is_released_at_once(lane, count):
    caller, container, *_ = lane
    for call_id in open_calls(lane, count):
        answer(container, call_id, b"y")
    container.flush()
    for *_, offset, _ in caller.take():
        caller.release(offset)
    tell_releases(lane)
    assert nothing_is_out(container)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 7, 13, 64])
def test_any_number_of_kept_requests_is_released_at_once(lane, count):
    caller, container, *_ = lane
    for call_id in open_calls(lane, count):
        publish(container, REPLY, call_id, flags=0)
    container.flush()
    caller.take()
    assert len(caller.out) == count
    for call_id in range(1, count + 1):
        container.release_request(call_id)
    assert container.releases_pending == count
    tell_releases(lane)
    assert nothing_is_out(caller)


def test_request_that_the_model_keeps_is_freed_when_it_is_released_later(lane):
    caller, container, *_ = lane
    send(caller, b"keep me")
    caller.flush()
    ((*_, offset, nbytes, _, _),) = container.take()
    end_call(lane, 1, flags=0)
    assert list(caller.out) == [offset]
    assert bytes(container.view(offset, nbytes)) == b"keep me"
    container.release_request(1)
    tell_releases(lane)
    assert nothing_is_out(caller)


def test_release_of_a_kept_request_may_travel_with_its_own_answer(lane):
    open_calls(lane, 1)
    publish(lane.container, REPLY, 1, flags=0)
    lane.container.release_request(1)
    lane.container.flush()
    lane.caller.take()
    assert lane.container.releases_pending == 0
    assert nothing_is_out(lane.caller)


def test_request_may_be_released_before_its_answer_is_published(lane):
    """A thread of the model's may let go of its input at any moment; the entry of the answer carries the release."""
    open_calls(lane, 2)
    lane.container.release_request(1)
    publish(lane.container, REPLY, 1, flags=0)
    lane.container.flush()
    lane.container.release_request(2)
    lane.container.flush_releases()
    assert len(lane.caller.take()) == 1
    assert len(lane.caller.out) == 1  # until its answer is here
    end_call(lane, 2, flags=0)
    assert nothing_is_out(lane.caller)


def test_release_may_overtake_an_answer_that_waits_for_a_place(lane):
    caller, container, *_ = lane
    open_calls(lane, 1)
    with pytest.raises(LaneFull):
        while True:
            publish(container, PART, 1)
    container.flush()
    for call_id in [1, *open_calls(lane, CALLS_MAX - 1)]:
        publish(container, REPLY, call_id, flags=0)
        container.release_request(call_id)
    tell_releases(lane)
    assert caller.calls == {}
    assert nothing_is_out(caller)


def test_releases_leave_places_for_acknowledgements_and_for_answers_that_are_due(lane):
    caller, container, *_ = lane
    open_calls(lane, 1, flags=STREAM)
    with pytest.raises(LaneFull):
        while True:
            answer(container, 1, b"part", kind=PART)
    container.abandon(list(container.out)[-1])
    container.flush()
    for _ in range(60):
        caller.cancel(1)
    for *_, offset, _ in caller.take():
        caller.release(offset)
        caller.flush_releases()
    assert caller.releases_pending > 0
    assert caller._producer.published - caller._producer.acked == ENTRIES - 8
    for _ in range(ENTRIES):
        container.release_request(1)
        container.flush_releases()
    assert container._producer.published - container._producer.acked == ENTRIES - 8 - container.open_count


def test_releases_that_find_no_place_wait_for_one(lane):
    caller, container, *_ = lane
    ids = open_calls(lane, 64)
    with pytest.raises(LaneFull):
        while True:
            publish(container, PART, 1)
    for call_id in ids:
        publish(container, REPLY, call_id, flags=0)
        container.release_request(call_id)
        container.flush_releases()
    assert container.releases_pending > 0
    container.flush()
    caller.take()
    tell_releases(lane)
    assert nothing_is_out(caller)


def test_releases_may_come_from_other_threads_while_entries_are_published(lane):
    caller, container, *_ = lane
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(20):
            # Half of what a ring takes: of the releases before, up to a quarter of it may not be acknowledged yet.
            for call_id in open_calls(lane, CALLS_MAX // 2):
                answer(container, call_id, b"y", flags=0)
            container.flush()
            offsets = [offset for *_, offset, _ in caller.take()]
            releases = [(caller.release, offsets), (container.release_request, list(caller._kept))]
            threads = [threading.Thread(target=lambda f=f, xs=xs: [f(x) for x in xs]) for f, xs in releases]
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                tell_releases(lane, rounds=1)
            tell_releases(lane)
            assert nothing_is_out(caller) and nothing_is_out(container)
    finally:
        sys.setswitchinterval(interval)


# --- owned ------------------------------------------------------------------------------------------------------------


def claim_owned(caller, payload=b"mine"):
    offset = caller.claim(len(payload))
    caller.write_view(offset, len(payload))[:] = payload
    caller.own(offset)
    return offset


@pytest.mark.parametrize("named", ["by offset", "in blocks"])
def test_owned_block_serves_many_calls_and_goes_when_it_is_disowned(lane, named):
    caller, container, *_ = lane
    mine = claim_owned(caller)
    for call_id in (1, 2, 3):
        caller.publish_call(None, mine, 4, blocks=None if named == "by offset" else (mine,))
        caller.flush()
        ((*_, offset, nbytes, _, _),) = container.take()
        assert bytes(container.view(offset, nbytes)) == b"mine"
        end_call(lane, call_id)
        assert (list(caller.out), caller.owned_count) == ([mine], 1)
    caller.disown(mine)
    caller.trim()
    assert caller.owned_count == 0
    assert nothing_is_out(caller)


@pytest.mark.parametrize("named", ["by offset", "in blocks"])
def test_owned_block_that_is_disowned_early_stays_until_its_last_call_has_ended(lane, named):
    caller, container, *_ = lane
    mine = claim_owned(caller)
    for _ in range(2):
        caller.publish_call(None, mine, 4, blocks=None if named == "by offset" else (mine,))
    caller.disown(mine)
    caller.flush()
    container.take()
    for call_id in (2, 1):
        assert list(caller.out) == [mine]
        end_call(lane, call_id)
    assert nothing_is_out(caller)
    assert caller.owned_count == 0


def test_owned_block_that_the_model_keeps_stays_until_it_is_released(lane):
    caller, container, *_ = lane
    mine = claim_owned(caller)
    caller.publish_call(None, mine, 4)
    caller.flush()
    container.take()
    end_call(lane, 1, flags=0)
    caller.disown(mine)
    caller.trim()
    assert list(caller.out) == [mine]
    container.release_request(1)
    tell_releases(lane)
    assert nothing_is_out(caller)


def test_call_with_blocks_of_both_kinds_frees_what_is_not_owned(lane):
    caller, container, *_ = lane
    mine, table, own = claim_owned(caller), caller.claim(32), caller.claim(100)
    caller.publish_call(None, table, 32, blocks=(table, mine, own, mine))
    caller.flush()
    container.take()
    end_call(lane, 1)
    assert list(caller.out) == [mine]
    caller.disown(mine)
    assert caller.claim(1) >= 0
    assert caller.owned_count == 0


def test_calls_without_owned_blocks_are_not_troubled_by_other_calls_that_have_some(lane):
    caller, container, *_ = lane
    mine = claim_owned(caller)
    send(caller)
    caller.publish_call(None, mine, 4)
    send(caller)
    caller.flush()
    container.take()
    for call_id in (1, 2, 3):
        end_call(lane, call_id)
    assert list(caller.out) == [mine]


def test_owned_block_that_no_call_has_used_goes_when_it_is_disowned(lane):
    mine = claim_owned(lane.caller)
    lane.caller.disown(mine)
    lane.caller.claim(1)
    assert (len(lane.caller.out), lane.caller.owned_count) == (1, 0)


def test_idle_lane_gives_back_the_pages_of_what_was_disowned(lane):
    lane.caller.disown(claim_owned(lane.caller))
    assert all_pages_are_back(lane.caller)


def test_refused_call_counts_no_use_of_an_owned_block(lane):
    caller = lane.caller
    open_calls(lane, 64)
    mine = claim_owned(caller)
    for blocks in (None, (mine,)):
        with pytest.raises(LaneFull):
            caller.publish_call(None, mine, 4, blocks=blocks)
    caller.disown(mine)
    caller.trim()
    assert mine not in caller.out


# --- full, too large, wrong -------------------------------------------------------------------------------------------


def test_full_half_is_refused_until_a_block_comes_back(lane):
    caller, *_ = lane
    send(caller, bytes(caller.nbytes_max))
    (offset,) = caller.out
    with pytest.raises(LaneFull):
        caller.claim(1)
    caller.flush()
    lane.container.take()
    end_call(lane, 1)
    assert caller.claim(caller.nbytes_max) == offset


def test_block_larger_than_the_half_is_refused_with_the_limit(lane):
    for end in (lane.caller, lane.container):
        with pytest.raises(LaneTooSmall) as refused:
            end.claim(end.nbytes_max + 1)
        assert (refused.value.need, refused.value.limit) == (end.nbytes_max + 1, end.nbytes_max)


def test_abandoned_block_is_free_again(lane):
    for end in (lane.caller, lane.container):
        offset = end.claim(1000)
        end.abandon(offset)
        assert nothing_is_out(end)


def test_misuse_of_blocks_by_the_caller_is_refused(lane):
    caller = lane.caller
    offset = caller.claim(64)
    for wrong in (offset + 64, 0, -1):
        with pytest.raises(ValueError, match="begins at"):
            caller.abandon(wrong)
        with pytest.raises(ValueError, match="begins at"):
            caller.write_view(wrong, 1)
    with pytest.raises(ValueError, match="65 bytes"):
        caller.write_view(offset, 65)
    check_slab(caller)


@pytest.mark.parametrize("use", ["abandon", "write_view"])
def test_block_that_the_container_does_not_have_ends_the_lane(lane, use):
    """Only a caller that has released it before it was published can be the reason."""
    container = lane.container
    offset = container.claim(64)
    with pytest.raises(PeerProtocolError, match="begins at"):
        container.abandon(offset + 64) if use == "abandon" else container.write_view(offset, 65)
    assert lane.caller.state == DEAD


def test_views_on_the_peers_half_are_read_only(lane):
    *_, offset, nbytes = exchange(lane)
    view = lane.caller.view(offset, nbytes)
    assert view.readonly
    with pytest.raises(TypeError):
        view[0] = 1


def test_reference_outside_of_the_callers_half_ends_the_lane(make_lane):
    layout_of = make_lane()
    low, high = layout_of.layout.request_half, layout_of.layout.reply_half
    layout_of.container.check_block(low, high - low)
    layout_of.container.check_block(high - 64, 64)
    layout_of.close()
    for offset, nbytes in ((low - 64, 64), (high, 1), (low + 1, 1), (high - 64, 65), (low, 2**64), (2**64 - 64, 64)):
        lane = make_lane()
        with pytest.raises(PeerProtocolError, match="no block"):
            lane.container.check_block(offset, nbytes)
        assert lane.caller.state == DEAD
        lane.close()


# --- pages ------------------------------------------------------------------------------------------------------------


def test_trim_between_calls_loses_nothing(lane):
    caller, container, *_ = lane
    for number in range(1, 5):
        payload = bytes([number]) * 100_000
        *_, offset, nbytes = exchange(lane, payload, payload[::-1])
        assert bytes(caller.view(offset, nbytes)) == payload
        caller.release(offset)
        caller.flush_releases()
        container.take()
        assert caller.trim() > 0
        assert container.trim() > 0


def test_trim_leaves_what_the_other_side_still_reads(lane):
    caller, container, *_ = lane
    *_, offset, nbytes = exchange(lane, b"q" * 1000, b"a" * 1000)
    send(caller, b"second")
    caller.flush()
    caller.trim()
    container.trim()
    ((*_, request_at, request_nbytes, _, _),) = container.take()
    assert bytes(container.view(request_at, request_nbytes)) == b"second"
    assert bytes(caller.view(offset, nbytes)) == b"a" * 1000


def test_pinned_lane_gives_no_page_back_at_either_end(lane):
    caller, container, *_ = lane
    container.set_pinned()
    *_, offset, _ = exchange(lane, bytes(100_000), bytes(100_000))
    caller.release(offset)
    tell_releases(lane)
    assert (caller.trim(), container.trim()) == (0, 0)
    assert caller.slab_stats().reserved_nbytes > 0
    assert container.slab_stats().reserved_nbytes > 0
