"""What an event loop watches for an object that may be dropped."""

import asyncio
import os
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


def watch_weakly(
    loop: asyncio.AbstractEventLoop, owner: T, readers: Mapping[int, Callable[[T], None]], drop: Callable[[], None]
) -> "weakref.finalize[[int, asyncio.AbstractEventLoop, tuple[int, ...], Callable[[], None]], T]":
    """Have the loop call `readers` when their descriptors have something to read. The loop does not keep `owner` alive.

    Args:
        readers: descriptor -> a function of `owner`.
        drop: called when `owner` has been collected as garbage, once nothing is watched any more. It closes the
            descriptors, and refers to `owner` by nothing.
    Returns:
        What is to be detached when the owner closes and removes the readers itself.
    """
    weakly = weakref.ref(owner)
    for fd, reader in readers.items():
        loop.add_reader(fd, call_weakly, weakly, reader)
    finalizer = weakref.finalize(owner, _on_gone, os.getpid(), loop, tuple(readers), drop)
    finalizer.atexit = False
    return finalizer


def call_weakly(weakly: "weakref.ref[T]", function: Callable[[T], None]) -> None:
    """Hot path. What a loop is given, in the place of a bound method, so that it keeps nothing alive."""
    if (owner := weakly()) is not None:
        function(owner)


def _on_gone(pid: int, loop: asyncio.AbstractEventLoop, fds: tuple[int, ...], drop: Callable[[], None]) -> None:
    """In a garbage collection, in any thread: the loop's own does the rest, if it still runs."""
    if pid != os.getpid():
        return
    if not loop.is_closed():
        with suppress(RuntimeError):  # closed meanwhile
            loop.call_soon_threadsafe(_unwatch, loop, fds, drop)
            return
    drop()


def _unwatch(loop: asyncio.AbstractEventLoop, fds: tuple[int, ...], drop: Callable[[], None]) -> None:
    for fd in fds:
        loop.remove_reader(fd)
    drop()
