"""Descriptors out of the way of whoever else lives in this process.

Problem: the system gives out the lowest free number. In a process that has closed its standard streams a lane's memory
becomes number 1, and what is printed goes into it. Idea: what comes or is made here moves to a higher number. Where
foreign code may close whole ranges of them (a worker), the numbers are higher still. Light: zygotes import it first.
"""

import errno
import fcntl
import os
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from itertools import repeat
from typing import Final

FIRST: Final = 3
"""After the standard ones."""

_NO_ROOM: Final = frozenset({errno.EMFILE, errno.EINVAL})
_NOWHERE: Final[deque[None]] = deque(maxlen=0)
_lowest = FIRST


def keep_above(lowest: int) -> None:
    """Numbers begin here from now on, where there is room."""
    global _lowest
    _lowest = lowest


def out_of_the_way(fd: int) -> int:
    """The same open file under a number that is high enough; takes `fd` over, and closes it if it was not.

    Raises:
        OSError: there is no number left; `fd` is closed.
    """
    if fd >= _lowest:
        return fd
    try:
        moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _lowest)
    except OSError as exc:
        if fd >= FIRST and exc.errno in _NO_ROOM:
            return fd
        os.close(fd)
        raise
    os.close(fd)
    return moved


def move_all(fds: Iterable[int]) -> list[int]:
    """All of them out of the way. Raises OSError, and closes them all, where there is no number left for one."""
    left, moved = list(fds), []
    try:
        while left:
            moved.append(out_of_the_way(left.pop(0)))
    except OSError:
        for fd in [*left, *moved]:
            os.close(fd)
        raise
    return moved


def open_eventfd(fds: list[int]) -> int:
    """A new eventfd, entered into `fds`. One step in C: whatever interrupts the thread, it is not lost."""
    fds.extend(map(os.eventfd, (0,), (os.EFD_NONBLOCK | os.EFD_CLOEXEC,)))
    return fds[-1]


def close_all(fds: list[int]) -> None:
    """Close and forget them. None is lost or closed twice, whatever interrupts the thread, whoever else does this."""
    with suppress(IndexError):  # another thread was quicker
        _NOWHERE.extend(map(os.close, map(fds.pop, repeat(-1, len(fds)))))


def fill_standard() -> None:
    """Open what is missing of the standard descriptors, on nothing. For a process that is ours alone, at its start."""
    while (fd := os.open(os.devnull, os.O_RDWR)) < FIRST:
        os.set_inheritable(fd, True)
    os.close(fd)
