"""GDSF: greedy dual by size and frequency."""

from collections import OrderedDict
from collections.abc import Container as Collection
from typing import Final, Self

from huterox_connector.core.replacer.base import ContainerId, Page

NBYTES_MIN: Final = 1 << 20
"""A smaller container counts as one of this size. One of size 0 would outrank all others for ever."""
RELOAD_COST_MAX_S: Final = 86_400.0
"""A dearer one counts as this dear. With it the age stays finite, and what others are worth is not lost beside it."""


class Gdsf:
    """Evicts where a byte saves the least: priority = age + accesses x seconds to load it again / bytes.

    The age is the pool's, as of the container's last access. It rises to the priority of what was evicted, so that what
    is no longer used falls behind in time, however hot it was. It rises when one leaves that `victim` had named, to the
    priority that it was named with. One that leaves for another reason (a crash, an idle close, an operator) says
    nothing of what room is worth, and the age stays. Among equals the least recently used one leaves.

    Sources: Cherkasova 1998, "Improving WWW Proxies Performance with Greedy-Dual-Size-Frequency Caching Policy"; for
    warm starts Fuerst and Sharma 2021, "FaasCache: Keeping Serverless Computing Alive with Greedy-Dual Caching".
    Cost: `victim` O(n), the rest O(1).
    """

    def __init__(self) -> None:
        self._age = 0.0
        self._counts: OrderedDict[ContainerId, int] = OrderedDict()  # accesses; the least recently used one first
        self._ages: dict[ContainerId, float] = {}  # the age at the last access of each
        self._costs: dict[ContainerId, tuple[float, int]] = {}  # seconds to load it again, bytes
        self._named: dict[ContainerId, float] = {}  # the priority at which it was named a victim

    def insert(self, cid: ContainerId, *, page: Page, nbytes: int, reload_cost_s: float) -> None:
        self._counts.setdefault(cid, 1)
        self._ages.setdefault(cid, self._age)
        self._costs[cid] = (min(max(0.0, reload_cost_s), RELOAD_COST_MAX_S), max(nbytes, NBYTES_MIN))

    def record_access(self, cid: ContainerId, count: int = 1) -> None:
        """Hot path. Priorities are worked out when a victim is wanted."""
        if cid in self._counts:
            self._counts[cid] += count
            self._counts.move_to_end(cid)
            self._ages[cid] = self._age

    def remove(self, cid: ContainerId) -> None:
        if self._counts.pop(cid, None) is None:
            return
        del self._ages[cid], self._costs[cid]
        self._age = max(self._age, self._named.pop(cid, 0.0))

    def victim(self, evictable: Collection[ContainerId]) -> ContainerId | None:
        """`min` takes the first of equals: the least recently used one."""
        victim = min((cid for cid in self._counts if cid in evictable), key=self._priority, default=None)
        if victim is not None:
            self._named[victim] = self._priority(victim)
        return victim

    def copy(self) -> Self:
        twin = type(self)()
        twin._age = self._age
        twin._counts, twin._ages = self._counts.copy(), self._ages.copy()
        twin._costs, twin._named = self._costs.copy(), self._named.copy()
        return twin

    def _priority(self, cid: ContainerId) -> float:
        cost_s, nbytes = self._costs[cid]
        return self._ages[cid] + self._counts[cid] * cost_s / nbytes
