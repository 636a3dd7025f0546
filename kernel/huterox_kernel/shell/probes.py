"""What the node has: memory in all, memory now, whether the system had to kill for want of it."""

from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

from huterox_kernel.shell import cgroups
from huterox_kernel.shell.cgroups import Group

_MEMINFO = Path("/proc/meminfo")
_VMSTAT = Path("/proc/vmstat")
_SELF = Path("/proc/self")


NO_LIMIT: Final = 1 << 62
"""Version 1 has no word for none: it tells the largest number that it can."""


class _Files(NamedTuple):
    """Where control groups of one version tell of memory: limits, use, and in `memory.stat` what may be taken back."""

    limits: tuple[str, ...]
    used: str
    reclaimable: tuple[str, ...]  # the first that is there


_FILES = {
    1: _Files(("memory.limit_in_bytes",), "memory.usage_in_bytes", ("total_inactive_file", "inactive_file")),
    2: _Files(("memory.max", "memory.high"), "memory.current", ("inactive_file",)),
}
_HIERARCHY = "hierarchical_memory_limit"  # version 1: the least of all groups above, also of those that cannot be seen


def host_bytes_total(process: Path = _SELF, meminfo: Path = _MEMINFO) -> int:
    """Memory of this machine, or of the control groups that the kernel runs in, whichever is least."""
    return min([_meminfo("MemTotal", meminfo), *(limit for group in _groups(process) if (limit := _limit(group)))])


def host_bytes_free(process: Path = _SELF, meminfo: Path = _MEMINFO) -> int:
    """What the operating system says is available now, within the limits of these groups.

    Of what a group uses, files that nobody has read lately are given back when memory is short.
    """
    free = [_meminfo("MemAvailable", meminfo)]
    for group in _groups(process):
        if limit := _limit(group):
            free.append(max(0, limit - _used(group)))
    return min(free)


@lru_cache(maxsize=8)
def _groups(process: Path) -> tuple[Group, ...]:
    """Those that can have a limit. They are asked with each heartbeat."""
    groups = cgroups.groups("memory", process)
    return tuple(group for group in groups if any(cgroups.read(group, name) for name in _FILES[group.version].limits))


def _limit(group: Group) -> int:
    """0: none."""
    limits = [word for name in _FILES[group.version].limits for word in cgroups.read(group, name)]
    if group.version == 1:
        limits.append(_stat(group).get(_HIERARCHY, ""))
    limit = min((int(word) for word in limits if word.isdecimal()), default=0)  # others are "max"
    return limit if limit < NO_LIMIT else 0


def _used(group: Group) -> int:
    files, stat = _FILES[group.version], _stat(group)
    used = cgroups.read(group, files.used)
    reclaimable = next((stat[name] for name in files.reclaimable if name in stat), "0")
    return max(0, int(used[0]) - int(reclaimable)) if used else 0


def _stat(group: Group) -> dict[str, str]:
    words = cgroups.read(group, "memory.stat")
    return dict(zip(words[::2], words[1::2], strict=False))


def oom_kill_count() -> int:
    """How often this system has killed for want of memory, since its boot."""
    for line in _VMSTAT.read_text().splitlines():
        if line.startswith("oom_kill "):
            return int(line.split()[1])
    return 0


def _meminfo(name: str, meminfo: Path) -> int:
    for line in meminfo.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{meminfo} has no {name}")
