"""How many descriptors a process may have. Light: workers import it too."""

import resource
from typing import Final

DESCRIPTORS_WANTED: Final = 65536
"""No more than this even where the system would allow it: programs exist that go through all of them."""


RESERVE: Final = 256
"""What lanes leave to containers, logs and the kernel itself."""

_OF_A_LANE: Final = 5  # segment, two doorbells, the caller's connection; one while it is handed over


def lanes_that_fit() -> int:
    """How many lanes of callers this process has descriptors for."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return DESCRIPTORS_WANTED
    return max(0, soft - min(RESERVE, soft // 2)) // _OF_A_LANE


def raise_descriptor_limit() -> None:
    """Take as many as the system gives: lanes cost three each, at either end, and the usual 1024 are soon gone."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS_WANTED if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_WANTED)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (ValueError, OSError):  # it stays as it is
        return
