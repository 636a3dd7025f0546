"""Kernels: registering, reconciling what they run with what is known, hearing their heart, losing them."""

from collections.abc import Iterable
from typing import Final

from huterox_connector.core.config import CoreConfig
from huterox_connector.core.effects import Command, Effect
from huterox_connector.core.events import ContainerReported, KernelBeat, KernelRegistered
from huterox_connector.core.journal import Journal
from huterox_connector.core.lifecycle import State, Step
from huterox_connector.core.questions import Questions
from huterox_connector.core.records import MIB, Container, Demand, Group, Model, Node
from huterox_connector.core.registry import Registry
from huterox_connector.core.replacer import POLICIES
from huterox_connector.core.residency import Residency
from huterox_connector.core.usage import LaneUse
from huterox_wire.kinds import Kind
from huterox_wire.nodes import ContainerEvent, ContainerReport, ModelSpec, RegisteredMeta, RegisterMeta, Resources

BREAKS_TOLD_S: Final = 1.0
"""How often the journal tells of broken lanes of one container, at most."""


class Nodes:
    """The switchboard's side of every kernel's life."""

    def __init__(
        self,
        registry: Registry,
        residency: Residency,
        questions: Questions,
        journal: Journal,
        epoch: int,
        config: CoreConfig,
    ) -> None:
        self._registry = registry
        self._residency = residency
        self._questions = questions
        self._lane_use = LaneUse(registry.services, registry.containers)
        self._journal = journal
        self._epoch = epoch
        self._config = config

    def on_register(self, event: KernelRegistered, now_s: float) -> list[Effect]:
        """Take a kernel in. One name, one living kernel: a second one is left unanswered until the first is lost."""
        meta = event.meta
        effects: list[Effect] = []
        known = self._registry.node_named(meta.node)
        if known is not None and known.identity != event.identity:
            if now_s - known.last_heartbeat_s < self._config.node_timeout_s:
                probe = Command(known.identity, Kind.HEARTBEAT, None)  # unreachable where that process has ended
                return [self._warn_of_twin(meta, now_s), probe]
            effects += self.lose(known, "replaced by a kernel that was started anew", now_s)
            known = None
        node = known or self._add(event, now_s)
        node.last_heartbeat_s = now_s
        node.capacity = Demand(meta.capacity.slots, meta.capacity.host_bytes)
        node.host_id = meta.host_id
        effects.append(Command(node.identity, Kind.REGISTER, RegisteredMeta(self._epoch, self._config.heartbeat_s)))
        effects.append(
            self._journal.record(
                "node.registered",
                node.name,
                f"kernel of {meta.host} with {len(meta.containers)} containers",
                now_s,
                capacity=node.capacity.facts(),
                pid=meta.pid,
            )
        )
        return effects + self._reconcile(node, meta, now_s) + self._residency.retry(now_s)

    def _warn_of_twin(self, meta: RegisterMeta, now_s: float) -> Effect:
        reason = f"a kernel of this name is alive; the one of {meta.host}, pid {meta.pid}, is kept waiting"
        return self._journal.record("node.twin", meta.node, reason, now_s)

    def _add(self, event: KernelRegistered, now_s: float) -> Node:
        meta = event.meta
        node = Node(
            name=meta.node,
            identity=event.identity,
            boot=meta.boot,
            host=meta.host,
            pid=meta.pid,
            version=meta.version,
            capacity=Demand(meta.capacity.slots, meta.capacity.host_bytes),
            replacer=POLICIES[self._config.policy](),
            registered_at=self._journal.at(now_s),
            last_heartbeat_s=now_s,
        )
        self._registry.nodes[node.identity] = node
        return node

    def _reconcile(self, node: Node, meta: RegisterMeta, now_s: float) -> list[Effect]:
        effects: list[Effect] = []
        reported = {report.container for report in meta.containers}
        for container in list(node.containers.values()):
            if container.id not in reported and container.state is not State.PLANNED:
                effects += self._residency.ended(container, "node_lost", "the kernel no longer has it", "", now_s)
        for report in _least_recently_used_first(meta.containers):
            if (known := node.containers.get(report.container)) is not None:
                self._see(known, report, now_s)
            elif report.state != "gone":
                effects += self._adopt(node, report, now_s)
        return effects

    def _adopt(self, node: Node, report: ContainerReport, now_s: float) -> list[Effect]:
        """A container that runs but is not known here: another switchboard, or this one before a restart, made it."""
        model = self._registry.models.get(report.model)
        if (
            model is None
            or model.spec.version != report.version
            or report.state not in ("ready", "creating")
            or self._registry.group_of(model, 0).container is not None
        ):
            return self._close_stray(node, report, now_s)
        container = self._container_of(node, report, model, self._registry.group_of(model, 0), now_s)
        self._registry.add_container(container)
        adopted: list[Effect] = [
            self._journal.record("adopt", f"{model.name} {container.title}", container.reason, now_s, node=node.name)
        ]
        if report.state == "creating":
            container.step(Step.COMMANDED, now_s)
            return adopted
        container.step(Step.ADOPTED, now_s)
        container.ready_s = now_s
        return adopted + self._residency.resident(container, now_s)

    def _close_stray(self, node: Node, report: ContainerReport, now_s: float) -> list[Effect]:
        """Nobody has a use for it. Its memory counts until it is gone, so it gets a record too.

        One that may have lanes is drained before it is closed: their callers have done nothing wrong.
        """
        spec = ModelSpec(
            name=report.model,
            version=report.version,
            entry="-",
            resources=Resources(host_mb=report.host_bytes // MIB),
        )
        model = Model(spec, 0.0)
        container = self._container_of(node, report, model, Group((spec.name, 0), model), now_s)
        self._registry.add_container(container)
        container.step(Step.COMMANDED if report.state == "creating" else Step.ADOPTED, now_s)
        container.ready_s = now_s
        return self._residency.evict(container, "the switchboard has no use for it", now_s)

    def _container_of(self, node: Node, report: ContainerReport, model: Model, group: Group, now_s: float) -> Container:
        """Its counters begin at what the kernel reports, calls in lanes among them; services get their share once."""
        container = Container(
            id=report.container,
            model=model,
            spec=model.spec,
            group=group,
            node=node,
            demand=model.demand,
            created_at=report.started_s,
            created_s=now_s,
            reason="adopted when its kernel registered",
            pid=report.pid,
            lanes=report.lanes,
            lane_calls=report.lane_calls,
            hits=report.requests,
            errors=report.errors,
            measured_host_bytes=report.host_bytes,
        )
        container.last_hit_s = self._lane_use.count(container.id, report.lane_usage, now_s).last_s
        return container

    def on_beat(self, event: KernelBeat, now_s: float) -> list[Effect]:
        """Note what the kernel sees; a kernel that is not known is asked to register."""
        node = self._registry.nodes.get(event.identity)
        if node is None:
            again = RegisteredMeta(self._epoch, self._config.heartbeat_s, again=True)
            return [Command(event.identity, Kind.REGISTER, again)]
        node.last_heartbeat_s = now_s
        node.host_bytes_free = event.meta.host_bytes_free
        effects: list[Effect] = [Command(event.identity, Kind.HEARTBEAT, None)]
        for report in _least_recently_used_first(event.meta.containers):
            if (container := node.containers.get(report.container)) is not None:
                self._see(container, report, now_s)
        return effects + self._residency.remind(node, now_s)

    def _see(self, container: Container, report: ContainerReport, now_s: float) -> None:
        """Note what a kernel tells of a container that is known."""
        container.pid = report.pid
        container.measured_host_bytes = report.host_bytes or container.measured_host_bytes
        container.lanes, container.lane_calls = report.lanes, report.lane_calls
        self._count_lanes(container, report, now_s)

    def _count_lanes(self, container: Container, report: ContainerReport | ContainerEvent, now_s: float) -> None:
        """Calls by lanes are hits like others."""
        fresh = self._lane_use.count(container.id, report.lane_usage, now_s)
        container.hits += fresh.calls
        container.errors += fresh.errors
        container.last_hit_s = max(container.last_hit_s, fresh.last_s)
        if fresh.calls:
            container.node.replacer.record_access(container.id, fresh.calls)

    def on_report(self, event: ContainerReported, now_s: float) -> list[Effect]:
        """A container was made, is ready, has no lanes any more, or is gone."""
        report = event.event
        node = self._registry.nodes.get(event.identity)
        container = node.containers.get(report.container) if node else None
        if container is None:
            return self._on_late_report(report, now_s)
        match report.what:
            case "loading":
                container.pid = report.pid
            case "ready":
                return self._residency.ready(container, report, now_s)
            case "drained":
                return self._residency.lanes_ended(container, now_s)
            case "lane_broken":
                return self._on_lane_broken(container, report.reason, now_s)
            case "gone":
                self._count_lanes(container, report, now_s)
                return self._residency.ended(container, report.cause, report.reason, report.traceback, now_s)
        return []

    def _on_lane_broken(self, container: Container, reason: str, now_s: float) -> list[Effect]:
        """A caller wrote nonsense. It can do so again and again, and the journal tells of it once in a while."""
        if now_s - container.break_told_s < BREAKS_TOLD_S:
            container.breaks_untold += 1
            return []
        details = {"untold_before": container.breaks_untold} if container.breaks_untold else {}
        container.break_told_s, container.breaks_untold = now_s, 0
        subject = f"{container.spec.name} {container.title}"
        return [self._journal.record("lane.broken", subject, reason, now_s, node=container.node.name, **details)]

    def _on_late_report(self, report: ContainerEvent, now_s: float) -> list[Effect]:
        """News of a container that is not known, or not this kernel's: dropped, but for the calls that it tells of.

        Such a report may come before a kernel has registered again, or after its node was given up.
        """
        if report.what == "gone" and report.container not in self._registry.containers:
            self._lane_use.count(report.container, report.lane_usage, now_s)
        return []

    def lose(self, node: Node, reason: str, now_s: float) -> list[Effect]:
        """A kernel is gone, and its containers with it. Their calls end; faults load elsewhere."""
        del self._registry.nodes[node.identity]
        effects: list[Effect] = [
            self._journal.record("node.lost", node.name, reason, now_s, containers=len(node.containers))
        ]
        for container in list(node.containers.values()):
            if container.id in self._registry.containers:
                effects += self._residency.ended(container, "node_lost", f"its node was lost: {reason}", "", now_s)
        effects += self._residency.fail_calls_of(node, f"its node was lost: {reason}")
        return effects + self._questions.lose(node.identity)

    def lose_silent(self, now_s: float) -> list[Effect]:
        effects: list[Effect] = []
        for node in list(self._registry.nodes.values()):
            silent_s = now_s - node.last_heartbeat_s
            if silent_s > self._config.node_timeout_s:
                effects += self.lose(node, f"no heartbeat for {silent_s:.1f} s", now_s)
        return effects


def _least_recently_used_first(reports: Iterable[ContainerReport]) -> list[ContainerReport]:
    """By the last call in a lane: the replacer hears of accesses in the order in which they came."""

    def idle_us(report: ContainerReport) -> int:
        return min((usage.idle_us for usage in report.lane_usage), default=0)

    return sorted(reports, key=idle_us, reverse=True)
