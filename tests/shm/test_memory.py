"""What a lane costs, when it gives memory back, and that nothing of it is left."""

import errno
import gc
import os
from pathlib import Path

import numpy as np
import pytest
from tests.conformance.lane.lanes import answer, check_slab, exchange, make_segment_lane, open_calls

from huterox_shm.errors import LaneFull, PeerProtocolError
from huterox_shm.lane import CallerEnd, ContainerEnd, LaneConfig, create_lane

MIB = 1 << 20


@pytest.fixture
def large_lane(no_descriptor_leaks):
    lane = make_segment_lane(LaneConfig())
    yield lane
    lane.close()


def shmem_nbytes():
    """Shared memory of the whole machine."""
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("Shmem:"))
    return int(line.split()[1]) * 1024


def test_default_lane_is_large_and_costs_little_while_idle(large_lane, pages):
    assert large_lane.caller.nbytes_max == large_lane.container.nbytes_max == 512 * MIB
    exchange(large_lane)
    assert pages(large_lane.caller) < MIB


def test_large_block_takes_pages_and_trim_gives_them_back(large_lane, pages):
    caller = large_lane.caller
    rings = pages(caller)
    payload = np.arange(5 * MIB, dtype=np.uint8).tobytes()
    exchange(large_lane, payload)
    used = pages(caller)
    assert 5 * MIB < used < 6 * MIB
    assert caller.trim() == 5 * MIB
    assert pages(caller) == used - 5 * MIB > rings
    exchange(large_lane, payload)


@pytest.mark.parametrize("nbytes", [100, 300_000, 20 * MIB])
def test_idle_lane_costs_no_more_than_a_fresh_one_after_a_trim(large_lane, pages, nbytes):
    caller, container, *_ = large_lane
    fresh = pages(caller)
    for _ in range(3):
        for call_id in open_calls(large_lane, 3):
            answer(container, call_id, bytes(nbytes))
        mine = caller.claim(nbytes)
        caller.own(mine)
        container.flush()
        for *_, offset, _ in caller.take():
            caller.release(offset)
        caller.disown(mine)
        caller.flush_releases()
        container.take()
    assert pages(caller) >= fresh + 3 * nbytes
    caller.trim()
    container.trim()
    assert pages(caller) == fresh
    for end in (caller, container):
        check_slab(end)


def test_block_has_its_pages_before_it_is_handed_out(large_lane, pages):
    before = pages(large_lane.caller)
    large_lane.caller.claim(10 * MIB)
    assert pages(large_lane.caller) == before + 10 * MIB


def test_system_without_memory_is_a_full_lane_and_the_lane_goes_on(lane, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", refuse)
        for end in (lane.caller, lane.container):
            with pytest.raises(LaneFull):
                end.claim(1000)
            check_slab(end)
    exchange(lane, bytes(1000))


def test_claim_that_the_system_refuses_otherwise_loses_no_memory(lane, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", refuse)
        with pytest.raises(OSError, match="Input/output"):
            lane.caller.claim(1000)
    check_slab(lane.caller)
    exchange(lane, bytes(lane.caller.nbytes_max))


def test_pinned_lane_has_all_its_pages_and_keeps_them(lane, pages):
    lane.container.reserve_all()
    lane.container.set_pinned()
    assert pages(lane.caller) == lane.layout.segment_nbytes
    exchange(lane, bytes(300_000), bytes(300_000))
    assert (lane.caller.trim(), lane.container.trim()) == (0, 0)
    assert pages(lane.caller) == lane.layout.segment_nbytes


def test_address_is_where_the_segment_begins(lane):
    address = lane.container.address
    lines = [line for line in Path("/proc/self/maps").read_text().splitlines() if "huterox-lane" in line]
    assert f"{address:x}" in {line.split("-")[0] for line in lines}


@pytest.mark.parametrize("by", ["close", "death", "lie"])
def test_memory_of_a_lane_is_the_systems_again_however_it_ends(no_descriptor_leaks, by):
    """The machine is shared with others: so much memory that they do not matter, and more than one try."""
    for _ in range(5):
        before = shmem_nbytes()
        descriptors = create_lane(LaneConfig(), 1)
        caller, container = CallerEnd.attach(descriptors.duplicate()), ContainerEnd.attach(descriptors)
        for end in (caller, container):
            end.write_view(end.claim(64 * MIB), 64 * MIB)[-1] = 1
        used = shmem_nbytes() - before
        if by == "death":
            caller.mark_dead()
        elif by == "lie":
            caller._bell.ring(2000)
            with pytest.raises(PeerProtocolError):
                caller.take()
        caller.close()
        container.close()
        del end, caller, container
        gc.collect()
        left = shmem_nbytes() - before
        if used > 120 * MIB and left < 16 * MIB:
            return
    pytest.fail(f"{used} bytes were used, {left} are left")


def test_memory_of_a_lane_goes_when_the_last_of_its_views_does(no_descriptor_leaks, mappings):
    before = mappings()
    lane = make_segment_lane()
    *_, offset, nbytes = exchange(lane)
    array = np.frombuffer(lane.caller.view(offset, nbytes), np.uint8)
    lane.close()
    del lane
    assert mappings() == before + 1
    assert array.tobytes() == b"answer"
    del array
    assert mappings() == before
