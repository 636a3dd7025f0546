"""The resource interrupt: what a refusal for want of room tells its caller.

What was needed, what is free, who holds the rest and why each may not leave, what would help, and when to come back.
Bounded: of many nodes only those are told of in full on which room is nearest.
"""

from collections.abc import Collection
from math import inf
from typing import Any, Final

from huterox_connector.core.config import CoreConfig
from huterox_connector.core.guards import Wish, explain, guard_of
from huterox_connector.core.placement import charges_on, declared_charge, is_open, seconds, why_closed
from huterox_connector.core.records import Container, Node
from huterox_connector.core.survey import Survey
from huterox_connector.core.vectors import MIB, Charge
from huterox_connector.core.victims import room_comes_s
from huterox_wire.errors import ResourceInterrupt

NODES_TOLD_MAX: Final = 4
HOLDERS_TOLD_MAX: Final = 32
HOLDERS_JOURNALLED_MAX: Final = 8


def comes_s(wish: Wish, nodes: list[Node], now_s: float, config: CoreConfig) -> float:
    """The earliest time at which there may be room on one of `nodes`; inf: waiting is in vain."""
    model = wish.group.model
    return min(
        (room_comes_s(charge, node, wish, now_s, config) for node in nodes for charge in charges_on(model, node)),
        default=inf,
    )


def interrupt(
    seen: Survey, every_node: Collection[Node], at_s: float, now_s: float, config: CoreConfig
) -> ResourceInterrupt:
    """The refusal.

    Args:
        seen: the look that found no room.
        every_node: asked only where all that were seen say the same of themselves.
        at_s: when there may be room; inf: never by waiting.
    """
    wish, nodes, too_small = seen.wish, seen.nodes, not seen.large_enough
    model = wish.group.model
    needed = declared_charge(model)
    why = _why(seen, every_node, now_s, config)
    near = _nearest(nodes, wish, now_s, config)
    return ResourceInterrupt(
        f"no room for model {model.name!r}: it needs {_in_words(needed)}; {why}",
        retryable=not too_small,
        model=model.name,
        needed=needed.facts(),
        waited_s=round(now_s - wish.since_s, 3),
        would_help=_helps(wish, near, needed, too_small, now_s, config),
        retry_after_s=seconds(at_s, now_s) if at_s < inf else None,
        nodes_in_all=seen.nodes_in_all,
        nodes=[_of_node(node, wish, now_s, config) for node in near],
    )


def in_short(details: dict[str, Any]) -> dict[str, Any]:
    """The facts of a refusal as the journal keeps them, which has many: one node, and its largest holders."""
    nodes = [{**node, "held_by": node["held_by"][:HOLDERS_JOURNALLED_MAX]} for node in details["nodes"][:1]]
    return {**details, "nodes": nodes}


def _in_words(needed: Charge) -> str:
    parts = [f"{needed.slots} slot", f"{needed.host_bytes // MIB} MiB"]
    if needed.device_bytes:
        parts.append(f"{needed.device_bytes // MIB} MiB on one device")
    return " and ".join([", ".join(parts[:-1]), parts[-1]])


def _why(seen: Survey, every_node: Collection[Node], now_s: float, config: CoreConfig) -> str:
    """True of all nodes, and not only of those that were seen: the next look must not contradict it."""
    group = seen.wish.group
    if not seen.large_enough:
        needs_device = group.model.spec.device == "cuda"
        has_none = needs_device and not any(node.capacity.devices for node in every_node)
        return "no node has a device" if has_none else f"no node is that large{_beside(seen, every_node)}"

    def holds(node: Node) -> bool:
        return any(node.limit.hold(charge) for charge in charges_on(group.model, node))

    if not seen.open and not any(is_open(node, group, now_s, config) for node in every_node):
        return "no node takes loads now"
    if not any(map(holds, seen.nodes)) and not any(map(holds, every_node)):
        return "other programs have taken too much of the memory"
    return "what is resident may not leave"


def _beside(seen: Survey, every_node: Collection[Node]) -> str:
    """Where it is what containers share that leaves too little of the largest node."""
    base_bytes = 0
    for node in every_node:
        if any(node.offered.hold(charge) for charge in charges_on(seen.wish.group.model, node)):
            base_bytes = max(base_bytes, node.base_bytes)
    return f" beside what all its containers share, {base_bytes // MIB} MiB" if base_bytes else ""


def _nearest(nodes: list[Node], wish: Wish, now_s: float, config: CoreConfig) -> list[Node]:
    if len(nodes) <= NODES_TOLD_MAX:
        return nodes
    return sorted(nodes, key=lambda node: comes_s(wish, [node], now_s, config))[:NODES_TOLD_MAX]


def _of_node(node: Node, wish: Wish, now_s: float, config: CoreConfig) -> dict[str, Any]:
    held = sorted(node.containers.values(), key=lambda container: -container.charge.nbytes)
    facts: dict[str, Any] = {
        "node": node.name,
        "capacity": node.offered.facts(),
        "free": node.limit.less(node.present).facts(),
        "held_by": [_of_holder(container, wish, now_s, config) for container in held[:HOLDERS_TOLD_MAX]],
    }
    if len(held) > HOLDERS_TOLD_MAX:
        facts["held_by_others"] = len(held) - HOLDERS_TOLD_MAX
    if node.base_bytes:
        facts["base_mb"] = node.base_bytes // MIB
    if node.limit != node.capacity:
        facts["taken_by_others"] = node.capacity.less(node.limit).facts()
    if closed := why_closed(node, wish.group, now_s, config):
        facts["closed_because"] = closed
    return facts


def _of_holder(container: Container, wish: Wish, now_s: float, config: CoreConfig) -> dict[str, Any]:
    guard = guard_of(container, wish, now_s, config)
    why = explain(guard, container, wish, now_s, config)
    return {
        "container": container.title,
        "model": container.spec.name,
        **container.charge.facts(),
        "stays_because": why or "it could leave, but that would not be enough",
    }


def _helps(
    wish: Wish, nodes: list[Node], needed: Charge, too_small: bool, now_s: float, config: CoreConfig
) -> list[str]:
    """What somebody could do, the least first."""
    if too_small:
        return [
            f"a node that can give {_in_words(needed)}{' and has a device' * (wish.group.model.spec.device == 'cuda')}"
        ]
    seen = {
        (str(guard), container.group.key)
        for node in nodes
        for container in node.containers.values()
        if (guard := guard_of(container, wish, now_s, config)) is not None
    }
    guards = {guard for guard, _ in seen}
    helps = []
    if guards - {"pinned", "dedicated"}:
        helps.append("coming back later")
    for kind, verb in (("pinned", "unpinning"), ("dedicated", "giving up the containers of their own of")):
        names = sorted({name for found, (name, _) in seen if found == kind})
        if names:
            helps.append(f"{verb} {', '.join(names[:8])}")
    closed = [node.name for node in nodes if why_closed(node, wish.group, now_s, config)]
    if closed:
        helps.append(f"opening {', '.join(sorted(closed)[:8])} again")
    taken = [node.name for node in nodes if node.limit != node.capacity]
    if taken:
        helps.append(f"ending other programs on {', '.join(sorted(taken)[:8])}, which have taken memory")
    return [*helps, f"another node with {_in_words(needed)} free"]
