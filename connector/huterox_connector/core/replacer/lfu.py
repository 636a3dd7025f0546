"""Least frequently used."""

from collections import OrderedDict
from collections.abc import Container as Collection
from typing import Self

from huterox_connector.core.replacer.base import ContainerId, Page


class Lfu:
    """Evicts what was used least often since it was loaded; among equals, what has not been used for the longest time.

    A container that leaves takes its count along. Nothing ages: what was hot once stays long.

    Source: Mattson et al. 1970, "Evaluation Techniques for Storage Hierarchies"; counts in the cache only.
    Cost: `victim` O(n), the rest O(1).
    """

    def __init__(self) -> None:
        self._counts: OrderedDict[ContainerId, int] = OrderedDict()  # the least recently used one first

    def insert(self, cid: ContainerId, *, page: Page, nbytes: int, reload_cost_s: float) -> None:
        self._counts.setdefault(cid, 1)

    def record_access(self, cid: ContainerId, count: int = 1) -> None:
        """Hot path. The order by counts is made when a victim is wanted."""
        if cid in self._counts:
            self._counts[cid] += count
            self._counts.move_to_end(cid)

    def remove(self, cid: ContainerId) -> None:
        self._counts.pop(cid, None)

    def victim(self, evictable: Collection[ContainerId]) -> ContainerId | None:
        """`min` takes the first of equals: the least recently used one."""
        return min((cid for cid in self._counts if cid in evictable), key=self._counts.__getitem__, default=None)

    def copy(self) -> Self:
        twin = type(self)()
        twin._counts = self._counts.copy()
        return twin
