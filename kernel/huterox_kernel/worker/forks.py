"""A process that a model forks off its worker is no worker.

Problem: what a model forks may come back: `os.fork()` in `predict`, and the child returns. It then stands in the middle
of the worker's own code, with the same lanes, and would answer calls as a second worker. Idea: in such a child the
worker's code is replaced, function by function, by one that ends the process. Whatever way the child takes back (a
result, an exception, `sys.exit`, the next part of a stream, the end of a load), the first step of ours is its last. It
costs a call nothing. The model's own code, with the inputs that it has inherited, goes on in the child as long as it
likes: `multiprocessing` needs that.

A fork in C code goes past `os.fork`, and nothing of Python's is told. So there is a byte, `WORKER`, that the system
itself sets to 0 in whatever is forked. It is looked at where the model's code has come back, before a lane is written
to, and before orders are read: a look costs 30 ns, asking for the process's number ten times as much. What comes back
elsewhere, out of a finalizer or a signal handler in the midst of ours, ends by a signal where it reads or writes a
ring: a child has no such memory (`huterox_shm.container`).
"""

import mmap
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from types import FunctionType, ModuleType
from typing import Any, Final, NoReturn

from huterox_kernel.worker.words import say

_MADV_WIPEONFORK: Final = 18  # not in mmap


def _wiped_by_forks() -> memoryview:
    page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # no such system is known that has all the rest that a worker needs
        page.madvise(_MADV_WIPEONFORK)
    page[0] = 1
    return memoryview(page)[:1]


WORKER: Final = _wiped_by_forks()
"""`WORKER[0]` is 0 in a process that was forked, whatever way, off one that is a worker."""

_PACKAGE: Final = "huterox_kernel.worker."
_DEAD: Final = (
    *(f"{_PACKAGE}{name}" for name in ("answers", "calls", "control", "loop", "main", "outputs", "pinned", "plans")),
    *(f"{_PACKAGE}{name}" for name in ("process", "results", "tracebacks")),
    "huterox_shm.container",
)
"""Modules of which nothing runs in a child. What a caller's process needs as well is not among them."""

_HARMLESS: Final = frozenset({"Calls._release", "ContainerEnd.release_request"})
"""They run when an input is let go of, which a child may do, and change nothing but its copy of the worker's books."""

_CAME_BACK: Final = "A process that the model forked came back from the model's code; it ends here."
EXIT_FORKED: Final = 70

_REFUSED: Final = "Outputs.allocate"
NO_MEMORY: Final = "allocate() gives out memory in the worker alone; this process was forked from it"


def guard() -> None:
    """This process is a worker, and from now on what it forks is none."""
    WORKER[0] = 1
    os.register_at_fork(after_in_child=_disown)


def _disown() -> None:
    for name in _DEAD:
        if (module := sys.modules.get(name)) is None:
            continue
        for function in _functions_of(module):
            if function.__qualname__ == _REFUSED:
                function.__code__ = _refuse.__code__
            elif function.__qualname__ not in _HARMLESS:
                cells = function.__code__.co_freevars  # of one that says super(), too: as many as it has it must keep
                function.__code__ = _leave.__code__.replace(co_freevars=cells)


def _functions_of(module: ModuleType) -> Iterator[FunctionType]:
    """Its own functions and methods. There are no others: properties look into what these have made."""
    for value in list(vars(module).values()):
        members = list(vars(value).values()) if isinstance(value, type) else [value]
        for member in members:
            function = getattr(member, "__func__", member)  # of a class method or a static one
            if isinstance(function, FunctionType) and function.__module__ == module.__name__:
                yield function


def _leave(*_args: Any, **_values: Any) -> NoReturn:
    """Ends the process. Its code runs in other modules too, so it uses no name of this one."""
    from huterox_kernel.worker.forks import leave

    leave()


def end_if_forked() -> None:
    """Ends a process that a worker's C code forked, past Python."""
    if not WORKER[0]:
        leave()


def leave() -> NoReturn:
    """Ends the process: it is no worker. Takes no lock that a thread of the worker may have had."""
    try:
        say(_CAME_BACK)
    finally:
        os._exit(EXIT_FORKED)


def _refuse(*_args: Any, **_values: Any) -> NoReturn:
    from huterox_kernel.worker.forks import NO_MEMORY

    raise RuntimeError(NO_MEMORY)
