"""SIEVE: a hand that goes from the oldest to the newest, and survivors that stay where they are."""

from collections.abc import Container as Collection
from typing import Self

from huterox_connector.core.replacer.base import ContainerId, Page


class Sieve:
    """Takes the first that was not visited since the hand last came by; survivors keep their place in the queue.

    Clock puts survivors among the new ones. Here they stay behind, and the hand sifts what came after them: new ones
    are judged soon, and a scan passes through without washing out what is used.

    Source: Zhang et al. 2024, "SIEVE is Simpler than LRU: an Efficient Turn-Key Eviction Algorithm for Web Caches".
    Cost: `victim` and `remove` O(n), the rest O(1).
    """

    def __init__(self) -> None:
        self._visited: dict[ContainerId, bool] = {}
        self._queue: list[ContainerId] = []  # the oldest first
        self._hand = 0  # an index into the queue; 0 where the queue is empty

    def insert(self, cid: ContainerId, *, page: Page, nbytes: int, reload_cost_s: float) -> None:
        if cid not in self._visited:
            self._visited[cid] = False
            self._queue.append(cid)

    def record_access(self, cid: ContainerId, count: int = 1) -> None:
        """Hot path."""
        if cid in self._visited:
            self._visited[cid] = True

    def remove(self, cid: ContainerId) -> None:
        """Where the hand is at the one that leaves, it goes on to the next newer one; from the newest to the oldest."""
        if self._visited.pop(cid, None) is None:
            return
        index = self._queue.index(cid)
        del self._queue[index]
        if index < self._hand:
            self._hand -= 1
        if self._hand == len(self._queue):
            self._hand = 0

    def victim(self, evictable: Collection[ContainerId]) -> ContainerId | None:
        """Two rounds at most: the first may clear every bit, the second then finds one."""
        for _ in range(2 * len(self._queue)):
            cid = self._queue[self._hand]
            if cid in evictable:
                if not self._visited[cid]:
                    return cid
                self._visited[cid] = False
            self._hand = (self._hand + 1) % len(self._queue)
        return None

    def copy(self) -> Self:
        twin = type(self)()
        twin._visited = self._visited.copy()
        twin._queue = self._queue.copy()
        twin._hand = self._hand
        return twin
