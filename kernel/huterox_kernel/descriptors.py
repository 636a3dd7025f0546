"""How many descriptors a process may have. Light: workers import it too."""

import resource
from typing import Final

DESCRIPTORS_WANTED: Final = 65536
"""No more than this even where the system would allow it: programs exist that go through all of them."""


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
