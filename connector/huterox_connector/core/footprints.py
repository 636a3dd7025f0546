"""What models were measured to take and how long they took to load, per version and node: better than what is declared.

Kept for the version that is deployed, for the nodes that loaded it last; written behind to the store.
"""

from collections import OrderedDict
from typing import Final

from msgspec import Struct

NODES_MAX: Final = 64
"""Nodes that are remembered for each model: those that loaded it last."""

WORTH_WRITING: Final = 0.05
"""A measurement that differs by less than this share from what is on disk is not written."""


class Footprint(Struct, frozen=True):
    """One model on one node. `on_device`: whether it used a device there."""

    host_bytes: int
    device_bytes: int
    load_s: float
    on_device: bool = False

    def is_like(self, other: "Footprint | None") -> bool:
        """Whether the difference is not worth a write."""
        if other is None or self.on_device != other.on_device:
            return False
        pairs = (
            (self.host_bytes, other.host_bytes),
            (self.device_bytes, other.device_bytes),
            (self.load_s, other.load_s),
        )
        return all(abs(mine - theirs) <= WORTH_WRITING * max(abs(mine), abs(theirs)) for mine, theirs in pairs)


class Footprints:
    """What was measured of one version of one model."""

    def __init__(self) -> None:
        self._by_node: OrderedDict[str, Footprint] = OrderedDict()  # the newest last
        self._written: dict[str, Footprint] = {}

    def __len__(self) -> int:
        return len(self._by_node)

    def learn(self, node: str, measured: Footprint) -> str | None:
        """Note a measurement. Returns the node that had to be forgotten for it, if any."""
        self._by_node[node] = measured
        self._by_node.move_to_end(node)
        if len(self._by_node) <= NODES_MAX:
            return None
        forgotten, _ = self._by_node.popitem(last=False)
        self._written.pop(forgotten, None)
        return forgotten

    def recall(self, node: str, written: Footprint) -> None:
        """Note what is on disk."""
        self._by_node[node] = self._written[node] = written

    def must_write(self, node: str) -> bool:
        """Whether the disk knows noticeably less of this node. It is then taken to be written."""
        measured = self._by_node[node]
        if measured.is_like(self._written.get(node)):
            return False
        self._written[node] = measured
        return True

    def on(self, node: str) -> Footprint | None:
        """As measured there."""
        return self._by_node.get(node)

    def anywhere(self, on_device: bool) -> Footprint | None:
        """As measured last on any node, with or without a device."""
        return next((seen for seen in reversed(self._by_node.values()) if seen.on_device == on_device), None)

    def load_s(self, node: str) -> float:
        """How long a load takes there as far as is known; 0: nothing is."""
        seen = self._by_node.get(node)
        if seen is None:
            seen = next(reversed(self._by_node.values()), None)
        return seen.load_s if seen is not None else 0.0

    def nodes(self) -> list[str]:
        """Where it was loaded, the latest first."""
        return list(reversed(self._by_node))

    def clear(self) -> None:
        """Another version is deployed: nothing of this holds for it."""
        self._by_node.clear()
        self._written.clear()
