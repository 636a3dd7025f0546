"""A process that a model forks off its worker is no worker.

Problem: what a model forks may come back: `os.fork()` in `predict`, and the child returns. It then stands in the middle
of the worker's own code, with the same lanes, and would answer calls as a second worker. Idea: in such a child the
worker's code is replaced, function by function, by one that ends the process. Whatever way the child takes back (a
result, an exception, `sys.exit`, the next part of a stream, the end of a load), the first step of ours is its last. It
costs a call nothing. The model's own code, with the inputs that it has inherited, goes on in the child as long as it
likes: `multiprocessing` needs that.

It does not see a fork in C code that goes past `os.fork`.
"""

import os
import sys
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any, Final, NoReturn

_PACKAGE: Final = "huterox_kernel.worker."
_DEAD: Final = (
    *(f"{_PACKAGE}{name}" for name in ("answers", "calls", "control", "loop", "main", "outputs", "pinned", "plans")),
    *(f"{_PACKAGE}{name}" for name in ("process", "results", "tracebacks")),
    "huterox_shm.container",
)
"""Modules of which nothing runs in a child. What a caller's process needs as well is not among them."""

_HARMLESS: Final = frozenset({"Calls._release", "ContainerEnd.release_request"})
"""They run when an input is let go of, which a child may do, and change nothing but its copy of the worker's books."""

_REFUSED: Final = "Outputs.allocate"


def guard() -> None:
    """From now on, what this process forks is no worker."""
    os.register_at_fork(after_in_child=_disown)


def _disown() -> None:
    for name in _DEAD:
        if (module := sys.modules.get(name)) is None:
            continue
        for function in _functions_of(module):
            if function.__qualname__ == _REFUSED:
                function.__code__ = _refuse.__code__
            elif function.__qualname__ not in _HARMLESS:
                function.__code__ = _leave.__code__


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
    import os

    from huterox_kernel.worker.words import say

    try:
        say("A process that the model forked came back from the model's code; it ends here.")
    finally:
        os._exit(70)


def _refuse(*_args: Any, **_values: Any) -> NoReturn:
    raise RuntimeError("allocate() gives out memory in the worker alone; this process was forked from it")
