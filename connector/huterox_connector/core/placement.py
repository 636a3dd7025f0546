"""Where a container goes: the node, the device, and who must leave for it. Pure functions of the records.

Every node that is looked at gives one option or none; a ranking says which is best. Rankings are pluggable: a function
from an option to a tuple, the smallest wins; `PLACEMENTS` names them for the configuration.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import inf, log2
from typing import Any, Final

from huterox_connector.core.config import CoreConfig
from huterox_connector.core.guards import LEAVING, Wish
from huterox_connector.core.nodeindex import Need
from huterox_connector.core.records import Container, Group, Model, Node
from huterox_connector.core.vectors import MIB, Amounts, Charge
from huterox_connector.core.victims import Victims, find_victims

Rank = tuple[Any, ...]


@dataclass(slots=True, frozen=True)
class Place:
    """One option: a node, what is taken of it, and who must leave it first (None: nobody)."""

    node: Node
    charge: Charge
    victims: Victims | None
    replicas_here: int  # containers of the same group on that node
    load_s: float  # as far as is known; 0: it is not

    @property
    def leaving(self) -> tuple[Container, ...]:
        return self.victims.containers if self.victims is not None else ()


def _free_share(place: Place) -> float:
    """What would be left of the node's scarcest resource, as a share."""
    room, capacity = place.node.room, place.node.capacity
    shares = [room.slots / max(1, capacity.slots), room.host_bytes / max(1, capacity.host_bytes)]
    if place.charge.device:
        device = place.charge.device
        shares.append(room.devices.get(device, 0) / max(1, capacity.devices.get(device, 0)))
    return min(shares)


def _begin(place: Place) -> Rank:
    """What every ranking begins with: no eviction before the cheapest one, idle victims before busy ones."""
    victims = place.victims
    if victims is None:
        return (0, 0.0, 0)
    return (2 if victims.busy else 1, victims.cost_s, len(victims.containers))


def _load_step(place: Place) -> int:
    """Load times that differ by less than half count as equal: the disk was busy, or it was not."""
    return round(log2(max(place.load_s, 0.01))) if place.load_s else 0


def spread(place: Place) -> Rank:
    """Replicas apart, then where it loads fast, then the emptiest node: room for all to breathe."""
    return (*_begin(place), place.replicas_here, not place.charge.device, _load_step(place), -_free_share(place))


def pack(place: Place) -> Rank:
    """Replicas apart, then where it loads fast, then the fullest node that takes it: the big find free ones."""
    return (*_begin(place), place.replicas_here, not place.charge.device, _load_step(place), _free_share(place))


PLACEMENTS: Final[dict[str, Callable[[Place], Rank]]] = {"spread": spread, "pack": pack}


def is_open(node: Node, group: Group, now_s: float, config: CoreConfig) -> bool:
    """Whether anything may be loaded there for `group`: not drained, healthy, and not claimed for another."""
    if node.drained or now_s < node.sick_until_s or now_s - node.last_heartbeat_s > config.node_suspect_s:
        return False
    return node.claim is None or node.claim is group


def why_closed(node: Node, group: Group, now_s: float, config: CoreConfig) -> str:
    """Why nothing is loaded there; empty where something may be."""
    if node.drained:
        return "drained by an operator"
    if now_s < node.sick_until_s:
        return f"unhealthy: {node.sick_because}"
    if (silent_s := now_s - node.last_heartbeat_s) > config.node_suspect_s:
        return f"silent for {silent_s:.1f} s"
    if node.claim is not None and node.claim is not group:
        return f"kept for {node.claim.model.name}, which has waited longest"
    return ""


def charges_on(model: Model, node: Node) -> Iterator[Charge]:
    """What a container of `model` would take there, for each device that it could use."""
    if model.spec.device != "cpu":
        for device in node.capacity.devices:
            yield _charge(model, node, device)
    if model.spec.device != "cuda":
        yield _charge(model, node, "")


def _charge(model: Model, node: Node, device: str) -> Charge:
    """Measured on that node, else measured on another, else declared.

    What has outgrown the node on which it ran is given all of it from then on: nobody beside it, but not never again.
    """
    on_device, declared = bool(device), model.spec.resources
    host_bytes, device_bytes = declared.host_mb * MIB, declared.gpu_mb * MIB * on_device
    seen = model.footprints.on(node.name)
    if seen is not None and seen.on_device == on_device:
        capacity = node.capacity
        return Charge(
            1,
            min(seen.host_bytes, max(capacity.host_bytes, host_bytes)),
            device,
            min(seen.device_bytes, max(capacity.devices.get(device, 0), device_bytes)),
        )
    host_bytes, device_bytes = _elsewhere(model, on_device)
    return Charge(1, host_bytes, device, device_bytes)


def declared_charge(model: Model) -> Charge:
    """What a model asks for wherever it goes: for texts about nodes that it does not fit on."""
    host_bytes, device_bytes = _elsewhere(model, model.spec.device == "cuda")
    return Charge(1, host_bytes, "", device_bytes)


def needs_of(model: Model) -> list[Need]:
    """What a container of `model` takes wherever it was not measured, for each way in which it can run."""
    ways = {"cpu": (False,), "cuda": (True,), "any": (True, False)}[model.spec.device]
    needs = []
    for on_device in ways:
        host_bytes, device_bytes = _elsewhere(model, on_device)
        needs.append(Need(host_bytes, device_bytes if on_device else None))
    return needs


def _elsewhere(model: Model, on_device: bool) -> tuple[int, int]:
    """Host and device memory: as measured on another node, else as declared."""
    seen, declared = model.footprints.anywhere(on_device), model.spec.resources
    if seen is not None:
        return seen.host_bytes, seen.device_bytes
    return declared.host_mb * MIB, declared.gpu_mb * MIB * on_device


def find_place(
    wish: Wish, nodes: Iterable[Node], now_s: float, config: CoreConfig, *, may_evict: bool = True
) -> Place | None:
    """The best place for one more container of the wish's group on one of `nodes`, or None.

    Victims are looked for only where no node has room: that takes far longer than to see who has.
    """
    model, rank = wish.group.model, PLACEMENTS[config.placement]
    spots = [(node, charge, _replicas_on(wish.group, node)) for node in nodes for charge in charges_on(model, node)]
    places = [place for spot in spots if (place := _free_place(*spot, wish)) is not None]
    if not places and may_evict:
        places = [place for spot in spots if (place := _forced_place(*spot, wish, now_s, config)) is not None]
    return min(places, key=rank, default=None)


def _replicas_on(group: Group, node: Node) -> int:
    return sum(container.node is node for container in (*group.ready, *group.coming.values()))


def _free_place(node: Node, charge: Charge, replicas: int, wish: Wish) -> Place | None:
    if not node.room.hold(charge):
        return None
    return Place(node, charge, None, replicas, wish.group.model.footprints.load_s(node.name))


def _forced_place(
    node: Node, charge: Charge, replicas: int, wish: Wish, now_s: float, config: CoreConfig
) -> Place | None:
    if not node.limit.hold(charge):
        return None
    victims = find_victims(charge, node, wish, now_s, config)
    if victims is None:
        return None
    return Place(node, charge, victims, replicas, wish.group.model.footprints.load_s(node.name))


def fits_beside_the_firm(model: Model, node: Node) -> bool:
    """Whether the node could take the model if everything left that ever may."""
    room = node.limit.less(Amounts())
    for container in node.containers.values():
        if container.group.firm and container.state not in LEAVING:
            room.remove(container.charge)
    return any(room.hold(charge) for charge in charges_on(model, node))


def seconds(at_s: float, now_s: float) -> float | None:
    """How long until `at_s`; None: for ever."""
    return None if at_s == inf else round(max(0.0, at_s - now_s), 3)
