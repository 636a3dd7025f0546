"""How hot something is: calls per second, where a call counts half after each half-life.

Nothing is done when a call comes but to count it. The count is looked at when a decision needs it; what came since the
last look is taken as spread evenly over that time.
"""

from math import log
from typing import Final

_LN2: Final = log(2.0)


class Hotness:
    """The decayed rate of a count that only grows."""

    __slots__ = ("_at_s", "_counted", "_rate")

    def __init__(self, now_s: float) -> None:
        self._at_s = now_s
        self._counted = 0
        self._rate = 0.0

    def rate(self, count: int, now_s: float, half_life_s: float) -> float:
        """Calls per second, given that `count` calls have come in all."""
        elapsed_s = now_s - self._at_s
        fresh = count - self._counted
        if elapsed_s <= 0.0:
            return self._rate + fresh * impulse(half_life_s)
        kept = 0.5 ** (elapsed_s / half_life_s)
        self._rate = self._rate * kept + fresh / elapsed_s * (1.0 - kept)
        self._at_s, self._counted = now_s, count
        return self._rate


def impulse(half_life_s: float) -> float:
    """What one call adds to the rate at the moment at which it is made, in calls per second."""
    return _LN2 / half_life_s
