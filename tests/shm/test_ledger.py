"""The ledger: counted by the container, read and cleared by the kernel, out of the callers' reach."""

import errno
import mmap
import os
import subprocess
import sys

import pytest
from tests.conformance.lane.lanes import answer, make_segment_lane, open_calls

from huterox_shm.doorbell import create_eventfd
from huterox_shm.errors import HandoverError, LaneFull
from huterox_shm.lane import LaneCounters
from huterox_shm.ledger import SLOT_NBYTES, Ledger, create_ledger
from huterox_shm.segment import create_memfd

SLOTS = 5
ZEROS = LaneCounters(0, 0, 0, 0, 0)


@pytest.fixture
def sides(no_descriptor_leaks):
    """The kernel's and the container's mapping of one ledger."""
    fd = create_ledger(SLOTS)
    kernel, container = Ledger.attach(os.dup(fd)), Ledger.attach(fd)
    yield kernel, container
    kernel.close()
    container.close()


def test_fresh_ledger_is_all_zeros(sides):
    for side in sides:
        assert side.slots == SLOTS
        assert [side.read(index) for index in range(SLOTS)] == [ZEROS] * SLOTS


def test_one_side_reads_what_the_other_counts(sides):
    kernel, container = sides
    words = container.slot(3)
    for index in range(5):
        words[index] = index + 10
    assert kernel.read(3) == LaneCounters(10, 11, 12, 13, 14)
    assert [kernel.read(index) for index in (0, 1, 2, 4)] == [ZEROS] * 4


def test_slot_is_a_line_of_its_own(sides):
    kernel, container = sides
    container.slot(2)[:] = memoryview(b"\xff" * SLOT_NBYTES).cast("Q")
    assert set(kernel.read(2)) == {2**64 - 1}
    assert kernel.read(1) == kernel.read(3) == ZEROS


def test_cleared_slot_is_zero_for_both_sides_and_the_others_stay(sides):
    kernel, container = sides
    for index in range(SLOTS):
        container.slot(index)[:] = memoryview(b"\xff" * SLOT_NBYTES).cast("Q")
    kernel.clear(2)
    assert container.slot(2).tolist() == [0] * 8
    assert [set(kernel.read(index)) for index in (0, 1, 3, 4)] == [{2**64 - 1}] * 4


def test_slot_is_used_again_after_it_was_cleared(sides):
    kernel, container = sides
    for calls in (3, 5):
        lane = make_segment_lane(counters=container.slot(1))
        for call_id in open_calls(lane, calls):
            answer(lane.container, call_id)
            lane.container.count(1, 10)
        lane.container.count_error()
        lane.container.flush()
        assert kernel.read(1)[:4] == (calls, calls, 1, 10 * calls)
        assert kernel.read(1).activity_us > 0
        lane.close()
        assert kernel.read(1)[:4] == (calls, calls, 1, 10 * calls)  # final, after the container has let go
        kernel.clear(1)
        assert kernel.read(1) == ZEROS


def test_lanes_count_side_by_side(sides):
    kernel, container = sides
    lanes = [make_segment_lane(counters=container.slot(index)) for index in range(SLOTS)]
    for index, lane in enumerate(lanes):
        open_calls(lane, index + 1)
    assert [kernel.read(index).calls_taken for index in range(SLOTS)] == [1, 2, 3, 4, 5]
    for lane in lanes:
        lane.close()


def test_caller_cannot_reach_what_is_counted(sides):
    kernel, container = sides
    lane = make_segment_lane(counters=container.slot(0))
    lane.memory[: lane.layout.rings_end] = b"\xff" * lane.layout.rings_end
    assert kernel.read(0) == ZEROS
    lane.close()


@pytest.mark.parametrize("index", [-1, -SLOTS, SLOTS, 1 << 40])
def test_slot_that_is_not_there_is_refused(sides, index):
    for side in sides:
        for use in (side.slot, side.read, side.clear):
            with pytest.raises(IndexError, match="slot"):
                use(index)


def test_closed_ledger_has_no_slots_and_closes_again_quietly(no_descriptor_leaks):
    ledger = Ledger.attach(create_ledger(SLOTS))
    ledger.close()
    ledger.close()
    with pytest.raises(IndexError):
        ledger.read(0)


def test_slot_in_use_outlives_its_ledger(no_descriptor_leaks, mappings):
    before = mappings()
    kernel = Ledger.attach(create_ledger(SLOTS))
    words = kernel.slot(1)
    kernel.close()
    words[0] = 1
    assert words[0] == 1
    assert mappings() == before + 1
    del words
    assert mappings() == before


# --- wrong and missing ------------------------------------------------------------------------------------------------


def eventfd():
    return create_eventfd()


def unsealed():
    fd = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 4096)
    return fd


def on_disk():
    return os.open("/proc/self/exe", os.O_RDONLY)


@pytest.mark.parametrize("make", [eventfd, unsealed, on_disk, *(lambda n=n: create_memfd(n) for n in (0, 1, 63, 65))])
def test_descriptor_that_is_no_ledger_is_refused_and_closed(no_descriptor_leaks, make):
    with pytest.raises(HandoverError):
        Ledger.attach(make())


def test_closed_descriptor_is_an_error_of_the_system(no_descriptor_leaks):
    fd = create_ledger(1)
    os.close(fd)
    with pytest.raises((OSError, HandoverError)):
        Ledger.attach(fd)


def test_ledger_that_cannot_be_mapped_leaves_nothing(no_descriptor_leaks, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    fd = create_ledger(1)
    monkeypatch.setattr(mmap, "mmap", refuse)
    with pytest.raises(OSError, match="Cannot allocate"):
        Ledger.attach(fd)


@pytest.mark.parametrize("failing", ["memfd_create", "ftruncate", "posix_fallocate"])
@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EIO])
def test_ledger_that_cannot_be_made_leaves_nothing(no_descriptor_leaks, monkeypatch, failing, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, failing, refuse)
    with pytest.raises((OSError, LaneFull)):
        create_ledger(4)


@pytest.mark.parametrize("slots", [0, -1])
def test_ledger_without_slots_is_refused_and_leaves_nothing(no_descriptor_leaks, slots):
    with pytest.raises(OSError, match="Invalid argument"):
        create_ledger(slots)


def test_ledger_has_its_pages_from_the_start(no_descriptor_leaks):
    fd = create_ledger(512)
    assert os.fstat(fd).st_blocks * 512 == 512 * SLOT_NBYTES == os.fstat(fd).st_size
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
    assert not os.get_inheritable(fd)
    os.close(fd)


# --- another process --------------------------------------------------------------------------------------------------

COUNTS = """
import sys
from huterox_shm.ledger import Ledger
words = Ledger.attach(int(sys.argv[1])).slot(2)
words[0] = 41
words[0] += 1
"""


@pytest.mark.system
def test_what_another_process_has_counted_outlives_it(no_descriptor_leaks):
    fd = create_ledger(SLOTS)
    kernel = Ledger.attach(os.dup(fd))
    subprocess.run([sys.executable, "-c", COUNTS, str(fd)], pass_fds=[fd], check=True, timeout=60)
    os.close(fd)
    assert kernel.read(2) == LaneCounters(42, 0, 0, 0, 0)
    kernel.close()
