"""Which nodes are worth a look for a load: a bounded number, whatever the number of nodes.

Looking at every node for every fault would make the time of a decision grow with the platform. So the nodes are kept in
the order of their free host memory, and of the free memory of their emptiest device; a search looks at those that have
most, at those that loaded the model last, and at some others in turn, so that every node has its turn within a few
searches.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from typing import Final

from huterox_connector.core.records import Node

ROOMIEST: Final = 8
"""Nodes with the most room that a search looks at."""

IN_TURN: Final = 24
"""Other nodes that it looks at, each search going on where the last one stopped."""

_Entry = tuple[bool, int, str]


class NodeIndex:
    """Orders of nodes. Adding and moving one costs a binary search and a short copy."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}
        self._by_host: list[_Entry] = []
        self._by_device: list[_Entry] = []
        self._keys: dict[str, tuple[_Entry, _Entry | None]] = {}
        self._ring: list[Node] = []
        self._places: dict[str, int] = {}
        self._cursor = 0

    def __len__(self) -> int:
        return len(self._ring)

    def add(self, node: Node) -> None:
        self._nodes[node.name] = node
        self._places[node.name] = len(self._ring)
        self._ring.append(node)
        self.update(node)

    def remove(self, node: Node) -> None:
        self._take_out(node.name)
        del self._nodes[node.name]
        place = self._places.pop(node.name)
        last = self._ring.pop()
        if last is not node:  # the last one moves into the gap
            self._ring[place] = last
            self._places[last.name] = place

    def update(self, node: Node) -> None:
        """Its room has changed. Ignores a node that is not here (any more)."""
        if self._nodes.get(node.name) is not node:
            return
        keys = _keys_of(node)
        if self._keys.get(node.name) == keys:
            return
        self._take_out(node.name)
        self._keys[node.name] = keys
        insort(self._by_host, keys[0])
        if keys[1] is not None:
            insort(self._by_device, keys[1])

    def _take_out(self, name: str) -> None:
        by_host, by_device = self._keys.pop(name, (None, None))
        for entry, order in ((by_host, self._by_host), (by_device, self._by_device)):
            if entry is not None:
                del order[bisect_left(order, entry)]

    def candidates(self, *, on_device: bool, known: Iterable[str]) -> Iterator[Node]:
        """Nodes to look at for a load, each once: all of them where they are few.

        Args:
            on_device: whether a device's memory is what is looked for.
            known: names of nodes that are worth a look in any case.
        """
        if len(self._ring) <= ROOMIEST + IN_TURN:
            yield from self._ring
            return
        seen: set[str] = set()
        order = self._by_device if on_device else self._by_host
        names = [name for name in known if name in self._nodes]
        names += [name for _, _, name in order[: -ROOMIEST - 1 : -1]]
        for name in names:
            if name not in seen:
                seen.add(name)
                yield self._nodes[name]
        for _ in range(IN_TURN):
            self._cursor = (self._cursor + 1) % len(self._ring)
            node = self._ring[self._cursor]
            if node.name not in seen:
                seen.add(node.name)
                yield node


def _keys_of(node: Node) -> tuple[_Entry, _Entry | None]:
    room = node.room
    has_slot = room.slots > 0
    by_host = (has_slot, room.host_bytes, node.name)
    by_device = (has_slot, max(room.devices.values()), node.name) if room.devices else None
    return by_host, by_device
