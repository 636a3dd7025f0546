"""Least recently used."""

from collections import OrderedDict
from collections.abc import Container as Collection
from typing import Self

from huterox_connector.core.replacer.base import ContainerId, Page


class Lru:
    """Evicts what has not been used for the longest time.

    Source: Mattson et al. 1970, "Evaluation Techniques for Storage Hierarchies".
    Cost: `victim` O(n), the rest O(1).
    """

    def __init__(self) -> None:
        # OrderedDict: moving to the end takes 40 ns; in a dict, leaving and coming back takes 60 ns.
        self._order: OrderedDict[ContainerId, None] = OrderedDict()  # the least recently used one first

    def insert(self, cid: ContainerId, *, page: Page, nbytes: int, reload_cost_s: float) -> None:
        self._order.setdefault(cid)

    def record_access(self, cid: ContainerId, count: int = 1) -> None:
        """Hot path."""
        if cid in self._order:
            self._order.move_to_end(cid)

    def remove(self, cid: ContainerId) -> None:
        self._order.pop(cid, None)

    def victim(self, evictable: Collection[ContainerId]) -> ContainerId | None:
        return next((cid for cid in self._order if cid in evictable), None)

    def copy(self) -> Self:
        twin = type(self)()
        twin._order = self._order.copy()
        return twin
