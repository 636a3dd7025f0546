"""The clock of a simulated platform: what happens next, and when. Nothing happens at any other time."""

import heapq
from collections.abc import Callable
from itertools import count


class Clock:
    """Actions in the order of their time; those of one time in the order in which they were put in."""

    def __init__(self, now_s: float) -> None:
        self.now_s = now_s
        self._queue: list[tuple[float, int, Callable[[], object]]] = []
        self._order = count()

    def after(self, delay_s: float, action: Callable[[], object]) -> None:
        heapq.heappush(self._queue, (self.now_s + delay_s, next(self._order), action))

    def due(self, until_s: float) -> bool:
        """Whether something happens until then."""
        return bool(self._queue) and self._queue[0][0] <= until_s

    def step(self) -> None:
        """Go on to what happens next, and let it happen."""
        self.now_s, _, action = heapq.heappop(self._queue)
        action()
