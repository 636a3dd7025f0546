"""What leaves without a fault that needs its room: the unused, the idle, and those that have outgrown their node."""

import heapq
from math import inf
from typing import Final

from huterox_connector.core.books import not_held
from huterox_connector.core.config import CoreConfig
from huterox_connector.core.effects import Effect
from huterox_connector.core.guards import Wish
from huterox_connector.core.hotness import Hotness
from huterox_connector.core.ids import ContainerId
from huterox_connector.core.leaving import Leaving
from huterox_connector.core.lifecycle import State
from huterox_connector.core.records import Container, Group, Model, Node
from huterox_connector.core.registry import Registry
from huterox_connector.core.vectors import MIB, Amounts, Charge
from huterox_connector.core.victims import find_victims
from huterox_wire.nodes import ModelSpec

LOOK_AGAIN_S: Final = 1.0

GONE_MAX: Final = 64
"""Watches beyond two for each container, before those of containers that have gone are taken out."""

_NOBODY: Final = Group(("", 0), Model(ModelSpec(name="-", entry="-"), 0.0), Hotness(0.0))
"""Who asks where no model does: the node itself."""


class Reclaim:
    """Closes containers that nothing speaks for. Each is looked at when its idle time may be over, not before."""

    def __init__(self, registry: Registry, leaving: Leaving, config: CoreConfig) -> None:
        self._registry = registry
        self._leaving = leaving
        self._config = config
        self._due: list[tuple[float, ContainerId]] = []  # when to look at which container; one entry each
        self._watched: set[ContainerId] = set()

    def watch(self, container: Container) -> None:
        """A container became ready, or has come back with its kernel: then it is watched already."""
        if container.id in self._watched:
            return
        self._push(container.used_s + container.spec.idle_timeout_s, container.id)
        if len(self._due) > GONE_MAX + 2 * len(self._registry.containers):
            self._forget_gone()

    def _push(self, due_s: float, container_id: ContainerId) -> None:
        self._watched.add(container_id)
        heapq.heappush(self._due, (due_s, container_id))

    def _forget_gone(self) -> None:
        """Those whose idle time is long would stay for as long after their end."""
        self._due = [entry for entry in self._due if entry[1] in self._registry.containers]
        heapq.heapify(self._due)
        self._watched = {container_id for _, container_id in self._due}

    def look(self, now_s: float) -> list[Effect]:
        """Close what has been idle past its time."""
        effects: list[Effect] = []
        while self._due and self._due[0][0] <= now_s:
            _, container_id = heapq.heappop(self._due)
            self._watched.discard(container_id)
            container = self._registry.containers.get(container_id)
            if container is None or container.state is not State.READY:
                continue
            due_s = container.used_s + container.spec.idle_timeout_s
            if due_s > now_s or container.calls_now or container.group.pinned:
                self._push(max(due_s, now_s + LOOK_AGAIN_S), container_id)
                continue
            idle_s = now_s - container.used_s
            effects += self._leaving.evict(container, f"idle for {idle_s:.0f} s", now_s, kind="reclaim")
        return effects

    def unused(self, group: Group, now_s: float) -> list[Effect]:
        """A service was taken away: containers that no service points to any more are closed."""
        if group.services:
            return []
        effects: list[Effect] = []
        for container in [*group.ready, *group.coming.values()]:
            effects += self._leaving.evict(container, "no service points to it", now_s, kind="reclaim")
        return effects

    def give_up_plans(self, node: Node, now_s: float) -> list[Effect]:
        """A plan that has no room even when all has left that leaves: it would wait for ever, and its callers too."""
        effects: list[Effect] = []
        plans = [container for container in node.containers.values() if container.state is State.PLANNED]
        not_there = not_held(node, now_s) if plans else Amounts()
        for container in reversed(plans):
            room = node.room
            room.add(Charge(0, not_there.host_bytes))
            for device, nbytes in not_there.devices.items():
                room.add(Charge(0, 0, device, nbytes))
            if not room.overdrawn:
                break
            effects += self._leaving.evict(container, "what stays on its node has outgrown it", now_s)
        return effects

    def relieve(self, node: Node, now_s: float) -> list[Effect]:
        """Containers have grown, or others have taken memory: make some leave until what stays fits again."""
        room, capacity, tolerance = node.room, node.capacity, self._config.overdrawn_tolerance
        coming = not_held(node, now_s)  # it may have come since: only what is short all the same makes others leave
        short = [Charge(0, 0)] if room.host_bytes + coming.host_bytes < -tolerance * capacity.host_bytes else []
        for device, nbytes in room.devices.items():
            if nbytes + coming.devices.get(device, 0) < -tolerance * capacity.devices.get(device, 0):
                short.append(Charge(0, 0, device, 0))
        effects: list[Effect] = []
        for charge in short:
            victims = find_victims(charge, node, Wish(_NOBODY, inf, now_s), now_s, self._config)
            if victims is None:
                continue
            node.replacer = victims.replacer
            short_mb = -(room.devices[charge.device] if charge.device else room.host_bytes) // MIB
            where = f"device {charge.device}" if charge.device else "memory"
            for victim in victims.containers:
                reason = f"the node's {where} is overdrawn by {short_mb} MiB: its containers or others have grown"
                effects += self._leaving.evict(
                    victim, reason, now_s, kind="reclaim", capacity=capacity.facts(), limit=node.limit.facts()
                )
        return effects
