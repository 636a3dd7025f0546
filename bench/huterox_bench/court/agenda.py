"""The simulated clock: what will happen, in the order of time."""

import heapq
from collections.abc import Callable
from itertools import count
from math import inf
from typing import Any


class Agenda:
    """Actions at their times; of those at one time, the first entered comes first."""

    def __init__(self, now_s: float) -> None:
        self.now_s = now_s
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = count()

    def after(self, delay_s: float, action: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._heap, (self.now_s + delay_s, next(self._order), action, arguments))

    @property
    def next_s(self) -> float:
        """The time of the next action; inf: there is none."""
        return self._heap[0][0] if self._heap else inf

    def step(self) -> None:
        """Go on to the next action, and do it."""
        self.now_s, _, action, arguments = heapq.heappop(self._heap)
        action(*arguments)
