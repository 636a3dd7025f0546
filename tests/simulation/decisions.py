"""Is every decision right at the moment at which it is made?

Watches four doors of the core: a plan to load, an order to leave, a refusal for want of room, and CREATE on its way.
What may not leave is worked out here anew, from the records and from what the world knows, and not by asking the core's
own guards.
"""

import copy
import itertools
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any, Final

from tests.simulation.records import SimKernel

from huterox_connector.core.calls import Call
from huterox_connector.core.lifecycle import State
from huterox_connector.core.placement import Place, charges_on
from huterox_connector.core.records import Container, Group, Node
from huterox_connector.core.switchboard import Switchboard
from huterox_connector.core.vectors import MIB, Amounts, Charge
from huterox_wire.nodes import CreateMeta

if TYPE_CHECKING:
    from tests.simulation.world import World

STAYS: Final = frozenset({State.PLANNED, State.CREATING, State.READY})
HOLDS_MEMORY: Final = frozenset({State.CREATING, State.READY, State.DRAINING, State.CLOSING})
IN_TIME_S: Final = 1e-9


@dataclass
class Plan:
    """A load that was decided, and who has left for it so far."""

    group: Group
    place: Place
    room: Amounts  # before it
    victims: list[Container] = field(default_factory=list)
    freed: list[Charge] = field(default_factory=list)


class Decisions:
    """Looks at each decision of the switchboard that runs now."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._plan: Plan | None = None

    def watch(self, board: Switchboard) -> None:
        """Be told of every plan, order to leave and refusal. Nothing is changed by that."""
        loading, leaving = board._residency._loading, board._leaving
        faults = board._faults
        plan, evict, interrupt = loading.plan, leaving.evict, faults.interrupt

        def planned(group: Group, place: Place, container_id: int, reason: str, now_s: float) -> Container:
            self._planned(group, place, now_s)
            return plan(group, place, container_id, reason, now_s)

        def leaves(container: Container, reason: str, now_s: float, **numbers: Any) -> Any:
            self._leaves(container, reason, now_s, numbers)
            return evict(container, reason, now_s, **numbers)

        def interrupted(group: Group, *args: Any) -> Any:
            now_s = self._world.now_s
            self._check_fits_nowhere(group, now_s, opened_before_s=now_s - self._world.config.look_again_s)
            return interrupt(group, *args)

        faults.interrupt = interrupted  # type: ignore[method-assign]
        loading.plan = planned  # type: ignore[method-assign]
        leaving.evict = leaves  # type: ignore[method-assign]

    # A load.

    def _planned(self, group: Group, place: Place, now_s: float) -> None:
        self.event_ended()
        self._check_is_open(place.node, group, now_s)
        room = room_of(place.node)
        assert not group.coming, f"{group.key} is loaded while a load is under way"
        moves = any(container.node.drained for container in group.ready)
        assert moves or len(group.ready) < group.model.spec.replicas_max, f"{group.key} has too many replicas"
        assert group.waiting or group.ready, f"{group.key} is loaded, and nobody has asked for it"
        self._check_device(group, place)
        if room.hold(place.charge):
            assert place.victims is None, f"{place.node.name} has room, and yet somebody leaves"
        else:
            assert place.victims is not None, f"{place.node.name} has no room for {place.charge}"
            assert not group.ready, f"somebody leaves {place.node.name} for a replica"
            self._check_fits_nowhere(group, now_s)
        self._plan = Plan(group, place, room)

    def _check_is_open(self, node: Node, group: Group, now_s: float) -> None:
        board = self._world.board
        assert board.registry.nodes.get(node.identity) is node, f"{node.name} has gone"
        assert is_open(node, group, now_s, self._world.config.node_suspect_s), f"{node.name} is closed to {group.key}"

    def _check_device(self, group: Group, place: Place) -> None:
        device, wanted = place.charge.device, group.model.spec.device
        assert not device or device in place.node.capacity.devices
        assert wanted == "any" or bool(device) == (wanted == "cuda"), f"{wanted} model on {device or 'no device'}"

    def _check_fits_nowhere(self, group: Group, now_s: float, *, opened_before_s: float = inf) -> None:
        """Nobody leaves or is refused but for want of room: worlds are small, and every node is looked at.

        What a look has found holds for a moment: nodes that may have opened since `opened_before_s` do not count.
        """
        for node in self._world.board.registry.nodes.values():
            if group.failed_lately(node.name, now_s):
                continue
            lately = max(node.sick_until_s, node.last_heartbeat_s) >= opened_before_s
            if not lately and is_open(node, group, now_s, self._world.config.node_suspect_s):
                room = room_of(node)
                fitting = [charge for charge in charges_on(group.model, node) if room.hold(charge)]
                assert not fitting, f"there is said to be no room for {group.key}, which fits on {node.name}"

    def event_ended(self) -> None:
        """What has left for the last plan is enough, and none of it is too much."""
        plan, self._plan = self._plan, None
        if plan is None or plan.place.victims is None:
            return
        assert plan.victims, f"nobody leaves for {plan.group.key}"
        charge = plan.place.charge
        assert _with(plan.room, plan.freed).hold(charge), f"too little leaves {plan.place.node.name} for {charge}"
        for index, victim in enumerate(plan.victims):
            others = plan.freed[:index] + plan.freed[index + 1 :]
            assert not _with(plan.room, others).hold(charge), f"{victim.title} leaves needlessly for {plan.group.key}"

    # Who leaves.

    def _leaves(self, container: Container, reason: str, now_s: float, numbers: dict[str, Any]) -> None:
        if container.state is not State.READY:
            if "policy" in numbers:
                self._check_gives_way(container)
            return
        kind = numbers.get("kind", "evict")
        if "policy" in numbers:
            self._check_victim(container, now_s)
        elif "limit" in numbers:
            self._check_may_leave(container, now_s)
            assert not self.calls_now(container), f"{container.title} is busy, and leaves an overdrawn node"
        elif reason.startswith("idle"):
            assert not has_tier(container.group, "pinned"), f"{container.title} is pinned, and is closed as idle"
            assert not self.calls_now(container), f"{container.title} is busy, and is closed as idle"
            idle_s = now_s - max(container.last_hit_s, container.ready_s)
            assert idle_s >= container.spec.idle_timeout_s, f"{container.title} was idle for {idle_s} s"
        elif "fewer" in reason:
            assert len(container.group.ready) > 1 and not self.calls_now(container)
        self._world.seen[f"leaves.{kind}"] += 1

    def _check_gives_way(self, container: Container) -> None:
        """A load is broken off for another: nobody waits for it, and it must not have given way for ever."""
        plan, group = self._plan, container.group
        assert plan is not None and container.node is plan.place.node, f"{container.title} gives way to nobody"
        assert not group.waiting, f"{container.title} is waited for, and gives way"
        assert not has_tier(group, "pinned") and not has_tier(group, "dedicated"), f"{container.title} gives way"
        plan.victims.append(container)
        plan.freed.append(container.charge)
        self._world.seen["gives way"] += 1

    def _check_victim(self, container: Container, now_s: float) -> None:
        plan = self._plan
        assert plan is not None and container.node is plan.place.node, f"{container.title} leaves for nobody"
        plan.victims.append(container)
        plan.freed.append(container.charge)
        self._check_may_leave(container, now_s)
        config, group = self._world.config, plan.group
        waited_s = now_s - group.waiting.oldest.arrived_s
        busy = self.calls_now(container)
        assert not busy or waited_s >= config.turn_after_s, f"{container.title} has {busy} calls, and leaves"
        ready = container.group.ready
        if config.hotter_factor and (len(ready) == 1 or container is ready[0]):
            heat, wish = self._heat(container.group, now_s), self._heat(group, now_s)
            wish = max(wish, 0.6931 / config.hot_half_life_s)
            last_s = max(max(other.last_hit_s, other.ready_s) for other in ready)
            heat = min(heat, 1.0 / (now_s - last_s)) if now_s > last_s else heat
            hot = heat > config.hotter_factor * wish * (1 + 1e-3)
            assert not hot, f"{container.title} is hotter than {group.key}, {heat} to {wish}, and leaves"

    def _check_may_leave(self, container: Container, now_s: float) -> None:
        assert not has_tier(container.group, "pinned"), f"{container.title} is pinned, and leaves"
        assert not has_tier(container.group, "dedicated"), f"{container.title} is dedicated, and leaves"
        config = self._world.config
        stays_s = min(
            max(config.residency_min_s, config.residency_load_factor * container.load_s), config.residency_max_s
        )
        age_s = now_s - container.ready_s
        assert age_s >= stays_s - IN_TIME_S, f"{container.title} is {age_s} s old, stays for {stays_s} s, and leaves"

    def _heat(self, group: Group, now_s: float) -> float:
        """A copy is asked: asking leaves its mark."""
        return copy.copy(group.hotness).rate(group.calls, now_s, self._world.config.hot_half_life_s)

    def calls_now(self, container: Container) -> int:
        """In flight to it: those in the table, and in lanes as was told last."""
        table = self._world.board.calls._table.values()
        return sum(call.container is container for call in table) + container.lane_calls

    def _calls_before(self, call: Call) -> int:
        """What its container had when it was given to it: the table is in that order."""
        table = self._world.board.calls._table.values()
        earlier = itertools.takewhile(lambda other: other is not call, table)
        return sum(other.container is call.container for other in earlier) + call.container.lane_calls

    # Calls on their way.

    def forwarded(self, key: tuple[bytes, int]) -> None:
        """To its own group's container, or to one that is lent."""
        call = self._world.board.calls.get(*key)
        assert call is not None, f"call {key} is forwarded and not known"
        container, service = call.container, call.service
        takes_calls = container.state in (State.READY, State.DRAINING)  # a DRAIN may follow in the same event
        assert takes_calls, f"a call is forwarded to a container that is {container.state}"
        if container.group is service.group:
            return
        (owner,) = container.group.services.values()
        assert owner.lend and container.model is service.model, (
            f"{service.title} borrows what {owner.title} has not lent"
        )
        assert self._calls_before(call) == 0, f"{container.title} is lent while it is in use"
        if self.calls_now(container) == 1:  # else a call of its owner's has followed in the same event
            idle_s = self._world.now_s - owner.last_hit_s
            assert idle_s >= self._world.config.lend_idle_s, f"{owner.title} is not idle, and lends"
        self._world.seen["borrowed"] += 1

    def created(self, kernel: SimKernel, meta: CreateMeta) -> None:
        """CREATE is sent: there must be room now, by all that the kernel has told."""
        taken = list(kernel.containers.values())
        assert len(taken) < kernel.slots, f"{kernel.name}: no slot is free for {meta.model.name}"
        charged_mb = kernel.told_base_mb + sum(container.charged.host_mb for container in taken)
        host_mb = charged_mb + meta.host_bytes // MIB
        assert host_mb <= kernel.host_mb, f"{kernel.name}: {host_mb} MiB in {kernel.host_mb}"
        needs = {"": meta.host_bytes // MIB}
        if meta.device:
            needs[meta.device] = meta.device_bytes // MIB
            on_device = [container for container in taken if container.device == meta.device]
            device_mb = sum(container.charged.device_mb for container in on_device) + needs[meta.device]
            assert device_mb <= kernel.devices[meta.device], f"{kernel.name}: {device_mb} MiB on {meta.device}"
        for place, mb in needs.items():
            left_mb = mb if kernel.credit is None else kernel.credit[place]
            assert mb <= left_mb, f"{kernel.name} has {left_mb} MiB free of {place or 'memory'}, {mb} are reserved"
        self._check_big_loads(meta)

    def _check_big_loads(self, meta: CreateMeta) -> None:
        """They go one after another, each device by itself: not beside one that somebody has waited for already."""
        container = self._world.board.registry.containers.get(meta.container)
        if container is None or not self._is_big(container):
            return
        together = [
            other.title
            for other in container.node.containers.values()
            if other.state is State.CREATING
            and other.reserved.device == meta.device
            and self._is_big(other)
            and self._was_wanted(other)
        ]
        assert not together, f"{container.title} is loaded beside other big ones: {together}"

    def _is_big(self, container: Container) -> bool:
        reserved = container.reserved
        nbytes = reserved.device_bytes if reserved.device else reserved.host_bytes
        return nbytes >= self._world.config.big_load_mb * MIB

    def _was_wanted(self, container: Container) -> bool:
        """Before what happens now: its load had begun, and somebody waited for it."""
        now_s, group = self._world.now_s, container.group
        begun_s = float(container.history[0].rpartition(" ")[2])
        waited = bool(group.waiting) and group.waiting.oldest.arrived_s < now_s
        return begun_s < now_s - 1e-3 and (waited or has_tier(group, "pinned") or group.key[1] != 0)


def has_tier(group: Group, tier: str) -> bool:
    """Whether any of its services is of that tier."""
    return any(service.tier == tier for service in group.services.values())


def room_of(node: Node) -> Amounts:
    """What is left when all that leaves has left, counted anew."""
    room = node.limit.less(Amounts())
    for container in node.containers.values():
        if container.state in STAYS:
            room.remove(container.charge)
    return room


def is_open(node: Node, group: Group, now_s: float, suspect_s: float) -> bool:
    """Whether anything may be loaded there for `group`."""
    healthy = now_s >= node.sick_until_s and now_s - node.last_heartbeat_s <= suspect_s
    return not node.drained and healthy and (node.claim is None or node.claim is group)


def _with(room: Amounts, freed: list[Charge]) -> Amounts:
    more = room.less(Amounts())
    for charge in freed:
        more.add(charge)
    return more
