"""Clock: one reference bit each, and a hand that goes round."""

from collections import OrderedDict
from collections.abc import Container as Collection

from huterox_connector.core.replacer.base import ContainerId


class Clock:
    """Second chance: the hand passes over what was used since it last came by, and takes the first that was not.

    Source: Corbato 1968, "A Paging Experiment with the Multics System".
    """

    def __init__(self) -> None:
        self._referenced: OrderedDict[ContainerId, bool] = OrderedDict()  # in ring order from the hand on

    def insert(self, cid: ContainerId, *, nbytes: int, reload_cost_s: float) -> None:
        self._referenced.setdefault(cid, False)

    def record_access(self, cid: ContainerId, count: int = 1) -> None:
        """Hot path."""
        if cid in self._referenced:
            self._referenced[cid] = True

    def remove(self, cid: ContainerId) -> None:
        self._referenced.pop(cid, None)

    def victim(self, evictable: Collection[ContainerId]) -> ContainerId | None:
        """Two rounds at most: the first may clear every bit, the second then finds one."""
        for _ in range(2 * len(self._referenced)):
            cid, referenced = next(iter(self._referenced.items()))
            if cid in evictable and not referenced:
                return cid
            if cid in evictable:  # what may not leave keeps its bit: the hand has not judged it
                self._referenced[cid] = False
            self._referenced.move_to_end(cid)
        return None
