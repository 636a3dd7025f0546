"""What is measured of processes' memory."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from huterox_kernel.shell import resident
from huterox_kernel.shell.processes import identity_of
from huterox_kernel.shell.resident import (
    BASE_GROWTH_NBYTES,
    GROWTH_NBYTES,
    LANES_NBYTES_MIN,
    HostMemory,
    Tree,
    memfds_of,
    with_room,
)

pytestmark = pytest.mark.system

MIB = 1024 * 1024
NOBODY = 2**22 + 1  # beyond all pids
CONTAINER = 1 << 32 | 1
NOISE_NBYTES = 1 * MIB  # pages of files pass from shared to private when another Python ends


@contextmanager
def process(*code: str) -> Iterator[tuple[int, list[int]]]:
    """A process that has run these lines of code and holds still: its pid, and what it has printed.

    It is measured, and not the tests' own process: what that holds and shares is any earlier test's doing.
    """
    lines = ("import mmap, os", *code, "print(end='', flush=True)", "os.close(1)", "os.read(0, 1)")
    with subprocess.Popen([sys.executable, "-c", "\n".join(lines)], stdin=-1, stdout=-1) as child:
        assert child.stdout is not None
        yield child.pid, [int(line) for line in child.stdout]
        assert child.stdin is not None
        child.stdin.close()  # it ends, as do all that it has forked
        assert child.wait(10) == 0


def lanes(mapped_mb: int, allocated_mb: int) -> str:
    return f"""
memfd = os.memfd_create("huterox-lane")
os.ftruncate(memfd, 64 << 20)
os.posix_fallocate(memfd, 0, {allocated_mb} << 20)
mapped = mmap.mmap(memfd, 64 << 20)
mapped[: {mapped_mb} << 20] = b"x" * ({mapped_mb} << 20)"""


@pytest.mark.parametrize(
    ("seen", "charged"), [(50, 60), (100, 110), (105, 110), (110, 110), (111, 111), (200, 200), (0, 10)]
)
def test_a_little_growth_changes_nothing(seen: int, charged: int) -> None:
    assert with_room(seen, 100, 10) == charged


def test_a_memfd_counts_with_all_its_pages_and_what_is_mapped_of_it_is_left_out() -> None:
    with process() as (pid, _):
        bare = resident.resident(pid)
    with process(lanes(mapped_mb=16, allocated_mb=24)) as (pid, _):
        memfds = memfds_of(pid)
        assert list(memfds.values()) == [24 * MIB]
        with_it, without = resident.resident(pid), resident.resident(pid, memfds)
    assert abs(with_it.private - 16 * MIB - bare.private) < NOISE_NBYTES
    assert abs(without.private - bare.private) < NOISE_NBYTES


@pytest.mark.parametrize(
    ("code", "charged_for_lanes"), [("", LANES_NBYTES_MIN), (lanes(mapped_mb=1, allocated_mb=24), 24 * MIB)]
)
def test_a_container_is_charged_its_lanes_and_a_little_room(code: str, charged_for_lanes: int) -> None:
    with process(code) as (pid, _):
        held = resident.resident(pid, memfds_of(pid))
        charged = HostMemory().measure(Tree(CONTAINER, identity_of(pid)))
    assert abs(charged - (held.private + charged_for_lanes + GROWTH_NBYTES)) < NOISE_NBYTES


def test_who_has_ended_is_charged_nothing() -> None:
    memory = HostMemory()
    with process() as (pid, _):
        lives = Tree(CONTAINER, identity_of(pid))
        assert memory.measure(lives) > 0
        assert memory.measure(lives._replace(worker=lives.worker._replace(start_ticks=1))) == 0  # another has its pid
    assert resident.resident(NOBODY) == (0, 0, 0)
    assert memory.measure(lives) == 0
    assert memory.measure_all([NOBODY], [lives]) == {}


def test_base_and_charges_are_all_that_is_held() -> None:
    """A zygote, and a worker that has written to a fourth of what it shares with it."""
    shares = (
        "held = bytearray(b'x' * (32 << 20))",
        "ours, theirs = os.pipe()",
        "if pid := os.fork():",
        "    os.read(ours, 1)",
        "    print(pid)",
        "else:",
        "    held[: 8 << 20] = b'y' * (8 << 20)",
        "    os.write(theirs, b'1')",
    )
    memory = HostMemory()
    with process(*shares) as (zygote, (worker,)):
        charges = memory.measure_all([zygote], [Tree(CONTAINER, identity_of(worker))])
        held = [resident.resident(pid) for pid in (zygote, worker)]
    together = sum(part.private + part.part for part in held)
    assert 8 * MIB < charges[CONTAINER] < 16 * MIB
    room = LANES_NBYTES_MIN + GROWTH_NBYTES + BASE_GROWTH_NBYTES + MIB  # the base is told in whole MiB
    assert -NOISE_NBYTES < sum(charges.values()) + memory.base_bytes - together < room + NOISE_NBYTES


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
