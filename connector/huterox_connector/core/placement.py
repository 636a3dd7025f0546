"""Where a container goes, and who must leave for it. Pure functions of the records; nothing is changed here.

Room is counted twice. What is *present* holds memory now: a container that is draining or closing still does, until the
kernel says that its memory is back. What *stays* is what will be left once those have gone, with every plan already
made. A plan is made against what stays, and carried out when what is present leaves room.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from huterox_connector.core.config import CoreConfig
from huterox_connector.core.lifecycle import State
from huterox_connector.core.records import NOTHING, Container, Demand, Node

_LEAVING = frozenset({State.DRAINING, State.CLOSING})


@dataclass(slots=True, frozen=True)
class Place:
    """The answer: the node, and the containers that must leave it first."""

    node: Node
    victims: tuple[Container, ...] = ()


def total(containers: Iterable[Container]) -> Demand:
    return sum((container.demand for container in containers), NOTHING)


def present(node: Node) -> Demand:
    """What holds memory now."""
    return total(c for c in node.containers.values() if c.state is not State.PLANNED)


def staying(node: Node) -> Demand:
    """What will hold memory once everything that is leaving has left and every plan is carried out."""
    return total(c for c in node.containers.values() if c.state not in _LEAVING)


def protected_until_s(container: Container, config: CoreConfig) -> float:
    """The end of a container's minimum residency: a multiple of what its load cost, within bounds."""
    stay_s = min(
        max(config.residency_min_s, config.residency_load_factor * container.load_s),
        max(config.residency_max_s, config.residency_min_s),
    )
    return container.ready_s + stay_s


def why_it_stays(container: Container, now_s: float, config: CoreConfig) -> str:
    """Why a container may not leave now; empty where it may."""
    if container.group.pinned:
        return "pinned"
    if container.group.dedicated:
        return "dedicated"
    if container.state is not State.READY:
        return str(container.state)
    if (left_s := protected_until_s(container, config) - now_s) > 0:
        return f"loaded {now_s - container.ready_s:.1f} s ago, protected for another {left_s:.1f} s"
    if container.calls_now:
        return f"{container.calls_now} calls in flight"
    return ""


def may_ever_leave(container: Container) -> bool:
    return not (container.group.pinned or container.group.dedicated)


def find_place(demand: Demand, nodes: Iterable[Node], now_s: float, config: CoreConfig) -> Place | None:
    """The best place for `demand` now, or None.

    A node where it fits as things stand comes first, the emptiest of them; then the node where making room costs the
    least reload time. Containers with calls in flight are drained only where idle ones do not free enough.
    """
    best: tuple[tuple[float, ...], Place] | None = None
    for node in nodes:
        room = node.capacity - staying(node)
        if demand.fits(room):
            score: tuple[float, ...] = (0, -room.host_bytes, -room.slots)
            place = Place(node)
        elif victims := find_victims(demand, node, room, now_s, config):
            cost_s = sum(victim.load_s for victim in victims)
            score = (1 + any(victim.calls_now for victim in victims), cost_s, len(victims))
            place = Place(node, victims)
        else:
            continue
        if best is None or score < best[0]:
            best = (score, place)
    return best[1] if best else None


def find_victims(demand: Demand, node: Node, room: Demand, now_s: float, config: CoreConfig) -> tuple[Container, ...]:
    """Who leaves, in the replacer's order and no more than needed; empty where it cannot be enough."""
    ready = [c for c in node.containers.values() if c.state is State.READY and may_ever_leave(c)]
    old_enough = [c for c in ready if protected_until_s(c, config) <= now_s]
    idle = {c.id: c for c in old_enough if not c.calls_now}
    busy = {c.id: c for c in old_enough if c.calls_now}
    chosen: list[Container] = []
    for candidates in (idle, busy):
        while candidates and not demand.fits(room):
            if (victim_id := node.replacer.victim(candidates)) is None:
                break
            victim = candidates.pop(victim_id)
            chosen.append(victim)
            room = room + victim.demand
    if not demand.fits(room):
        return ()
    return _without_needless(chosen, demand, room)


def _without_needless(chosen: list[Container], demand: Demand, room: Demand) -> tuple[Container, ...]:
    """Spare those that turned out not to be needed, the ones ranked safest first."""
    for container in reversed(list(chosen)):
        if demand.fits(room - container.demand):
            chosen.remove(container)
            room = room - container.demand
    return tuple(chosen)


def hopeless(demand: Demand, nodes: Iterable[Node]) -> bool:
    """Whether no waiting can help: on every node, what may never leave keeps too much."""
    for node in nodes:
        for_ever = total(c for c in node.containers.values() if c.state not in _LEAVING and not may_ever_leave(c))
        if demand.fits(node.capacity - for_ever):
            return False
    return True


def interrupt_facts(demand: Demand, nodes: Iterable[Node], now_s: float, config: CoreConfig) -> dict[str, Any]:
    """The numbers of a ResourceInterrupt: needed, free, and held by whom."""
    return {
        "needed": demand.facts(),
        "nodes": [
            {
                "node": node.name,
                "capacity": node.capacity.facts(),
                "free": (node.capacity - present(node)).facts(),
                "held_by": [
                    {
                        "container": c.title,
                        "model": c.spec.name,
                        **c.demand.facts(),
                        "stays_because": why_it_stays(c, now_s, config) or "nothing: it could leave",
                    }
                    for c in node.containers.values()
                ],
            }
            for node in nodes
        ],
    }
