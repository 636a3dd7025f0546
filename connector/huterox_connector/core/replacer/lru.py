"""Least recently used."""

from collections import OrderedDict
from collections.abc import Container as Collection

from huterox_connector.core.replacer.base import ContainerId


class Lru:
    """Evicts what has not been used for the longest time.

    Source: Denning 1968, "The Working Set Model for Program Behavior".
    """

    def __init__(self) -> None:
        self._order: OrderedDict[ContainerId, None] = OrderedDict()  # the least recently used one first

    def insert(self, cid: ContainerId, *, nbytes: int, reload_cost_s: float) -> None:
        self._order.setdefault(cid)

    def record_access(self, cid: ContainerId, count: int = 1) -> None:
        """Hot path."""
        if cid in self._order:
            self._order.move_to_end(cid)

    def remove(self, cid: ContainerId) -> None:
        self._order.pop(cid, None)

    def victim(self, evictable: Collection[ContainerId]) -> ContainerId | None:
        return next((cid for cid in self._order if cid in evictable), None)
