"""A mark that a worker and all that comes of it wear, whatever they do to get away: by it they are found and ended.

Problem: what a model starts may leave its process group, its session and its parent, and change its name, environment
and descriptors. Idea: resource limits are inherited by every fork and kept by every exec. That of real-time processor
time has no effect where it is as high as can be: there are some 2^62 such values, and one of them is the mark.

    bit 62: it is a mark     32 to 61: the kernel's tag, drawn at its start     0 to 31: the worker's number, from 1

Light: workers import it.
"""

import os
import resource
from typing import Final

_MARK: Final = 1 << 62
_NUMBER_BITS: Final = 32
_NUMBERS: Final = (1 << _NUMBER_BITS) - 1
_TAGS: Final = _MARK - 1 - _NUMBERS
_LIMIT: Final = b"Max realtime timeout"


def draw() -> int:
    """A mark for this kernel, and for what is no single worker's."""
    return _MARK | int.from_bytes(os.urandom(8), "little") & _TAGS


def wear(mark: int) -> bool:
    """Put it on, for good; False: this system does not let us. 0 is no mark."""
    _, hard = resource.getrlimit(resource.RLIMIT_RTTIME)
    if not mark or (hard != resource.RLIM_INFINITY and hard < mark):
        return False
    try:
        resource.setrlimit(resource.RLIMIT_RTTIME, (mark, hard))
    except (ValueError, OSError):
        return False
    return True


def for_worker(number: int) -> int:
    """The mark of a worker of the kernel that this process is; 0: it has none."""
    own, _ = resource.getrlimit(resource.RLIMIT_RTTIME)
    return own & ~_NUMBERS | number & _NUMBERS if own & _MARK and own > 0 else 0


def worn_by(pid: int) -> int:
    """A process's mark; 0: it has none, or has gone."""
    try:
        with open(f"/proc/{pid}/limits", "rb") as file:  # noqa: PTH123 - Path is slower, and it may be asked of all
            _, _, rest = file.read().partition(_LIMIT)
        soft = int(rest.split(maxsplit=1)[0])
    except (OSError, ValueError, IndexError):  # "unlimited"
        return 0
    return soft if soft & _MARK else 0


def is_of_worker(mark: int) -> bool:
    """Is it a worker's mark, and not that of the kernel and of what belongs to no worker?"""
    return bool(mark & _NUMBERS)


def is_of_kernel(mark: int, kernel: int) -> bool:
    """Does this mark belong to the kernel that drew the other one?"""
    return bool(mark) and mark & ~_NUMBERS == kernel & ~_NUMBERS
