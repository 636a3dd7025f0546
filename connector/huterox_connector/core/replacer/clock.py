"""Clock: one reference bit each, and a hand that goes round."""

from collections.abc import Container as Collection
from typing import Self

from huterox_connector.core.replacer.base import ContainerId, Page


class Clock:
    """Second chance: the hand passes over what was used since it last came by, and takes the first that was not.

    The ring is kept as a queue that begins at the hand. What the hand passes goes to the end, and so does what is new:
    FIFO with reinsertion. What may not leave is stepped over and stays where it is.

    Source: Corbato 1968, "A Paging Experiment with the Multics System".
    Cost: `victim` O(n), the rest O(1).
    """

    def __init__(self) -> None:
        self._referenced: dict[ContainerId, bool] = {}  # in ring order from the hand on

    def insert(self, cid: ContainerId, *, page: Page, nbytes: int, reload_cost_s: float) -> None:
        self._referenced.setdefault(cid, False)

    def record_access(self, cid: ContainerId, count: int = 1) -> None:
        """Hot path. Setting the bit of one that is known leaves it in its place."""
        if cid in self._referenced:
            self._referenced[cid] = True

    def remove(self, cid: ContainerId) -> None:
        self._referenced.pop(cid, None)

    def victim(self, evictable: Collection[ContainerId]) -> ContainerId | None:
        """Two rounds at most: the first may clear every bit, the second then finds one."""
        candidates = [cid for cid in self._referenced if cid in evictable]
        for cid in (*candidates, *candidates):
            if not self._referenced[cid]:
                return cid
            del self._referenced[cid]
            self._referenced[cid] = False
        return None

    def copy(self) -> Self:
        twin = type(self)()
        twin._referenced = self._referenced.copy()
        return twin
