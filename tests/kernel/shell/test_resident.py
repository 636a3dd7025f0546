"""What is measured of processes' memory."""

import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from huterox_kernel.shell import resident
from huterox_kernel.shell.processes import identity_of
from huterox_kernel.shell.resident import GROWTH_NBYTES, LANES_NBYTES_MIN, HostMemory, Tree, memfds_of, with_room

pytestmark = pytest.mark.system

MIB = 1024 * 1024
NOBODY = 2**22 + 1  # beyond all pids
SELF = Tree(1 << 32 | 1, identity_of(os.getpid()))


@pytest.mark.parametrize(
    ("seen", "charged"), [(50, 60), (100, 110), (105, 110), (110, 110), (111, 111), (200, 200), (0, 10)]
)
def test_a_little_growth_changes_nothing(seen: int, charged: int) -> None:
    assert with_room(seen, 100, 10) == charged


def test_a_memfd_counts_with_all_its_pages_and_what_is_mapped_of_it_is_left_out() -> None:
    before = resident.resident(os.getpid())
    memfd = os.memfd_create("huterox-lane")
    try:
        os.ftruncate(memfd, 64 * MIB)
        os.posix_fallocate(memfd, 0, 24 * MIB)
        with mmap.mmap(memfd, 64 * MIB) as mapped:
            mapped[: 16 * MIB] = b"x" * (16 * MIB)
            memfds = memfds_of(os.getpid())
            assert 24 * MIB in memfds.values()
            with_it, without = resident.resident(os.getpid()), resident.resident(os.getpid(), memfds)
    finally:
        os.close(memfd)
    assert with_it.private >= before.private + 16 * MIB
    assert abs(without.private - before.private) < 4 * MIB


def test_a_container_is_charged_its_lanes_and_a_little_room() -> None:
    held = resident.resident(os.getpid(), memfds_of(os.getpid()))
    charged = HostMemory().measure(SELF)
    assert (
        held.private
        < charged
        <= held.private + LANES_NBYTES_MIN + GROWTH_NBYTES + sum(memfds_of(os.getpid()).values()) + 4 * MIB
    )


def test_who_has_ended_is_charged_nothing() -> None:
    ended = Tree(1, SELF.worker._replace(pid=NOBODY))
    memory = HostMemory()
    assert resident.resident(NOBODY) == (0, 0, 0)
    assert memory.measure(ended) == 0
    assert memory.measure(SELF._replace(worker=SELF.worker._replace(start_ticks=1))) == 0  # another one has its pid
    assert memory.measure_all([NOBODY], [ended]) == {}


def test_base_and_charges_are_all_that_is_held() -> None:
    memory = HostMemory()
    charges = memory.measure_all([os.getppid()], [SELF])
    held = [resident.resident(pid) for pid in (os.getppid(), os.getpid())]
    together = sum(part.private + part.part for part in held)
    assert abs(sum(charges.values()) + memory.base_bytes - together) < 16 * MIB  # what is kept for growth and lanes


HOLDER = """
held = []
for line in iter(input, ""):
    held.append(b"x" * (int(line) << 20))
    print(flush=True)
"""


@contextmanager
def holder() -> Iterator[tuple[Tree, Callable[[int], None]]]:
    """A process, and how to have it take so many MiB more."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None

        def take(mib: int) -> None:
            print(mib, file=process.stdin, flush=True)
            assert process.stdout.readline() == "\n"

        try:
            take(0)
            yield Tree(1, identity_of(process.pid)), take
        finally:
            process.kill()


def test_room_to_grow_is_counted_from_when_it_is_ready_and_not_from_the_midst_of_its_load() -> None:
    memory = HostMemory()
    with holder() as (tree, take):
        memory.measure_all([], [tree])
        take(32)
        charged = memory.measure(tree)
        held = resident.resident(tree.worker.pid).private
        assert charged == held + LANES_NBYTES_MIN + GROWTH_NBYTES
        assert memory.measure_all([], [tree]) == {1: charged}
