"""A thread that frees whoever hangs in a doorbell.

A caller can make the doorbells of its lane blocking and stuff them (see `huterox_shm.doorbell`). Then the next ring
hangs: the worker's, and with it the calls of all others; or this kernel's own. So a thread of its own looks at all
doorbells, empties those that are stuffed, and reports the lane.
"""

import threading
from asyncio import AbstractEventLoop
from collections.abc import Callable
from typing import Final

from huterox_shm.lane import LaneWatch

PERIOD_S: Final = 1.0


class Guard:
    """Owns the watches that it is given, until they are to be let go.

    Args:
        on_stuffed: told on the loop, with the number of the lane.
    """

    def __init__(self, loop: AbstractEventLoop, on_stuffed: Callable[[int], None]) -> None:
        self._loop = loop
        self._on_stuffed = on_stuffed
        self._watches: dict[int, LaneWatch] = {}
        self._lock = threading.Lock()  # a watch is not closed while the thread looks at it
        self._stop = threading.Event()
        self._busy = threading.Event()  # there are watches, or this is the end
        self._thread: threading.Thread | None = None

    def add(self, lane: int, watch: LaneWatch) -> None:
        """Look after a lane from now on."""
        with self._lock:
            self._watches[lane] = watch
            self._busy.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="huterox-guard", daemon=True)
            self._thread.start()

    def let_go(self, lane: int) -> None:
        """Nobody rings there any more: close the watch. May be called for lanes that are not there."""
        with self._lock:
            watch = self._watches.pop(lane, None)
            if watch is not None:
                watch.close()
            if not self._watches:
                self._busy.clear()

    def close(self) -> None:
        """Let go of all, and end the thread."""
        for lane in list(self._watches):
            self.let_go(lane)
        self._stop.set()
        self._busy.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(PERIOD_S):
            self._busy.wait()  # nobody wakes while there is nothing to look after
            for lane in list(self._watches):
                with self._lock:
                    watch = self._watches.get(lane)
                    is_stuffed = watch is not None and watch.unstuff()
                if is_stuffed and not self._stop.is_set():
                    self._loop.call_soon_threadsafe(self._on_stuffed, lane)
