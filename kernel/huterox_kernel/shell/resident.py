"""What host memory containers and zygotes hold, measured so that the sum holds whatever comes and goes.

Problem: workers share pages with the zygote that they were forked from. Proportional set sizes add up at any one time,
but each grows when a sibling ends. Idea: a container is charged what would be free if it ended, the private memory of
its processes and all of its lanes; the rest of what zygotes and workers hold, each page once, is the *base*, which is
charged to the node. When siblings end, pages may pass from the base to the last one that has them: the sum stays.

A lane's memory goes with its container, whoever has mapped it. So memfds that a container has open are charged with all
pages that they have, and what of them is mapped is left out elsewhere.

Pages that only processes of one container share are its own, too. They are told from those of the base by what its
worker shared while it was alone: more than that it cannot have in common with others.
"""

import os
import re
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from huterox_kernel.shell import processes
from huterox_kernel.shell.processes import Identity
from huterox_kernel.shell.strays import strays

KIB: Final = 1024
MIB: Final = 1024 * KIB

SHARED_MEMORY_MIN: Final = 256 * KIB
"""With less shared memory than this in a process, it is not looked at what of it lies in memfds."""

LANES_NBYTES_MIN: Final = 2 * MIB
"""A container is charged at least so much for its lanes: it has them soon after it is ready, the kernel's and a few."""

GROWTH_NBYTES: Final = 1 * MIB
BASE_GROWTH_NBYTES: Final = 4 * MIB
"""A container, and the base, are charged so much more than they were at first: what grows so little changes no sum."""

LOOKS_SKIPPED_MAX: Final = 59
"""So many times in a row what was measured is taken to hold still, where no process has run since."""

DISTURBED_MAX: Final = 3
"""So many times in a row the base is left as it was, where processes ended while it was measured: a page is counted by
parts, and they make one whole only where all who have it are asked."""

_FIELD: Final = re.compile(rb"^(\w+): +(\d+) kB$", re.MULTILINE)
_MEMFD_MAPPED: Final = re.compile(
    rb"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ (\d+) +/memfd:[^\n]*\n((?:[A-Z][^\n]*\n)+)", re.MULTILINE
)
_MEMFD: Final = "/memfd:"


class Resident(NamedTuple):
    """What one process, or several, have in memory, in bytes.

    `private` nobody else has mapped. `shared` others have, too, and `part` is the share of it that falls to them.
    """

    private: int = 0
    shared: int = 0
    part: int = 0


class Tree(NamedTuple):
    """A container's processes: its worker, and all that came of it."""

    container: int
    worker: Identity
    mark: int = 0


class HostMemory:
    """Measures, and remembers what was measured. Any thread may ask; `measure_all` is for one at a time."""

    def __init__(self) -> None:
        self.base_bytes = 0
        self.zygotes: dict[int, int] = {}  # pid -> all that it has in memory, shared or not
        self._charges: dict[int, int] = {}
        self._first: dict[int, int] = {}  # container -> what was measured first
        self._first_base: tuple[frozenset[int], int] = (frozenset(), 0)  # the same of the base, and for which zygotes
        self._alone: dict[int, int] = {}  # container -> what its worker shared when it was alone
        self._signs: dict[int, bytes] = {}
        self._skipped = 0
        self._disturbed = 0

    def measure(self, tree: Tree) -> int:
        """What a container is charged that has just become ready; 0 where its worker has ended."""
        self._first.pop(tree.container, None)  # seen in the midst of its load
        seen = self._look_at(tree, processes.descendants(tree.worker.pid))
        return seen[0] if seen is not None else 0

    def measure_all(self, zygotes: Sequence[int], trees: Sequence[Tree]) -> dict[int, int]:
        """Measure the base, and what each container is charged; those whose worker has ended are left out."""
        adopted = strays([*zygotes, *(tree.worker.pid for tree in trees)])
        others = {tree: [*processes.descendants(tree.worker.pid), *adopted.get(tree.mark, ())] for tree in trees}
        pids = [*zygotes, *(pid for tree in trees for pid in (tree.worker.pid, *others[tree]))]
        signs = {pid: processes.activity(pid) for pid in pids}
        if signs == self._signs and self._skipped < LOOKS_SKIPPED_MAX:
            self._skipped += 1
            return self._charges
        self._signs, self._skipped = signs, 0
        charges: dict[int, int] = {}
        self.zygotes, base_bytes = {}, 0
        for pid in zygotes:
            held = resident(pid)
            self.zygotes[pid] = held.private + held.shared
            base_bytes += held.private + held.part
        for tree in trees:
            if (seen := self._look_at(tree, others[tree])) is not None:
                charges[tree.container], rest = seen
                base_bytes += rest
        for container in self._first.keys() - {tree.container for tree in trees}:
            self._first.pop(container, None)
            self._alone.pop(container, None)
        self._charges = charges
        disturbed = any(not processes.activity(pid) for pid in pids)
        self._disturbed = self._disturbed + 1 if disturbed else 0
        if not disturbed or self._disturbed > DISTURBED_MAX or not self.base_bytes:
            self._settle_base(frozenset(zygotes), base_bytes)
        return self._charges

    def _settle_base(self, zygotes: frozenset[int], base_bytes: int) -> None:
        if self._first_base[0] != zygotes:
            self._first_base = zygotes, base_bytes
        charged = with_room(base_bytes, self._first_base[1], BASE_GROWTH_NBYTES)
        self.base_bytes = -(-charged // MIB) * MIB  # a change of less is not worth telling

    def _look_at(self, tree: Tree, others: Sequence[int]) -> tuple[int, int] | None:
        """What a container is charged, and what it adds to the base; None where its worker has ended."""
        memfds: dict[int, int] = {}
        for pid in (tree.worker.pid, *others):
            memfds |= memfds_of(pid)
        worker = resident(tree.worker.pid, memfds)
        if not worker.private or not processes.is_alive(tree.worker):
            return None
        private, part = worker.private, worker.part
        own = 0
        if others:
            for pid in others:
                other = resident(pid, memfds)
                private, part = private + other.private, part + other.part
            own = max(0, part - self._alone.get(tree.container, 0))
        else:
            self._alone[tree.container] = worker.shared
        seen = private + own + max(LANES_NBYTES_MIN, sum(memfds.values()))
        first = self._first.setdefault(tree.container, seen)
        return with_room(seen, first, GROWTH_NBYTES), part - own


def with_room(seen: int, first: int, growth: int) -> int:
    """What is charged for what is seen: as much more as it may still grow from what it was first."""
    return seen + min(max(0, first + growth - seen), growth)


def resident(pid: int, memfds: Container[int] = ()) -> Resident:
    """What a process has in memory, but for what is mapped of these memfds, by their inodes. It may have ended."""
    try:
        fields = _fields(Path(f"/proc/{pid}/smaps_rollup").read_bytes())
    except OSError:
        return Resident()
    total = _resident_of(fields)
    if not memfds or fields.get(b"Pss_Shmem", 0) < SHARED_MEMORY_MIN:
        return total
    return _without(total, pid, memfds)


def _without(total: Resident, pid: int, memfds: Container[int]) -> Resident:
    try:
        text = Path(f"/proc/{pid}/smaps").read_bytes()
    except OSError:
        return Resident()
    private, shared, part = total
    for inode, fields in _MEMFD_MAPPED.findall(text):
        if int(inode) in memfds:
            mapped = _resident_of(_fields(fields))
            private, shared, part = private - mapped.private, shared - mapped.shared, part - mapped.part
    return Resident(max(0, private), max(0, shared), max(0, part))


def _fields(text: bytes) -> dict[bytes, int]:
    return {name: int(kib) * KIB for name, kib in _FIELD.findall(text)}


def _resident_of(fields: dict[bytes, int]) -> Resident:
    private = fields[b"Private_Clean"] + fields[b"Private_Dirty"]
    huge = fields.get(b"Private_Hugetlb", 0)  # not among the others
    return Resident(private + huge, fields[b"Rss"] - private, max(0, fields[b"Pss"] - private))


def memfds_of(pid: int) -> dict[int, int]:
    """The memfds that a process has open: inode -> bytes that it has pages for, mapped or not."""
    folder = f"/proc/{pid}/fd"
    found = {}
    try:
        for name in os.listdir(folder):  # noqa: PTH208 - Path is slower, and lanes are many
            path = f"{folder}/{name}"
            try:
                if os.readlink(path).startswith(_MEMFD):  # noqa: PTH115
                    status = os.stat(path)  # noqa: PTH116
                    found[status.st_ino] = status.st_blocks * 512
            except FileNotFoundError:  # closed meanwhile
                continue
    except OSError:
        return {}
    return found
