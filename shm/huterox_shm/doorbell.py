"""A doorbell: an eventfd that tells how many ring entries have been published.

The low 32 bits of what is rung count entries. A ring of BELL wakes the other side without an entry (the state word has
changed). The kernel sums rings until they are read, so an end learns everything by one read.

What it does not do: protect against a peer that makes the shared description blocking again. Such a peer runs under
the same user (see `handover`) and could as well stop the process.
"""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from huterox_shm.errors import HandoverError

BELL: Final = 1 << 32
COUNT_MASK: Final = BELL - 1

_FLAGS: Final = os.EFD_NONBLOCK | os.EFD_CLOEXEC


def create_eventfd() -> int:
    """A fresh eventfd, non-blocking, not inherited."""
    return os.eventfd(0, _FLAGS)


class Doorbell:
    """Owns one eventfd.

    `ring(count)` adds, `read()` returns the sum and clears it; both raise BlockingIOError instead of waiting. They are
    attributes, not methods, because a bound C function is called faster.
    """

    __slots__ = ("fd", "read", "ring")

    def __init__(self, fd: int) -> None:
        """Take over `fd`.

        Raises:
            HandoverError: it is not an eventfd; it stays open.
        """
        if not _is_eventfd(fd):
            raise HandoverError(f"descriptor {fd} is not an eventfd")
        os.set_blocking(fd, False)
        self.fd = fd
        self.ring: Callable[[int], None] = functools.partial(os.eventfd_write, fd)
        self.read: Callable[[], int] = functools.partial(os.eventfd_read, fd)

    def fileno(self) -> int:
        """For poll and event loops: readable once something was rung."""
        return self.fd

    def wake(self) -> None:
        """Wake the other side without an entry; never raises."""
        try:
            self.ring(BELL)
        except BlockingIOError:  # the count is at its end: the doorbell is readable as it is
            pass

    def close(self) -> None:
        """Close the descriptor, once. `ring` and `read` must not be called afterwards."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _is_eventfd(fd: int) -> bool:
    try:
        return str(Path(f"/proc/self/fd/{fd}").readlink()) == "anon_inode:[eventfd]"
    except OSError:
        return False
