"""Turns: who has waited long for room gets a node to itself until its room has come.

Problem: small models that come and go keep a node so full of freshly loaded containers that a large one never finds
all of its victims free to leave at the same time. Idea: after a while the node where its room will come first is
*claimed* for it. Nothing else is loaded there; what is there grows old enough to leave within its minimum residency,
which is bounded; then the claim ends with the load. Since a container that was given room stays for its own minimum
residency, models that cannot be resident together take turns, and none waits for ever.
"""

from math import inf

from huterox_connector.core.config import CoreConfig
from huterox_connector.core.guards import Wish
from huterox_connector.core.placement import charges_on
from huterox_connector.core.records import Group, GroupKey, Node
from huterox_connector.core.registry import Registry
from huterox_connector.core.victims import room_comes_s


class Claims:
    """Which nodes are claimed. One node a group, one group a node."""

    def __init__(self, registry: Registry, config: CoreConfig) -> None:
        self._registry = registry
        self._config = config
        self._claimed: dict[GroupKey, Node] = {}

    def __len__(self) -> int:
        return len(self._claimed)

    def claim(self, wish: Wish, open_nodes: list[Node], now_s: float) -> Node | None:
        """Claim the node where the wish's room comes first; None where nothing was claimed now.

        A node is never claimed by waiting for hotter models to cool: that may not end.
        """
        group, config = wish.group, self._config
        if now_s - wish.since_s < config.claim_after_s or group.key in self._claimed:
            return None
        best, best_s = None, inf
        for node in open_nodes:
            if node.claim is not None:
                continue
            for charge in charges_on(group.model, node):
                at_s = room_comes_s(charge, node, wish, now_s, config, wait_for_hot=False)
                if at_s < best_s:
                    best, best_s = node, at_s
        if best is not None:
            best.claim, best.claimed_s = group, now_s
            self._claimed[group.key] = best
        return best

    def release(self, group: Group) -> None:
        """It has its place, or nobody waits for it any more."""
        node = self._claimed.pop(group.key, None)
        if node is not None and node.claim is not None and node.claim.key == group.key:
            node.claim = None

    def sweep(self, now_s: float) -> None:
        """Release claims that serve nobody: no call waits, the node is gone, or it has taken too long."""
        longest_s = self._config.residency_max_s + self._config.room_patience_s
        for node in list(self._claimed.values()):
            group = node.claim
            assert group is not None, "a claimed node names its claim"
            gone = self._registry.nodes.get(node.identity) is not node
            if gone or group.resident or not group.waiting or now_s - node.claimed_s > longest_s:
                self.release(group)
