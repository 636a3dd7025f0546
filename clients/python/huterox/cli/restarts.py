"""When to start a daemon again that has ended, and when to give up. Pure: time is an argument."""

from collections import deque
from typing import Final

RESTARTS_MAX: Final = 5
WINDOW_S: Final = 60.0
_FIRST_DELAY_S: Final = 0.2
_DELAY_S_MAX: Final = 5.0
_STARTS_MAX: Final = 3  # of a daemon that was never ready


class Restarts:
    """The deaths of one daemon."""

    def __init__(self) -> None:
        self._deaths: deque[float] = deque()

    def died(self, now_s: float, *, was_ready: bool) -> float | None:
        """How long to wait before it is started again; None: give up.

        A daemon that ends before everything was ready once is most likely set up wrongly: it gets fewer chances.
        """
        while self._deaths and self._deaths[0] <= now_s - WINDOW_S:
            self._deaths.popleft()
        self._deaths.append(now_s)
        count = len(self._deaths)
        if count > RESTARTS_MAX or (not was_ready and count >= _STARTS_MAX):
            return None
        return min(_FIRST_DELAY_S * 2.0 ** (count - 1), _DELAY_S_MAX)
