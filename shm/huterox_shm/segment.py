"""A segment: memory that two processes share, as a sealed memfd.

It has no name, so none can be guessed and none is left behind after `kill -9`: the memory goes with the last descriptor
and mapping. It is sealed against shrinking and growing, so a mapping never loses its pages under a reader. It is
sparse: `reserve` gives pages before they are touched, so that a full system is an error (LaneFull) and never a SIGBUS;
`punch` gives them back.

Views keep it alive: `close` closes the descriptor; the mapping goes when the last view of it dies.
"""

import ctypes
import errno
import fcntl
import mmap
import os
from contextlib import suppress
from typing import Final

from huterox_shm.descriptors import close_all, out_of_the_way
from huterox_shm.errors import HandoverError, LaneFull

_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_SIZE_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.ENOMEM, errno.EDQUOT})

_FALLOC_FL_KEEP_SIZE: Final = 1
_FALLOC_FL_PUNCH_HOLE: Final = 2
_MAP_FIXED: Final = 0x10  # these two are not in mmap
_MAP_NORESERVE: Final = 0x4000
_MADV_POPULATE_WRITE: Final = 23  # Linux 5.14; not in 3.11's mmap

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def create_memfd(nbytes: int) -> int:
    """A sealed, sparse, zeroed memfd of `nbytes` bytes.

    Raises:
        OSError: no descriptor or no memory; nothing is left behind.
    """
    fd = out_of_the_way(os.memfd_create("huterox-lane", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    try:
        os.ftruncate(fd, nbytes)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def check_seals(fd: int) -> None:
    """Raise HandoverError where `fd` is no memfd, or can still change its size under a reader."""
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError as exc:
        raise HandoverError(f"descriptor {fd} is not a memfd: {exc.strerror}") from exc
    if seals & _SIZE_SEALS != _SIZE_SEALS:
        raise HandoverError("the segment is not sealed against shrinking and growing")


def reserve_pages(fd: int, offset: int, nbytes: int) -> None:
    """Give pages to a span of the memfd.

    Raises:
        LaneFull: the system has none left.
    """
    try:
        os.posix_fallocate(fd, offset, nbytes)
    except OSError as exc:
        if exc.errno in _NO_ROOM:
            raise LaneFull(f"the system has no {nbytes} bytes of memory left for a lane") from exc
        raise


def punch_pages(fd: int, offset: int, nbytes: int) -> None:
    """Give a span of any file back to its file system; it reads as zeros. Raises OSError."""
    mode = _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE
    while _libc.fallocate(fd, mode, offset, nbytes):
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


def map_memory(fd: int, nbytes: int) -> mmap.mmap:
    """Map a memfd, which stays the giver's.

    Python's own way keeps a descriptor for as long as the mapping lives, under the lowest number that is free, and
    closes that number in the end, whoever has it by then. So a place is mapped without a file, and the memfd over it.

    Raises:
        OSError: it cannot be mapped.
    """
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    access, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | _MAP_FIXED
    if _libc.mmap(address, nbytes, access, flags, fd, 0) != address:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return memory


class Segment:
    """One end's mapping of a segment. `buffer` is the whole of it; slices of `buffer` are copies."""

    __slots__ = ("buffer", "fd", "nbytes", "_fds")

    def __init__(self, fd: int) -> None:
        """Map the memfd `fd` and take it over.

        Raises:
            HandoverError: not a sealed memfd, or an empty one; it stays open.
            OSError: it cannot be mapped; it stays open.
        """
        check_seals(fd)
        self.nbytes = os.fstat(fd).st_size
        if not self.nbytes:
            raise HandoverError("the segment is empty")
        self.buffer = map_memory(fd, self.nbytes)
        self.fd = fd
        self._fds = [fd]

    def reserve(self, offset: int, nbytes: int) -> None:
        """Give pages to a span, and touch them.

        Raises:
            LaneFull: the system has none left.
        """
        reserve_pages(self.fd, offset, nbytes)
        try:
            # The first write to a page costs ten times a later one: pay here for all of them, in one call.
            self.buffer.madvise(_MADV_POPULATE_WRITE, offset, nbytes)
        except OSError:  # an older kernel: the pages are there, the first write maps each
            pass

    def punch(self, offset: int, nbytes: int) -> None:
        """Take the pages of a span away; it reads as zeros until it is reserved and written again."""
        punch_pages(self.fd, offset, nbytes)

    def hide_from_children(self, offset: int, nbytes: int) -> None:
        """Processes that are forked from this one have no such span in their memory."""
        self.buffer.madvise(mmap.MADV_DONTFORK, offset, nbytes)

    def close(self) -> None:
        """Close the descriptor and let go of the mapping, which lives on for as long as somebody holds a view.

        Never by `mmap.close`: an array made by `np.ndarray(..., buffer=view)` holds the mmap object but exports no
        buffer of it, so a close would succeed and leave the array over unmapped memory. The last reference unmaps it.
        """
        self.fd = -1
        close_all(self._fds)
        with suppress(AttributeError):
            del self.buffer
