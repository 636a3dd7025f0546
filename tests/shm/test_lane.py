"""Lanes of the operating system: made, handed over, watched, and gone without a trace."""

import errno
import gc
import mmap
import os

import numpy as np
import pytest
from tests.conformance.lane.lanes import exchange
from tests.shm.conftest import SMALL

from huterox_shm import lane as lane_module
from huterox_shm.errors import HandoverError, LaneDead, LaneFull, PeerProtocolError
from huterox_shm.lane import (
    DEAD,
    DRAINING,
    CallerEnd,
    ContainerEnd,
    LaneConfig,
    LaneDescriptors,
    LaneWatch,
    create_lane,
)
from huterox_shm.segment import create_memfd
from huterox_shm.tensor import array_over, block_array, on_last_view_gone

MIB = 1 << 20


def watch_of(lane):
    """A third party at the lane of two ends."""
    caller, container, *_ = lane
    return LaneWatch.attach(
        LaneDescriptors(os.dup(caller._memory.fd), os.dup(container.fileno()), os.dup(caller.fileno()))
    )


def test_public_names_of_the_module_are_all_there():
    assert all(hasattr(lane_module, name) for name in lane_module.__all__)


# --- made -------------------------------------------------------------------------------------------------------------


def test_ends_know_their_generation_and_sizes(ends):
    for end in ends:
        assert end.generation == 7
        assert end.nbytes_max == MIB
        assert end.layout.ring_entries == 128


def test_descriptors_of_a_lane_are_not_inherited(descriptors):
    assert not any(os.get_inheritable(fd) for fd in descriptors)
    copies = descriptors.duplicate()
    assert not any(os.get_inheritable(fd) for fd in copies)
    copies.close()
    descriptors.close()


@pytest.mark.parametrize("failing", ["memfd_create", "ftruncate", "eventfd", "posix_fallocate"])
def test_lane_that_cannot_be_made_leaves_nothing(no_descriptor_leaks, monkeypatch, failing):
    def refuse(*_):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(os, failing, refuse)
    with pytest.raises((OSError, LaneFull)):
        create_lane(SMALL, 1)


@pytest.mark.parametrize("config", [LaneConfig(ring_entries=1000), LaneConfig(128, 0), LaneConfig(128, 1, 1 << 41)])
def test_lane_of_odd_sizes_is_refused(no_descriptor_leaks, config):
    with pytest.raises(ValueError, match=r"power of two|half"):
        create_lane(config, 1)


def test_largest_lane_is_addresses_only(no_descriptor_leaks):
    descriptors = create_lane(LaneConfig(65536, 1 << 36, 1 << 36), 1)
    assert os.fstat(descriptors.memfd).st_blocks * 512 < 10 * MIB
    with CallerEnd.attach(descriptors) as caller:
        assert caller.nbytes_max == 2**32 - 1  # what an entry can name
        assert caller.abandon(caller.claim(1000)) is None


@pytest.mark.parametrize("nth", [0, 1, 2])
def test_copies_that_cannot_all_be_made_leave_none(descriptors, monkeypatch, fds, nth):
    before = fds()
    real_dup = os.dup

    def dup(fd):
        if fd == descriptors[nth]:
            raise OSError(errno.EMFILE, "Too many open files")
        return real_dup(fd)

    monkeypatch.setattr(os, "dup", dup)
    with pytest.raises(OSError, match="Too many"):
        descriptors.duplicate()
    assert fds() == before
    descriptors.close()


# --- attached ---------------------------------------------------------------------------------------------------------

ATTACHERS = pytest.mark.parametrize("attach", [CallerEnd.attach, ContainerEnd.attach, LaneWatch.attach])


@ATTACHERS
@pytest.mark.parametrize("nbytes", [0, 1, 4095, 4096, MIB])
def test_foreign_segment_is_refused_and_all_descriptors_closed(no_descriptor_leaks, attach, nbytes):
    with pytest.raises((PeerProtocolError, HandoverError)):
        attach(LaneDescriptors(create_memfd(nbytes), os.eventfd(0), os.eventfd(0)))


@ATTACHERS
@pytest.mark.parametrize("order", [(1, 0, 2), (2, 1, 0), (0, 0, 2), (1, 2, 0), (0, 1, 0)])
def test_descriptors_of_the_wrong_kind_are_refused_and_closed(descriptors, attach, order):
    wrong = LaneDescriptors(*(os.dup(descriptors[index]) for index in order))
    with pytest.raises(HandoverError):
        attach(wrong)
    descriptors.close()


@ATTACHERS
def test_unsealed_memfd_is_refused_and_all_descriptors_closed(no_descriptor_leaks, attach):
    memfd = os.memfd_create("huterox-lane", os.MFD_ALLOW_SEALING)
    os.ftruncate(memfd, MIB)
    with pytest.raises(HandoverError, match="sealed"):
        attach(LaneDescriptors(memfd, os.eventfd(0), os.eventfd(0)))


@ATTACHERS
def test_header_of_another_size_is_refused_and_all_descriptors_closed(fds, mappings, attach):
    before = fds(), mappings()
    descriptors = create_lane(SMALL, 7)
    with mmap.mmap(descriptors.memfd, 4096) as header:
        header[32:40] = (2 * MIB).to_bytes(8, "little")
    with pytest.raises(PeerProtocolError) as refused:
        attach(descriptors)
    assert (fds(), mappings()) == before  # though the traceback still lives
    assert refused.value


@ATTACHERS
def test_lane_that_cannot_be_mapped_leaves_nothing(descriptors, attach, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", refuse)
    with pytest.raises(OSError, match="Cannot allocate"):
        attach(descriptors)
    monkeypatch.undo()


# --- gone -------------------------------------------------------------------------------------------------------------


def test_many_lanes_come_and_go_without_a_trace(no_descriptor_leaks, fds, mappings):
    before = fds(), mappings()
    for generation in range(50):
        descriptors = create_lane(SMALL, generation)
        with CallerEnd.attach(descriptors.duplicate()) as caller, ContainerEnd.attach(descriptors) as container:
            caller.publish_call(None, caller.claim(1000), 1000)
            caller.flush()
            container.take()
        del caller, container
        assert (fds(), mappings()) == before


def test_lane_whose_ends_were_never_closed_goes_with_them(no_descriptor_leaks, mappings):
    """All but the descriptors: those are closed by hand, as a lane is."""
    gc.collect()
    before = mappings()
    caller = CallerEnd.attach(create_lane(SMALL, 1))
    caller.write_view(caller.claim(10), 10)[:] = bytes(10)
    fd = caller._memory.fd
    bells = caller._bell.fd, caller._peer_bell.fd
    del caller
    gc.collect()
    assert mappings() == before
    for number in (fd, *bells):
        os.close(number)


def test_end_that_a_lie_has_broken_is_closed_without_a_trace(lane, mappings):
    caller, container, *_ = lane
    before = mappings()
    lane.forge_reply(0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0)
    for _ in range(2):
        with pytest.raises(PeerProtocolError):
            caller.take()
    caller.close()
    container.close()
    assert mappings() == before - 2


def test_view_outlives_both_ends(fds, mappings):
    before = fds(), mappings()
    descriptors = create_lane(SMALL, 1)
    with CallerEnd.attach(descriptors.duplicate()) as caller, ContainerEnd.attach(descriptors) as container:
        caller.publish_call(None, caller.claim(1), 1)
        caller.flush()
        container.take()
        at = container.claim(10)
        container.write_view(at, 10)[:] = b"still here"
        view = caller.view(at, 10)
    assert bytes(view) == b"still here"
    assert mappings() > before[1]
    del view, caller, container
    assert (fds(), mappings()) == before


# --- arrays -----------------------------------------------------------------------------------------------------------


def test_reply_block_is_released_when_its_last_array_is_gone(lane):
    caller, container, *_ = lane
    *_, offset, nbytes = exchange(lane, b"a", np.arange(4, dtype="<f4").tobytes())
    block = block_array(caller.view(offset, nbytes))
    on_last_view_gone(block, caller.release, offset)
    tail = array_over(block, "<f4", (4,))[2:]
    del block
    assert tail.tolist() == [2.0, 3.0]
    assert caller.releases_pending == 0
    del tail
    assert caller.releases_pending == 1
    caller.flush_releases()
    container.take()
    assert not container.out


def test_owned_block_is_disowned_when_its_last_array_is_gone(ends):
    caller, _ = ends
    offset = caller.claim(16)
    caller.own(offset)
    block = block_array(caller.write_view(offset, 16))
    on_last_view_gone(block, caller.disown, offset)
    array = array_over(block, "<f4", (4,))
    del block
    array[:] = 1.0
    caller.trim()
    assert caller.owned_count == 1
    del array
    caller.trim()
    assert (caller.owned_count, caller.out) == (0, {})


def test_array_that_outlives_its_lane_ends_quietly(descriptors):
    with CallerEnd.attach(descriptors.duplicate()) as caller, ContainerEnd.attach(descriptors) as container:
        offset = container.claim(5)
        container.write_view(offset, 5)[:] = b"bytes"
        block = block_array(caller.view(offset, 5))
        on_last_view_gone(block, caller.release, offset)
        array = array_over(block, "u1", (5,))
        del block
    assert bytes(array) == b"bytes"
    del array, caller, container


# --- watched ----------------------------------------------------------------------------------------------------------


def test_watch_drains_and_kills_and_wakes_both_ends(lane):
    caller, container, *_ = lane
    with watch_of(lane) as watch:
        assert watch.generation == 7
        watch.drain()
        assert (watch.state, caller.state, container.state) == (DRAINING, DRAINING, DRAINING)
        assert caller.wait(10) and container.wait(10)
        assert (caller.take(), container.take()) == ([], [])
        watch.mark_dead()
        watch.drain()
        assert watch.state == DEAD
        for end in (caller, container):
            assert end.wait(10)
            with pytest.raises(LaneDead):
                end.take()
    watch.close()
    watch.mark_dead()
    watch.drain()
    assert watch.state == DEAD


def test_watch_sees_the_state_that_the_ends_set(lane):
    caller, container, *_ = lane
    with watch_of(lane) as watch:
        caller.drain()
        assert watch.state == DRAINING
        container.mark_dead()
        assert watch.state == DEAD


@pytest.mark.parametrize("word", [0, 4, 2**64 - 1])
def test_watch_believes_no_unknown_state(lane, word):
    with watch_of(lane) as watch:
        lane.memory[128:136] = word.to_bytes(8, "little")
        assert watch.state == DEAD


def test_watch_of_a_lane_whose_ends_are_closed_goes_on(descriptors):
    with LaneWatch.attach(descriptors.duplicate()) as watch:
        CallerEnd.attach(descriptors).close()
        watch.drain()
        assert watch.state == DRAINING


def test_watch_outlives_a_stuffed_doorbell(lane):
    lane.request_bell.ring(2**64 - 2)
    lane.reply_bell.ring(2**64 - 2)
    with watch_of(lane) as watch:
        watch.mark_dead()
    with pytest.raises(LaneDead):
        lane.container.take()
