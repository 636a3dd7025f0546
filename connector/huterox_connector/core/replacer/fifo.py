"""First in, first out."""

from collections.abc import Container as Collection
from typing import Self

from huterox_connector.core.replacer.base import ContainerId, Page


class Fifo:
    """Evicts what was loaded the longest time ago, used or not: the yardstick for those that look at use.

    Source: Belady 1966, "A Study of Replacement Algorithms for a Virtual-Storage Computer".
    Cost: `victim` O(n), the rest O(1).
    """

    def __init__(self) -> None:
        self._queue: dict[ContainerId, None] = {}  # the oldest first

    def insert(self, cid: ContainerId, *, page: Page, nbytes: int, reload_cost_s: float) -> None:
        self._queue.setdefault(cid)

    def record_access(self, cid: ContainerId, count: int = 1) -> None:
        """Hot path. Use does not count."""

    def remove(self, cid: ContainerId) -> None:
        self._queue.pop(cid, None)

    def victim(self, evictable: Collection[ContainerId]) -> ContainerId | None:
        return next((cid for cid in self._queue if cid in evictable), None)

    def copy(self) -> Self:
        twin = type(self)()
        twin._queue = self._queue.copy()
        return twin
