"""S3-FIFO: a small queue on probation, a main queue with lazy promotion, and ghosts of those that failed."""

from collections.abc import Container as Collection
from typing import Final, Self

from huterox_connector.core.replacer.base import ContainerId, Page

SMALL_SHARE: Final = 10
"""The small queue is meant to hold one part in so many of the resident bytes."""
FREQUENCY_MAX: Final = 3
"""Two bits."""
PROMOTED_FROM: Final = 2
"""Accesses, without the one that loaded it, that lead from the small queue into the main one."""
GHOSTS_MAX: Final = 1024


class S3Fifo:
    """Most of what is new is not used again soon: it is judged in a small queue, before it can push out what is used.

    New containers enter the small queue. While that holds its share or more, its oldest is judged: used twice, it goes
    on to the main queue, otherwise it leaves and its page becomes a ghost. A page that comes back while it is a ghost
    was judged too soon and enters the main queue. There the oldest goes round once for each access, three at most, and
    then leaves.

    The size of the pool is not known here. Shares are of the bytes that are resident now; ghosts stand for no more
    bytes than were resident at the last insert, and for no more than GHOSTS_MAX pages. Only one that `victim` had named
    leaves a ghost: what leaves for another reason was not judged.

    Source: Yang et al. 2023, "FIFO Queues are All You Need for Cache Eviction" (SOSP).
    Cost: `victim` O(n), `insert` O(n + ghosts), the rest O(1).
    """

    def __init__(self) -> None:
        self._frequency: dict[ContainerId, int] = {}  # accesses since it entered its queue, up to FREQUENCY_MAX
        self._small: dict[ContainerId, None] = {}  # the oldest first, like the others
        self._main: dict[ContainerId, None] = {}
        self._pages: dict[ContainerId, Page] = {}
        self._nbytes: dict[ContainerId, int] = {}
        self._named: set[ContainerId] = set()
        self._ghosts: dict[Page, int] = {}  # bytes

    def insert(self, cid: ContainerId, *, page: Page, nbytes: int, reload_cost_s: float) -> None:
        if cid not in self._frequency:
            self._frequency[cid] = 0
            queue = self._small if self._ghosts.pop(page, None) is None else self._main
            queue[cid] = None
        self._pages[cid] = page
        self._nbytes[cid] = nbytes
        self._forget_ghosts()

    def record_access(self, cid: ContainerId, count: int = 1) -> None:
        """Hot path. What is hot has its bits set and costs one look."""
        frequency = self._frequency.get(cid, FREQUENCY_MAX)
        if frequency < FREQUENCY_MAX:
            self._frequency[cid] = min(frequency + count, FREQUENCY_MAX)

    def remove(self, cid: ContainerId) -> None:
        if self._frequency.pop(cid, None) is None:
            return
        page, nbytes = self._pages.pop(cid), self._nbytes.pop(cid)
        if cid in self._small and cid in self._named:
            self._ghosts.pop(page, None)
            self._ghosts[page] = nbytes
            if len(self._ghosts) > GHOSTS_MAX:
                del self._ghosts[next(iter(self._ghosts))]
        self._small.pop(cid, None)
        self._main.pop(cid, None)
        self._named.discard(cid)

    def victim(self, evictable: Collection[ContainerId]) -> ContainerId | None:
        """Where a queue has no victim, the other is asked; what the small one promotes is then in the main one."""
        small, main = self._from_small, self._from_main
        for find in (small, main) if self._small_has_its_share(evictable) else (main, small, main):
            if (cid := find(evictable)) is not None:
                self._named.add(cid)
                return cid
        return None

    def copy(self) -> Self:
        twin = type(self)()
        twin._frequency = self._frequency.copy()
        twin._small, twin._main = self._small.copy(), self._main.copy()
        twin._pages, twin._nbytes = self._pages.copy(), self._nbytes.copy()
        twin._named = self._named.copy()
        twin._ghosts = self._ghosts.copy()
        return twin

    def _small_has_its_share(self, evictable: Collection[ContainerId]) -> bool:
        """Of what is left when all have gone that were named."""
        staying = [cid for cid in self._nbytes if cid not in self._named or cid in evictable]
        small = sum(self._nbytes[cid] for cid in staying if cid in self._small)
        return small >= sum(self._nbytes[cid] for cid in staying) // SMALL_SHARE

    def _from_small(self, evictable: Collection[ContainerId]) -> ContainerId | None:
        for cid in [cid for cid in self._small if cid in evictable]:
            if self._frequency[cid] < PROMOTED_FROM:
                return cid
            del self._small[cid]
            self._main[cid] = None
            self._frequency[cid] = 0
        return None

    def _from_main(self, evictable: Collection[ContainerId]) -> ContainerId | None:
        """Each round takes one from every count: one more than FREQUENCY_MAX finds a victim."""
        candidates = [cid for cid in self._main if cid in evictable]
        for cid in candidates * (FREQUENCY_MAX + 1):
            if not self._frequency[cid]:
                return cid
            del self._main[cid]
            self._main[cid] = None
            self._frequency[cid] -= 1
        return None

    def _forget_ghosts(self) -> None:
        """The oldest ones, until they stand for no more bytes than are resident.

        When one comes, not when one leaves: the room that was made for the next is still a part of the pool.
        """
        excess = sum(self._ghosts.values()) - sum(self._nbytes.values())
        while excess > 0:
            excess -= self._ghosts.pop(next(iter(self._ghosts)))
