"""What the node has: memory in all, memory now, whether the system had to kill for want of it."""

from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_VMSTAT = Path("/proc/vmstat")
_CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),  # v2
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),  # v1
)


def host_bytes_total() -> int:
    """Memory of this machine, or of the control group that the kernel runs in, whichever is less."""
    return min([_meminfo("MemTotal"), *_cgroup_limits()])


def host_bytes_free() -> int:
    """What the operating system says is available now."""
    return _meminfo("MemAvailable")


def oom_kill_count() -> int:
    """How often this system has killed for want of memory, since its boot."""
    for line in _VMSTAT.read_text().splitlines():
        if line.startswith("oom_kill "):
            return int(line.split()[1])
    return 0


def _meminfo(name: str) -> int:
    for line in _MEMINFO.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/meminfo has no {name}")


def _cgroup_limits() -> list[int]:
    limits = []
    for path in _CGROUP_LIMITS:
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        if text.isdecimal():
            limits.append(int(text))
    return limits
