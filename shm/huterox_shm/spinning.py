"""Looking before sleeping: who waits for an answer that is about to come spends less on looking than on being woken.

Problem: a wake-up costs tens of microseconds where the other processor has gone idle, and a short call is worked off in
less. Idea: look at the peer's hint (`End.told`) for a short time before going to sleep. It pays only where answers come
soon, so it is done only after a wait that was short, and not again after a long one: a call of milliseconds costs
one look too many, an idle lane nothing. The same rule, for the same reason, as adaptive mutexes and the halt polling of
hypervisors.

A look is a loop: it takes a processor. With one processor, or with a time of 0, nobody looks.
"""

import os
from collections.abc import Sequence
from time import monotonic_ns
from typing import Final

from huterox_shm.end import End

WORTH_NS: Final = 150_000
"""After a wait up to this, the next one begins with a look. It includes the wake-up that a look would have saved."""

SPIN_US: Final = 50
"""How long a look lasts, unless the user says otherwise."""


class Spinner:
    """Decides for one waiting thread whether to look, and looks."""

    __slots__ = ("_is_worth", "_spin_ns")

    def __init__(self, spin_us: int) -> None:
        self._spin_ns = spin_us * 1000 if len(os.sched_getaffinity(0)) > 1 else 0
        self._is_worth = False

    def look(self, ends: Sequence[End], begun_ns: int) -> bool:
        """Hot path. Has the peer of any of these told something, since `begun_ns` or before, within a look?"""
        if not self._is_worth or not ends:
            return False
        until_ns = begun_ns + self._spin_ns
        if len(ends) == 1:
            return ends[0].spin(until_ns)
        while True:
            for end in ends:
                if end.told:
                    return True
            if monotonic_ns() >= until_ns:
                return False

    def slept(self, begun_ns: int) -> None:
        """Hot path. A wait that began then, with a look or without, has come to its end by something that was told."""
        self._is_worth = monotonic_ns() - begun_ns < WORTH_NS and self._spin_ns > 0
