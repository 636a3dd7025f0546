"""How many containers a group has: more where its services or their calls ask for them and they fit, fewer where not.

A replica is a gift of free room: nobody is evicted for one, and the surplus ones are the first to leave when a fault
needs room. One more is wanted when more services use the group than its containers are meant for, or when calls have
queued at all of them for a while. Calls choose the shortest queue by themselves; a caller's lane leads to one
container, so some lanes are moved when a replica comes.
"""

from typing import Final

from huterox_connector.core.config import CoreConfig
from huterox_connector.core.effects import Effect
from huterox_connector.core.guards import protected_until_s
from huterox_connector.core.journal import Journal
from huterox_connector.core.leaving import Leaving
from huterox_connector.core.records import Container, Group, Node, Service
from huterox_connector.core.residency import Residency

REFUSAL_TOLD_S: Final = 10.0
"""How often the journal tells that a replica does not fit, at most."""


class Replicas:
    """Looks at a group whenever one of its kernels reports."""

    def __init__(self, residency: Residency, leaving: Leaving, journal: Journal, config: CoreConfig) -> None:
        self._residency = residency
        self._leaving = leaving
        self._journal = journal
        self._config = config

    def look(self, group: Group, now_s: float) -> list[Effect]:
        """Add or take away a replica, or do nothing."""
        if not group.ready or group.coming:
            return []
        containers = len(group.ready)
        by_services = -(-group.users // group.model.spec.services_per_container)
        queued = sum(container.calls_now for container in group.ready)
        pressed_s = self._pressed_s(group, queued > self._config.replica_queue * containers, now_s)
        if by_services > containers:
            users = group.users
            return self._more(group, f"{users} services use {containers} container{'s' * (containers > 1)}", now_s)
        if pressed_s >= max(self._config.replica_after_s, group.ready[0].load_s):
            return self._more(group, f"{queued} calls have queued for {pressed_s:.1f} s at {containers}", now_s)
        needless = containers > max(1, by_services) and queued <= self._config.replica_queue / 2 * (containers - 1)
        return self._fewer(group, needless, now_s)

    @staticmethod
    def _pressed_s(group: Group, pressed: bool, now_s: float) -> float:
        """For how long calls have queued."""
        if not pressed:
            group.pressed_since_s = None
            return 0.0
        if group.pressed_since_s is None:
            group.pressed_since_s = now_s
        return now_s - group.pressed_since_s

    def _more(self, group: Group, why: str, now_s: float) -> list[Effect]:
        group.relaxed_since_s = None
        if len(group.ready) >= group.model.spec.replicas_max:
            return []
        if now_s < group.retry_at_s:  # its last load failed
            return []
        effects = self._residency.add_replica(group, f"replica: {why}", now_s)
        if effects is not None:
            group.pressed_since_s = None
            return effects
        if now_s - group.replica_refused_s < REFUSAL_TOLD_S:
            return []
        group.replica_refused_s = now_s
        reason = f"a replica was wanted, but fits nowhere without an eviction: {why}"
        return [self._journal.record("replica.refused", group.model.name, reason, now_s, ready=len(group.ready))]

    def _fewer(self, group: Group, needless: bool, now_s: float) -> list[Effect]:
        if not needless:
            group.relaxed_since_s = None
            return []
        if group.relaxed_since_s is None:
            group.relaxed_since_s = now_s
        if now_s - group.relaxed_since_s < self._config.replica_idle_s:
            return []
        idle = [c for c in group.ready if not c.calls_now and protected_until_s(c, self._config) <= now_s]
        if not idle:
            return []
        group.relaxed_since_s = None
        reason = f"{len(group.ready)} replicas, fewer do"
        return self._leaving.evict(min(idle, key=lambda c: c.used_s), reason, now_s, kind="reclaim")

    # A replica is ready.

    def joined(self, container: Container, now_s: float) -> list[Effect]:
        """A container was added to a group: who had to move there does, and lanes are shared out anew."""
        others = [other for other in container.group.ready if other is not container]
        effects: list[Effect] = []
        for other in others:
            if other.node.drained:
                reason = f"moved to {container.title} on node {container.node.name}: its node was drained"
                effects += self._leaving.evict(other, reason, now_s, kind="move")
            elif other.node.host_id and other.node.host_id == container.node.host_id:
                effects += self._share_lanes(other, container, 1 + len(others), now_s)
        return effects

    def _share_lanes(self, full: Container, fresh: Container, containers: int, now_s: float) -> list[Effect]:
        """Close the lanes of so many services of `full` that a fair share of them can be leased anew."""
        if full.lanes < 2:
            return []
        callers = sorted(self._lane_callers(full), key=lambda service: service.last_hit_s, reverse=True)
        keep = max(1, len(callers) // containers) if len(callers) > 1 else 0
        movers = callers[keep:]
        if not movers:
            return []
        reason = f"{fresh.title} is another replica of {fresh.spec.name}: lanes are shared out anew"
        told = self._journal.record(
            "move",
            f"{full.spec.name} {full.title}",
            reason,
            now_s,
            lanes=full.lanes,
            services=[service.title for service in movers[:32]],
        )
        effects: list[Effect] = [told]
        for service in movers:
            effects += self._leaving.end_lanes_of(service.id, [full], reason)
        return effects

    @staticmethod
    def _lane_callers(container: Container) -> list[Service]:
        group = container.group
        return [group.services[handle] for handle in container.lane_services if handle in group.services]

    # A node is drained.

    def move_from(self, node: Node, now_s: float) -> list[Effect]:
        """What is on a drained node goes elsewhere: those in use once they are ready there, the others at once."""
        effects: list[Effect] = []
        for container in list(node.containers.values()):
            group = container.group
            if container not in group.ready or group.coming:
                continue
            effects += self._move(container, now_s)
        return effects

    def _move(self, container: Container, now_s: float) -> list[Effect]:
        group, node = container.group, container.node
        elsewhere = [other for other in group.ready if not other.node.drained]
        if not elsewhere and (group.users or container.calls_now or group.firm):
            reason = f"move of {container.title} from the drained node {node.name}"
            effects = self._residency.add_replica(group, reason, now_s, avoid=node)
            if effects is not None:
                return effects
        reason = f"node {node.name} was drained" + ("" if elsewhere else "; it is loaded elsewhere when it is called")
        return self._leaving.evict(container, reason, now_s, kind="move")
