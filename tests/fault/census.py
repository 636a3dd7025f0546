"""What processes hold: descriptors, lanes, memory. Read from /proc, so that nobody needs to be asked."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

LANE = "/memfd:huterox-lane (deleted)"
"""How the system shows a lane's memory; a container's ledger looks the same."""


class Memory(NamedTuple):
    """One segment, as some process holds it."""

    inode: int
    nbytes: int  # that it has pages for


def descriptor_count(pid: int) -> int:
    return len(_listed(pid))


def descriptors(pid: int) -> dict[str, int]:
    """How many descriptors of which kind a process has."""
    kinds: Counter[str] = Counter()
    for entry in _listed(pid):
        try:
            kinds[str(entry.readlink()).split(":[")[0]] += 1
        except FileNotFoundError:  # it was the one for this listing
            continue
    return dict(kinds)


def segments_open(pid: int) -> set[Memory]:
    """The segments to which a process has a descriptor."""
    found = set()
    for entry in _listed(pid):
        try:
            if str(entry.readlink()) == LANE:
                status = entry.stat()
                found.add(Memory(status.st_ino, status.st_blocks * 512))
        except FileNotFoundError:  # closed meanwhile, or the process has ended
            continue
    return found


def _listed(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/fd").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return []


def segments_mapped(pid: int) -> set[int]:
    """The inodes of the segments that a process has mapped."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return set()
    return {int(line.split()[4]) for line in lines if line.endswith(LANE)}


def segments(pids: Iterable[int]) -> set[int]:
    """All segments that any of the processes holds, in whichever way."""
    found: set[int] = set()
    for pid in pids:
        found |= segments_mapped(pid) | {memory.inode for memory in segments_open(pid)}
    return found


def pages_nbytes(pids: Iterable[int]) -> int:
    """The memory of all segments that any of the processes holds open, each counted once."""
    largest: dict[int, int] = {}
    for pid in pids:
        for memory in segments_open(pid):
            largest[memory.inode] = max(memory.nbytes, largest.get(memory.inode, 0))
    return sum(largest.values())


def shared_memory_kb() -> int:
    """Of the whole machine."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("Shmem:"):
            return int(line.split()[1])
    raise AssertionError("no Shmem in /proc/meminfo")


def own_memory_kb(pid: int) -> int:
    """What a process has in memory that is not shared with others: its heap, not its lanes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    raise AssertionError(f"no RssAnon of {pid}")


def is_alive(pid: int) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
