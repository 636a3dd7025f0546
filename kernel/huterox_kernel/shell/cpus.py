"""How many processors this process may use: libraries count those of the machine, and start as many threads.

A quota is time, not processors; threads beyond it only wait for each other. So it counts, rounded up.
"""

import math
import os
from pathlib import Path

from huterox_kernel.shell import cgroups
from huterox_kernel.shell.cgroups import Group


def usable_cpus(process: Path = Path("/proc/self")) -> int:
    """By affinity, and by the quotas of all control groups that it is in."""
    allowed = len(os.sched_getaffinity(0))
    quotas = [quota for group in cgroups.groups("cpu", process) if (quota := _quota(group))]
    return max(1, math.ceil(min([allowed, *quotas])))


def _quota(group: Group) -> float:
    """In processors; 0 where there is none."""
    if group.version == 2:
        words = cgroups.read(group, "cpu.max")
    else:
        words = cgroups.read(group, "cpu.cfs_quota_us") + cgroups.read(group, "cpu.cfs_period_us")
    if len(words) != 2 or not all(word.isdecimal() for word in words):  # "max", or -1
        return 0.0
    quota_us, period_us = map(int, words)
    return quota_us / period_us if period_us else 0.0
