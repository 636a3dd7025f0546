"""A doorbell: an eventfd that tells how many ring entries have been published.

The low 32 bits of what is rung count entries. A ring of BELL wakes the other side without an entry (the state word has
changed). The kernel sums rings until they are read, so an end learns everything by one read.

A peer can make the shared description blocking again. Reading does not wait all the same; who rings hangs if the peer
has stuffed the doorbell besides, until somebody else who has it empties it (`unstuff`).
"""

import functools
import os
import select
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from huterox_shm.descriptors import close_all, out_of_the_way
from huterox_shm.errors import HandoverError

BELL: Final = 1 << 32
COUNT_MASK: Final = BELL - 1

STUFFED: Final = 1 << 63
"""No honest count comes near."""

_FLAGS: Final = os.EFD_NONBLOCK | os.EFD_CLOEXEC


def create_eventfd() -> int:
    """A fresh eventfd, non-blocking, not inherited."""
    return out_of_the_way(os.eventfd(0, _FLAGS))


class Doorbell:
    """Owns one eventfd.

    `ring(count)` adds, `read()` returns the sum and clears it; both raise BlockingIOError instead of waiting. They are
    attributes because that is called faster than a method. `word[0]` is what was read last, until the reader clears it:
    an exception that comes between a read and the use of its result loses nothing.
    """

    __slots__ = ("fd", "read", "ring", "word", "_fds")

    def __init__(self, fd: int) -> None:
        """Take over `fd`.

        Raises:
            HandoverError: it is not an eventfd; it stays open.
        """
        if not _is_eventfd(fd):
            raise HandoverError(f"descriptor {fd} is not an eventfd")
        os.set_blocking(fd, False)
        self.fd = fd
        self._fds = [fd]
        self.ring: Callable[[int], None] = functools.partial(os.eventfd_write, fd)
        self.read: Callable[[], int]
        self.read, self.word = _reader(fd)

    def fileno(self) -> int:
        """For poll and event loops: readable once something was rung."""
        return self.fd

    def wake(self) -> None:
        """Wake the other side without an entry; never raises."""
        try:
            self.ring(BELL)
        except BlockingIOError:  # the count is at its end: the doorbell is readable as it is
            pass

    def is_rung(self) -> bool:
        """Was it rung since it was read last?"""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        return bool(poll.poll(0))

    def unstuff(self) -> bool:
        """Has a peer stuffed it? Then empty it, so that whoever hangs in `ring` goes on. Never waits."""
        if _count_of(self.fd) < STUFFED:
            return False
        with suppress(BlockingIOError):
            self.read()
        return True

    def close(self) -> None:
        """Close the descriptor, once. `ring` and `read` must not be called afterwards."""
        self.fd = -1
        close_all(self._fds)


def _reader(fd: int) -> "tuple[Callable[[], int], memoryview[int]]":
    """Reads without waiting, whatever the descriptor's flags say; and the word that it reads into."""
    data = bytearray(8)
    buffers, preadv, nowait = [data], os.preadv, os.RWF_NOWAIT
    word: memoryview[int] = memoryview(data).cast("Q")

    def read() -> int:
        """Hot path."""
        preadv(fd, buffers, -1, nowait)
        return word[0]

    return read, word


def _count_of(fd: int) -> int:
    """What an eventfd counts, without reading it; 0 where the system does not tell."""
    try:
        info = os.open(f"/proc/self/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        _, found, rest = os.read(info, 1024).partition(b"eventfd-count:")
    finally:
        os.close(info)
    return int(rest.split(maxsplit=1)[0], 16) if found else 0


def _is_eventfd(fd: int) -> bool:
    try:
        return str(Path(f"/proc/self/fd/{fd}").readlink()) == "anon_inode:[eventfd]"
    except OSError:
        return False
