"""The few `prctl` calls of the kernel and its workers. Light: the zygote imports it first."""

import ctypes
import os
import signal
from typing import Final

PR_SET_PDEATHSIG: Final = 1
PR_SET_NAME: Final = 15
PR_SET_CHILD_SUBREAPER: Final = 36
NAME_NBYTES_MAX: Final = 15

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, argument: int | bytes) -> None:
    value = ctypes.c_char_p(argument) if isinstance(argument, bytes) else ctypes.c_ulong(argument)
    if _libc.prctl(ctypes.c_int(option), value, ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def die_with_parent(parent_pid: int) -> None:
    """Have the system kill this process when its parent ends. Exits at once where the parent has ended already."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)


def set_process_name(name: str) -> None:
    """The name that ps and top show; cut to what the system keeps."""
    _prctl(PR_SET_NAME, name.encode(errors="replace")[:NAME_NBYTES_MAX])


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent has ended, so that none of them is lost from sight."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
