"""The interface of replacement policies."""

from collections.abc import Container as Collection
from typing import Protocol

ContainerId = int


class Replacer(Protocol):
    """Ranks the containers of one memory pool.

    It knows ids, sizes and reload costs as numbers; no process, clock or counter. Ids that it does not know are ignored
    by `record_access` and `remove`: a report may come late.
    """

    def insert(self, cid: ContainerId, *, nbytes: int, reload_cost_s: float) -> None:
        """A container became resident. Inserting a known id again renews its size and cost, not its rank."""

    def record_access(self, cid: ContainerId, count: int = 1) -> None:
        """Hot path. The container was called `count` times."""

    def remove(self, cid: ContainerId) -> None:
        """The container left."""

    def victim(self, evictable: Collection[ContainerId]) -> ContainerId | None:
        """The container that should leave first, of those in `evictable`; it stays known until `remove`.

        Returns None where nothing known is evictable.
        """
