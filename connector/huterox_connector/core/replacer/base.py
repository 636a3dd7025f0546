"""The interface of replacement policies."""

from collections.abc import Container as Collection
from collections.abc import Hashable
from typing import Protocol, Self

ContainerId = int
Page = Hashable
"""What stays the same when a container is loaded again under a new id."""


class Replacer(Protocol):
    """Ranks the containers of one memory pool (one node).

    It knows ids, pages, sizes and reload costs as numbers; no process, clock or counter. What it does not know (a late
    report) `record_access` and `remove` ignore. Memory: what is resident, and a bounded number of ghosts.

    `victim` names who should leave, `remove` says that it left. Between the two may lie a drain; or the one that was
    named is spared after all. So several are named one after another by leaving those that were named out of
    `evictable`: the answers are those that removing each before the next question would give. What else is not in
    `evictable` keeps its bit and its place in line: it has not been judged.
    """

    def insert(self, cid: ContainerId, *, page: Page, nbytes: int, reload_cost_s: float) -> None:
        """A container became resident, by a first access: `record_access` is for further ones.

        Inserting a known id again renews size and cost, not rank.

        Args:
            page: a page that was evicted as another container may be known from then.
            nbytes: 0 or more.
            reload_cost_s: seconds that it takes to load it again; 0 or more.
        """

    def record_access(self, cid: ContainerId, count: int = 1) -> None:
        """Hot path. The container was called `count` times, at least once. O(1) in every policy."""

    def remove(self, cid: ContainerId) -> None:
        """The container left, for whatever reason."""

    def victim(self, evictable: Collection[ContainerId]) -> ContainerId | None:
        """The container that should leave first, of those in `evictable`; it stays known until `remove`.

        None: nothing known is evictable, and nothing was changed. Otherwise hands may have moved and bits been cleared.
        """

    def copy(self) -> Self:
        """An independent copy that gives the same answers from here on: for trying out, or to be put in its place."""
