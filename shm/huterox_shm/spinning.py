"""Looking before sleeping: who waits for an answer that is about to come spends less on looking than on being woken.

Problem: a wake-up costs tens of microseconds where the other processor has gone idle, and a short call is worked off in
less. Idea: look at the peer's hint (`End.told`) for a short time before going to sleep. It pays only where answers come
soon, so looks begin after a wait that was short, and end with one that was long: a call of milliseconds costs one
look too many, an idle lane nothing. The same rule, for the same reason, as adaptive mutexes and the halt polling of
hypervisors.

A look takes a processor and the interpreter from others, and it sees nothing but hints. So after `STREAK_NS` of looks
there is a sleep, however short, by which others get their turn and everything else is noticed; it also decides
whether looks go on. With one processor, or with a time of 0, nobody looks.
"""

import os
from collections.abc import Sequence
from time import monotonic_ns
from typing import Final

from huterox_shm.end import End

WORTH_NS: Final = 150_000
"""After a sleep up to this, looks begin. It includes the wake-up that a look would have saved."""

STREAK_NS: Final = 500_000
"""After so long without a sleep there is one."""


class Spinner:
    """Decides for one waiting thread whether to look, and looks."""

    __slots__ = ("_spin_ns", "_until_ns")

    def __init__(self, spin_us: int) -> None:
        self._spin_ns = spin_us * 1000 if len(os.sched_getaffinity(0)) > 1 else 0
        self._until_ns = 0  # so long looks are worth it

    def look(self, ends: Sequence[End], now_ns: int) -> bool:
        """Hot path. Has the peer of any of these told something, before `now_ns` or within a look from then on?"""
        if now_ns >= self._until_ns or not ends:
            return False
        until_ns = now_ns + self._spin_ns
        if len(ends) == 1:
            return ends[0].spin(until_ns)
        while True:
            for end in ends:
                if end.told:
                    return True
            if monotonic_ns() >= until_ns:
                return False

    def slept(self, begun_ns: int) -> None:
        """Hot path. A wait that began then, with a look in vain or without one, has ended with a sleep."""
        now_ns = monotonic_ns()
        self._until_ns = now_ns + STREAK_NS if self._spin_ns and now_ns - begun_ns < WORTH_NS else 0
