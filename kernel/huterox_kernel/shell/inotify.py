"""Which files of a folder are written to, as the system tells: nobody has to look while nothing happens."""

import ctypes
import os
import struct
from typing import Final

_MODIFIED: Final = 0x2
_OVERFLOWED: Final = 0x4000
_ENDED: Final = 0x8000
_NONBLOCK_CLOEXEC: Final = os.O_NONBLOCK | os.O_CLOEXEC
_HEAD: Final = struct.Struct("iIII")  # watch, mask, cookie, length of the name
_READ_NBYTES: Final = 64 * 1024

_libc = ctypes.CDLL(None, use_errno=True)


class FolderWatch:
    """Owns the descriptor, which is readable when a file of the folder has been written to."""

    def __init__(self, folder: str) -> None:
        """Raises OSError: there is no such folder, or this user has too many watches."""
        self._descriptor = _checked(_libc.inotify_init1(_NONBLOCK_CLOEXEC))
        try:
            _checked(_libc.inotify_add_watch(self._descriptor, os.fsencode(folder), _MODIFIED))
        except OSError:
            os.close(self._descriptor)
            raise
        self.has_ended = False  # the folder has been removed

    def fileno(self) -> int:
        return self._descriptor

    def read(self) -> set[str] | None:
        """The names of files that were written to since the last time; None: there were too many to remember."""
        try:
            data = os.read(self._descriptor, _READ_NBYTES)
        except BlockingIOError:
            return set()
        names: set[str] = set()
        at = 0
        while at < len(data):
            _, mask, _, nbytes = _HEAD.unpack_from(data, at)
            if mask & (_OVERFLOWED | _ENDED):
                self.has_ended |= bool(mask & _ENDED)
                return None
            at += _HEAD.size + nbytes
            names.add(os.fsdecode(data[at - nbytes : at].rstrip(b"\0")))
        return names

    def close(self) -> None:
        os.close(self._descriptor)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
