"""Who is resident: loading on a fault, making room, draining, closing, and what follows when a container ends."""

from huterox_connector.core.calls import Call, Calls
from huterox_connector.core.config import CoreConfig
from huterox_connector.core.effects import Command, Effect, Refuse
from huterox_connector.core.faults import Faults
from huterox_connector.core.ids import IdSource
from huterox_connector.core.journal import Journal
from huterox_connector.core.lifecycle import State, Step
from huterox_connector.core.placement import (
    Place,
    find_place,
    hopeless,
    interrupt_facts,
    present,
    why_it_stays,
)
from huterox_connector.core.records import MIB, Container, Group, Node, Service
from huterox_connector.core.registry import Registry
from huterox_wire.errors import HuteroxError, ModelError, ResourceInterrupt, Unavailable, WorkerLost
from huterox_wire.kinds import Kind
from huterox_wire.leases import DrainMeta
from huterox_wire.nodes import CloseMeta, ContainerEvent, CreateMeta


class Residency:
    """Decides loads and evictions. Kernels carry them out and report back."""

    def __init__(
        self,
        registry: Registry,
        calls: Calls,
        faults: Faults,
        journal: Journal,
        ids: IdSource,
        epoch: int,
        config: CoreConfig,
    ) -> None:
        self._registry = registry
        self._calls = calls
        self._faults = faults
        self._journal = journal
        self._ids = ids
        self._epoch = epoch
        self._config = config

    # Loading.

    def fault(self, group: Group, reason: str, now_s: float) -> list[Effect]:
        """Calls wait for `group`: see to it that a container is on its way. Joins a load that is under way."""
        if group.container is not None or not group.waiting:
            return []
        if group.last_error is not None and now_s < group.retry_at_s:
            return self._faults.fail(group, self._load_refused(group, now_s))
        nodes = self._registry.nodes.values()
        place = find_place(group.model.demand, nodes, now_s, self._config)
        if place is not None:
            return self._load(group, place, reason, now_s)
        if nodes and hopeless(group.model.demand, nodes):
            return self._interrupt(group, now_s, patience_s=0.0)
        return []  # room may come: retried at every tick and whenever something leaves

    def _load(self, group: Group, place: Place, reason: str, now_s: float) -> list[Effect]:
        model = group.model
        container = Container(
            id=self._ids.next(),
            model=model,
            spec=model.spec,
            group=group,
            node=place.node,
            demand=model.demand,
            created_at=self._journal.at(now_s),
            created_s=now_s,
            reason=reason,
        )
        self._registry.add_container(container)
        effects: list[Effect] = [
            self._journal.record(
                "load",
                f"{model.name} {container.title}",
                reason,
                now_s,
                node=place.node.name,
                needs=container.demand.facts(),
                makes_leave=[victim.title for victim in place.victims],
                stays=self._who_stays(place, now_s) if place.victims else {},
            )
        ]
        for victim in place.victims:
            effects += self.evict(victim, f"room for {model.name}: {self._standing(victim, now_s)}", now_s)
        return effects + self._start_planned(place.node, now_s)

    def _who_stays(self, place: Place, now_s: float) -> dict[str, str]:
        """The other containers of the node, and what keeps each; nothing does where the replacer preferred others."""
        return {
            other.title: why_it_stays(other, now_s, self._config) or "the policy keeps it"
            for other in place.node.containers.values()
            if other not in place.victims and other.state is State.READY
        }

    def _standing(self, victim: Container, now_s: float) -> str:
        """Why the replacer chose it, in words."""
        idle_s = now_s - (victim.last_hit_s or victim.ready_s)
        policy = self._config.policy
        return f"{policy} victim of those that may leave, last used {idle_s:.1f} s ago, {victim.hits} calls in its life"

    def _start_planned(self, node: Node, now_s: float) -> list[Effect]:
        """Carry out the node's plans, oldest first, as far as what is present leaves room."""
        effects: list[Effect] = []
        if node.identity not in self._registry.nodes:
            return effects  # it was lost
        for container in [c for c in node.containers.values() if c.state is State.PLANNED]:
            if not container.demand.fits(node.capacity - present(node)):
                break
            container.step(Step.COMMANDED, now_s)
            create = CreateMeta(self._epoch, container.id, container.spec)
            effects.append(Command(node.identity, Kind.CREATE, create))
        return effects

    def _load_refused(self, group: Group, now_s: float) -> HuteroxError:
        error = group.last_error
        assert isinstance(error, HuteroxError)
        left_s = round(group.retry_at_s - now_s, 3)
        facts = {**error.details, "retry_after_s": left_s, "failures": group.failures}
        again = type(error)(
            f"{error.message} (the next attempt to load is due in {left_s} s)", retryable=error.retryable
        )
        again.details = facts
        return again

    def _interrupt(self, group: Group, now_s: float, patience_s: float) -> list[Effect]:
        """No room: end the calls that have waited for `patience_s`, with the numbers."""
        if not any(now_s - waiting.arrived_s >= patience_s for waiting in group.waiting):
            return []
        demand = group.model.demand
        nodes = list(self._registry.nodes.values())
        facts = interrupt_facts(demand, nodes, now_s, self._config)
        never = all(not demand.fits(node.capacity) for node in nodes)
        error = ResourceInterrupt(
            f"no room for model {group.model.name!r}: it needs {demand.slots} slot and {demand.host_bytes // MIB} MiB; "
            + ("no node is that large" if never else "what is resident may not leave"),
            retryable=not never,
            model=group.model.name,
            would_help="a larger node" if never else "evicting or unpinning a container, or another node",
            retry_after_s=None if never else self._config.residency_max_s,
            **facts,
        )
        refused = self._journal.record("refused", group.model.name, error.message, now_s, **facts)
        return [refused, *self._faults.fail(group, error, lambda w: now_s - w.arrived_s >= patience_s)]

    # Leaving.

    def evict(self, container: Container, reason: str, now_s: float) -> list[Effect]:
        """No new calls and lanes from now on; closed as soon as the calls in flight and the lanes have ended."""
        if container.state is not State.READY:
            return self._stop_loading(container, reason, now_s)
        drain = self._drain(container, reason, now_s)
        evicted = self._journal.record(
            "evict",
            f"{container.spec.name} {container.title}",
            reason,
            now_s,
            node=container.node.name,
            frees=container.demand.facts(),
            hits=container.hits,
            in_flight=container.calls_now,
            lanes=container.lanes,
            load_s=round(container.load_s, 3),
        )
        return [evicted, drain]

    def _stop_loading(self, container: Container, reason: str, now_s: float) -> list[Effect]:
        if container.state is State.CREATING:
            container.reason = reason
            self._registry.unmap(container)
            return self._close(container, now_s)
        if container.state is State.PLANNED:
            return self.ended(container, "closed", reason, "", now_s)
        return []  # it is leaving already

    def _drain(self, container: Container, reason: str, now_s: float) -> Command:
        """Its calls are faults from now on; its kernel is told to end its lanes."""
        container.step(Step.DRAIN, now_s)
        container.reason = reason
        container.node.replacer.remove(container.id)
        self._registry.unmap(container)
        return self._tell(container, now_s)

    def _tell(self, container: Container, now_s: float) -> Command:
        """The order that a container's state stands for, to its kernel."""
        container.told_s = now_s
        kernel = container.node.identity
        if container.state is State.DRAINING:
            return Command(kernel, Kind.DRAIN, DrainMeta(self._epoch, container.id, container.reason))
        close = CloseMeta(self._epoch, container.id, container.reason, self._config.close_grace_s)
        return Command(kernel, Kind.CLOSE, close)

    def end_lanes_of(self, service: Service) -> list[Effect]:
        """The service is to be deleted: whoever called it by a lane must not go on."""
        container = service.container
        if container is None:
            return []
        order = DrainMeta(self._epoch, container.id, f"service {service.title} was deleted", service.id)
        return [Command(container.node.identity, Kind.DRAIN, order)]

    def remind(self, node: Node, now_s: float) -> list[Effect]:
        """The kernel lives: tell it again what it has not carried out for long. Order or answer may have been lost."""
        return [
            self._tell(container, now_s)
            for container in node.containers.values()
            if (container.state is State.CLOSING or (container.state is State.DRAINING and not container.lanes_ended))
            and now_s - container.told_s >= self._config.order_again_s
        ]

    def lanes_ended(self, container: Container, now_s: float) -> list[Effect]:
        """Its kernel has ended its lanes, and grants no more."""
        container.lanes = container.lane_calls = 0
        if container.state is State.READY:  # an older switchboard gave that order: callers must get lanes elsewhere
            return self.evict(container, "its kernel has drained it", now_s)
        container.lanes_ended = container.state is State.DRAINING
        return self.drained(container, now_s)

    def drained(self, container: Container, now_s: float) -> list[Effect]:
        """A draining container may have no call and no lane left: then it is closed."""
        if container.state is not State.DRAINING or container.in_flight or not container.lanes_ended:
            return []
        return self._close(container, now_s)

    def _close(self, container: Container, now_s: float) -> list[Effect]:
        container.step(Step.CLOSE, now_s)
        return [self._tell(container, now_s)]

    def turned_away(self, container: Container, now_s: float) -> list[Effect]:
        """Its kernel handed a call back: the container has ended, and news of it is on the way."""
        if container.state is not State.READY:
            return []
        return [self._drain(container, "its kernel handed a call back", now_s)]

    # What kernels report.

    def ready(self, container: Container, event: ContainerEvent, now_s: float) -> list[Effect]:
        """Loaded and warmed up: calls can go there."""
        if container.state is not State.CREATING:
            return []  # told to close while it was loading
        container.step(Step.LOADED, now_s)
        container.pid, container.measured_host_bytes = event.pid, event.host_bytes
        container.ready_s = now_s
        # What the load itself took, where the kernel tells: not the wait for room, nor for a zygote that had to start.
        container.load_s = sum(event.timings_s.values()) or now_s - container.created_s
        container.timings_s = event.timings_s
        container.model.load_s = container.load_s
        group = container.group
        group.failures, group.last_error = 0, None
        recorded = self._journal.record(
            "ready",
            f"{container.spec.name} {container.title}",
            f"loaded in {container.load_s:.2f} s, {now_s - container.created_s:.2f} s after it was wanted",
            now_s,
            node=container.node.name,
            host_mb=event.host_bytes // MIB,
            timings_s=event.timings_s,
            waiting=len(group.waiting),
        )
        return [recorded, *self.resident(container, now_s)]

    def resident(self, container: Container, now_s: float) -> list[Effect]:
        """Enter a ready container into the page table, and forward who waits for it."""
        container.node.replacer.insert(container.id, nbytes=container.demand.host_bytes, reload_cost_s=container.load_s)
        self._registry.map(container)
        return self._faults.release(container, now_s)

    def ended(self, container: Container, cause: str, reason: str, traceback: str, now_s: float) -> list[Effect]:
        """A container is gone and its memory is back: go on with what waited for its room.

        Calls that are in flight to it are its kernel's to answer, or to hand back: some may have crossed the news. Only
        where the kernel does not know of them any more do they end here.
        """
        was_loading = container.state in (State.PLANNED, State.CREATING)
        container.step(Step.LOST, now_s)
        container.node.replacer.remove(container.id)
        self._registry.remove_container(container)
        kind = "gone"
        if cause not in ("closed", "node_lost"):
            kind = "load_failed" if was_loading else "crash"
        effects: list[Effect] = [
            self._journal.record(
                kind, f"{container.spec.name} {container.title}", reason, now_s, cause=cause, node=container.node.name
            )
        ]
        if cause == "node_lost":
            effects += self.fail_calls(self._calls.of_container(container), reason)
        if kind == "load_failed" and container.group.container is None:
            effects += self._load_failed(container, cause, reason, traceback, now_s)
        effects += self._start_planned(container.node, now_s)
        return effects + self.retry(now_s)

    def fail_calls_of(self, node: Node, reason: str) -> list[Effect]:
        """The node is lost: nobody will answer calls to containers that had gone from it before, either."""
        return self.fail_calls(self._calls.of_node(node), reason)

    def fail_calls(self, calls: list[Call], reason: str) -> list[Effect]:
        """Nobody will answer these."""
        effects: list[Effect] = []
        for call in calls:
            self._calls.drop(call)
            container = call.container
            error = WorkerLost(
                f"container {container.title} of model {container.spec.name!r} ended: {reason}",
                executed="maybe",
                container=container.title,
            )
            effects.append(Refuse(call.caller, call.request_id, error))
        return effects

    def _load_failed(self, container: Container, cause: str, reason: str, traceback: str, now_s: float) -> list[Effect]:
        group = container.group
        group.failures += 1
        backoff_s = self._config.backoff_first_s * 2.0 ** min(group.failures - 1, 16)
        group.retry_at_s = now_s + min(backoff_s, self._config.backoff_max_s)
        name = container.spec.name
        if cause == "refused":
            group.last_error = Unavailable(f"node {container.node.name!r} refused to load {name!r}: {reason}")
        elif cause == "load_timeout":
            group.last_error = Unavailable(f"model {name!r} did not load in time: {reason}", model=name)
        else:
            group.last_error = ModelError(f"model {name!r} failed to load: {reason}", traceback=traceback, model=name)
        return self._faults.fail(group, group.last_error)

    # Time.

    def retry(self, now_s: float) -> list[Effect]:
        """Room may have come: try the waiting groups again, the longest waiting first."""
        effects: list[Effect] = []
        groups = [group for group in self._faults.groups() if group.container is None]
        for group in sorted(groups, key=lambda group: group.waiting[0].arrived_s):
            effects += self.fault(group, f"fault by {group.waiting[0].service.title}", now_s)
        return effects

    def lose_patience(self, now_s: float) -> list[Effect]:
        """End the faults for which nothing could be done for too long."""
        effects: list[Effect] = []
        for group in self._faults.groups():
            if group.container is not None:
                continue
            if self._registry.nodes:
                effects += self._interrupt(group, now_s, self._config.room_patience_s)
            else:
                patience_s = self._config.no_node_patience_s
                error = Unavailable("no kernel is registered with this switchboard", retry_after_s=patience_s)
                effects += self._faults.fail(group, error, lambda w: now_s - w.arrived_s >= patience_s)  # noqa: B023
        return effects

    def reclaim(self, now_s: float) -> list[Effect]:
        """Close what nobody points to, and what has been idle past its time."""
        effects: list[Effect] = []
        for container in list(self._registry.containers.values()):
            if container.state is not State.READY or container.calls_now:
                continue
            idle_s = now_s - max(container.last_hit_s, container.ready_s)
            if not container.group.services:
                effects += self.evict(container, "no service points to it", now_s)
            elif idle_s > container.spec.idle_timeout_s and not container.group.pinned:
                effects += self.evict(container, f"idle for {idle_s:.0f} s", now_s)
        return effects
