"""Which nodes are worth a look for a load: a bounded number, whatever the number of nodes.

Looking at every node for every fault would make the time of a decision grow with the platform. So the nodes are kept in
the order of their free host memory, and of the free memory of their emptiest device; and in the order of their size. A
search looks at those that have most room, at those that loaded the model last, and at some of those that are large
enough in turn: whoever looks again is given others, until he has seen all. Nodes that are too small are passed over,
so that the one large node among many small ones is found at once.

Asking changes nothing.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from huterox_connector.core.records import Node

ROOMIEST: Final = 8
"""Nodes with the most room that a search looks at."""

IN_TURN: Final = 24
"""Others that are large enough, of which each search looks at the next ones."""

_Room = tuple[bool, int, str]
_Size = tuple[int, str]


class Need(NamedTuple):
    """What one container takes of a node that has not run its model yet. `device_bytes` None: it uses no device."""

    host_bytes: int
    device_bytes: int | None


class Found(NamedTuple):
    """`complete`: no other node is large enough."""

    nodes: list[Node]
    complete: bool


@dataclass(slots=True)
class _Orders:
    """Of nodes by one kind of memory: what is free of it, and how much there is."""

    room: list[_Room] = field(default_factory=list)
    size: list[_Size] = field(default_factory=list)


_Keys = tuple[_Room | None, _Size | None, _Room | None, _Size | None]
"""Where a node stands: by room and size, of host memory and of devices."""

_NOWHERE: Final[_Keys] = (None, None, None, None)


class NodeIndex:
    """Orders of nodes. Adding and moving one costs a binary search and a short copy."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}
        self._host, self._device = _Orders(), _Orders()
        self._keys: dict[str, _Keys] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def add(self, node: Node) -> None:
        self._nodes[node.name] = node
        self.update(node)

    def remove(self, node: Node) -> None:
        self._move(node.name, _NOWHERE)
        del self._nodes[node.name]

    def update(self, node: Node) -> None:
        """Its room or size has changed, or it was drained or resumed. Ignores a node that is not here (any more)."""
        if self._nodes.get(node.name) is not node:
            return
        self._move(node.name, _keys_of(node))

    def _move(self, name: str, keys: _Keys) -> None:
        """Most changes are of the room alone: orders in which it stays where it is are left alone."""
        was = self._keys.pop(name, _NOWHERE)
        if keys is not _NOWHERE:
            self._keys[name] = keys
        orders: tuple[list[Any], ...] = (self._host.room, self._host.size, self._device.room, self._device.size)
        for order, old, new in zip(orders, was, keys, strict=True):
            if old == new:
                continue
            if old is not None:
                del order[bisect_left(order, old)]
            if new is not None:
                insort(order, new)

    def search(self, needs: Iterable[Need], known: Iterable[str], turn: int) -> Found:
        """Nodes to look at for a load, each once: all of them where they are few.

        Args:
            needs: each way in which the model can run.
            known: names of nodes that are worth a look in any case: the model was measured there.
            turn: how often the asker has looked.
        """
        if len(self._nodes) <= ROOMIEST + IN_TURN:
            return Found(list(self._nodes.values()), True)
        names = dict.fromkeys(name for name in known if name in self._nodes)
        complete = True
        for need in needs:
            orders = self._orders(need)
            names |= dict.fromkeys(name for _, _, name in orders.room[: -ROOMIEST - 1 : -1])
            first = self._first_that_holds(need)
            count = len(orders.size) - first
            complete = complete and count <= IN_TURN
            for at in range(min(count, IN_TURN)):
                names[orders.size[first + (turn * IN_TURN + at) % count][1]] = None
        return Found([self._nodes[name] for name in names], complete)

    def has_large_enough(self, needs: Iterable[Need]) -> bool:
        """Whether any node, were it empty, could run a model in one of these ways. Exact, whatever their number."""
        return any(True for need in needs for _ in self._that_hold(need))

    def _that_hold(self, need: Need) -> Iterator[Node]:
        size = self._orders(need).size
        for at in range(self._first_that_holds(need), len(size)):
            node = self._nodes[size[at][1]]
            if node.capacity.host_bytes >= need.host_bytes:
                yield node

    def _orders(self, need: Need) -> _Orders:
        return self._host if need.device_bytes is None else self._device

    def _first_that_holds(self, need: Need) -> int:
        nbytes = need.host_bytes if need.device_bytes is None else need.device_bytes
        return bisect_left(self._orders(need).size, (nbytes, ""))


def _keys_of(node: Node) -> _Keys:
    """Where it stands among those by host memory, and by devices. Who gives no slots at all stands nowhere."""
    room, capacity = node.room, node.capacity
    if capacity.slots <= 0:
        return _NOWHERE
    takes_loads = room.slots > 0 and not node.drained
    by_room, by_size = (takes_loads, room.host_bytes, node.name), (capacity.host_bytes, node.name)
    if not capacity.devices:
        return by_room, by_size, None, None
    freest = max(room.devices.get(device, 0) for device in capacity.devices)
    return by_room, by_size, (takes_loads, freest, node.name), (max(capacity.devices.values()), node.name)
