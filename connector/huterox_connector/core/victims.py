"""Who leaves a node to make room: no more than needed, nobody that is guarded, in the order of the node's replacer.

The policy says who is in danger, the cost of loading decides among them. The replacer is asked for victims until those
that it has named free enough: the shortest start of its order that can do. From these the dearest to load again are
spared, as far as the rest still frees enough. Where all sizes are equal this is the policy itself.
"""

from dataclasses import dataclass
from math import inf

from huterox_connector.core.config import CoreConfig
from huterox_connector.core.guards import LEAVING, Guard, Wish, guard_of, is_surplus, lapses_s
from huterox_connector.core.lifecycle import State
from huterox_connector.core.records import Container, Node
from huterox_connector.core.replacer.base import Replacer
from huterox_connector.core.vectors import Amounts, Charge


@dataclass(slots=True, frozen=True)
class Victims:
    """Who would leave a node. `replacer` is the node's, as it is after naming them: to be put in its place."""

    containers: tuple[Container, ...]
    replacer: Replacer

    @property
    def cost_s(self) -> float:
        """What it takes to load them all again."""
        return sum(container.load_s for container in self.containers)

    @property
    def busy(self) -> bool:
        return any(container.calls_now for container in self.containers)


def find_victims(charge: Charge, node: Node, wish: Wish, now_s: float, config: CoreConfig) -> Victims | None:
    """Who leaves `node`, so that `charge` fits; None where it cannot be enough.

    Loads that nobody waits for any more go first, then replicas whose group has others. Containers with calls in flight
    are named only when the wish's turn is due and the idle ones do not free enough.
    """
    room = node.room
    unwanted: list[Container] = []
    surplus: list[Container] = []
    idle: dict[int, Container] = {}
    busy: dict[int, Container] = {}
    for container in node.containers.values():
        if guard_of(container, wish, now_s, config) is not None or not room.helps(charge, container.charge):
            continue
        if container.state is not State.READY:
            unwanted.append(container)
        elif container.calls_now:
            busy[container.id] = container
        elif is_surplus(container):
            surplus.append(container)
        else:
            idle[container.id] = container
    if not _could_do(charge, room, [*unwanted, *surplus, *idle.values(), *busy.values()]):
        return None
    chosen: list[Container] = []
    unwanted.sort(key=lambda c: -c.created_s)  # the youngest has got least far
    for container in [*unwanted, *sorted(surplus, key=lambda c: (c.load_s, c.used_s))]:
        if room.hold(charge):
            break
        chosen.append(container)
        room.add(container.charge)
    trial = node.replacer.copy()
    for candidates in (idle, busy):
        while candidates and not room.hold(charge):
            victim_id = trial.victim(candidates)
            if victim_id is None:
                break
            chosen.append(victim := candidates.pop(victim_id))
            room.add(victim.charge)
    if not room.hold(charge):
        return None
    return Victims(_without_needless(chosen, charge, room), trial)


def _could_do(charge: Charge, room: Amounts, candidates: list[Container]) -> bool:
    """Whether all of them together would free enough."""
    if not candidates:
        return False
    everything = Amounts(room.slots, room.host_bytes, dict(room.devices))
    for container in candidates:
        everything.add(container.charge)
    return everything.hold(charge)


def _without_needless(chosen: list[Container], charge: Charge, room: Amounts) -> tuple[Container, ...]:
    """Spare what turned out not to be needed: the busy first, then the dearest to load again."""
    for container in sorted(chosen, key=lambda c: (bool(c.calls_now), c.load_s), reverse=True):
        room.remove(container.charge)
        if room.hold(charge):
            chosen.remove(container)
        else:
            room.add(container.charge)
    return tuple(chosen)


def room_comes_s(
    charge: Charge, node: Node, wish: Wish, now_s: float, config: CoreConfig, *, wait_for_hot: bool = True
) -> float:
    """The earliest time at which `charge` may fit on `node`, by what is known of its guards; inf: never by waiting.

    What is planned has its room already; what is leaving has given its own up.
    """
    room = node.room
    if room.hold(charge):
        return now_s
    lapses = []
    for container in node.containers.values():
        if container.state in LEAVING:
            continue
        guard = guard_of(container, wish, now_s, config)
        if guard is Guard.HOT and not wait_for_hot:
            continue
        lapses.append((lapses_s(guard, container, wish, now_s, config), container.id, container.charge))
    for at_s, _, freed in sorted(lapses, key=lambda lapse: lapse[:2]):
        room.add(freed)
        if room.hold(charge):
            return at_s
    return inf
