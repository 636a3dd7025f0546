"""The bare wake-up: two processes, two eventfds, ping and pong. Nothing is carried and nothing can be quicker.

Where the system lets both run on one processor, one wakes the other up in a few microseconds; across two, whose idle
one has to be woken first, it may take ten times as long, above all in a virtual machine. Which of the two happens is up
to the system, for a caller and its container as well. So the way across is measured by itself too.
"""

import os
import threading
from array import array
from contextlib import ExitStack
from time import perf_counter_ns
from typing import Final

from huterox_bench.errors import WrongAnswer
from huterox_bench.loads import Shape, Slice, SliceLimit
from huterox_bench.processes import python_child
from huterox_bench.rows import EVENTFD_APART, EVENTFD_RTT

COUNTER_NBYTES: Final = 8
_DEAD: Final = 1 << 62  # so many wake-ups are written for a peer that has died: no read waits any more


class EventfdRoundTrip:
    """An eventfd is written, another process reads it and writes one back, and that is read."""

    shape = Shape(1, COUNTER_NBYTES)

    def __init__(self, stack: ExitStack, processors: tuple[int, int] | None = None) -> None:
        """
        Args:
            processors: where this process and the other run; None: where the system wants.
        """
        self.name = EVENTFD_APART if processors else EVENTFD_RTT
        self._processors = processors
        self._ping = _eventfd(stack, os.EFD_CLOEXEC)
        self._pong = _eventfd(stack, os.EFD_CLOEXEC | os.EFD_SEMAPHORE)
        fds = (self._ping, self._pong)
        self._watch = threading.Thread(target=self._wake_once_dead, name="eventfd-watch", daemon=True)
        stack.callback(self._join)
        arguments = [*map(str, fds), *map(str, processors[1:] if processors else ())]
        self._peer = stack.enter_context(
            python_child("the eventfd peer", "huterox_bench.limits.eventfd_peer", *arguments, pass_fds=fds)
        )
        self._watch.start()

    def run(self, limit: SliceLimit) -> Slice:
        """One slice."""
        if self._processors is None:
            return self._run(limit)
        usable = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self._processors[:1])
        try:
            return self._run(limit)
        finally:
            os.sched_setaffinity(0, usable)

    def _run(self, limit: SliceLimit) -> Slice:
        """Hot path. A loop of its own, for even a call of a function would show."""
        clock, write, read = perf_counter_ns, os.eventfd_write, os.eventfd_read
        ping, pong = self._ping, self._pong
        latencies: array[int] = array("q")
        sum_of_answers = 0
        started = now = clock()
        stop = started + int(limit.seconds * 1e9)
        for _ in range(limit.calls_max):
            write(ping, 1)
            sum_of_answers += read(pong)
            before, now = now, clock()
            latencies.append(now - before)
            if now >= stop:
                break
        self._peer.check_alive()
        if sum_of_answers != len(latencies):
            raise WrongAnswer(f"{len(latencies)} pings, {sum_of_answers} pongs")
        return Slice(latencies, now - started)

    def _join(self) -> None:
        if self._watch.is_alive():  # not started, if its peer was not
            self._watch.join()

    def _wake_once_dead(self) -> None:
        """Runs in a thread: a peer that dies must not leave the bench in a read for ever."""
        self._peer.wait()
        os.eventfd_write(self._pong, _DEAD)


def _eventfd(stack: ExitStack, flags: int) -> int:
    fd = os.eventfd(0, flags)
    stack.callback(os.close, fd)
    return fd
