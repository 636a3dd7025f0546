"""What one look sees of the nodes: made once for each decision, and read by all that follows from it.

Placing, claiming and refusing speak of the same nodes then. Where they are many, another look sees others: an
explanation from a look of its own would contradict the decision that it explains.
"""

from dataclasses import dataclass

from huterox_connector.core.config import CoreConfig
from huterox_connector.core.guards import Wish
from huterox_connector.core.nodeindex import NodeIndex
from huterox_connector.core.placement import charges_on, is_open, needs_of
from huterox_connector.core.records import Node


@dataclass(slots=True, frozen=True)
class Survey:
    """The nodes that are worth a look for a wish, as they are now.

    `nodes` are they, open to it or not, `open` those that are. `complete`: no other node is large enough.
    `large_enough`: some node is, of all that there are.
    """

    wish: Wish
    nodes: list[Node]
    open: list[Node]
    complete: bool
    large_enough: bool
    nodes_in_all: int


def survey(wish: Wish, index: NodeIndex, now_s: float, config: CoreConfig) -> Survey:
    """Look. Changes nothing: `Group.looks` says which of many nodes have their turn."""
    group, model = wish.group, wish.group.model
    needs = needs_of(model)
    nodes, complete = index.search(needs, model.footprints.nodes(), group.looks)
    return Survey(
        wish,
        nodes,
        [node for node in nodes if is_open(node, group, now_s, config)],
        complete,
        index.has_large_enough(needs) or any(fits_empty(wish, node) for node in nodes),
        len(index),
    )


def fits_empty(wish: Wish, node: Node) -> bool:
    """Whether the node could hold the wish's model if it were empty."""
    return any(node.capacity.hold(charge) for charge in charges_on(wish.group.model, node))
