"""Kernels: registering, reconciling what they run with what is known, hearing their heart, losing them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from huterox_connector.core.accesses import Accesses
from huterox_connector.core.adoption import Adoption, lane_services
from huterox_connector.core.books import Books, not_held
from huterox_connector.core.calls import Calls
from huterox_connector.core.config import CoreConfig
from huterox_connector.core.effects import Command, Effect
from huterox_connector.core.events import ContainerReported, KernelBeat, KernelRegistered
from huterox_connector.core.journal import Journal
from huterox_connector.core.leaving import Leaving
from huterox_connector.core.lifecycle import State
from huterox_connector.core.loading import Loading
from huterox_connector.core.nodeindex import NodeIndex
from huterox_connector.core.questions import Questions
from huterox_connector.core.reclaim import Reclaim
from huterox_connector.core.records import Container, Node
from huterox_connector.core.registry import Registry
from huterox_connector.core.replacer.base import Replacer
from huterox_connector.core.replicas import Replicas
from huterox_connector.core.residency import Residency
from huterox_connector.core.term import Term
from huterox_connector.core.twins import Twins
from huterox_connector.core.usage import LaneUse
from huterox_connector.core.vectors import Amounts
from huterox_wire.kinds import Kind
from huterox_wire.nodes import (
    ContainerEvent,
    ContainerReport,
    HeartbeatMeta,
    RegisteredMeta,
    RegisterMeta,
)

BREAKS_TOLD_S: Final = 1.0
"""How often the journal tells of broken lanes of one container, at most."""

REGISTRATIONS_TOLD_S: Final = 5.0
"""How often the journal tells that one kernel has registered again, at most."""

NOTES_MAX: Final = 1024
"""Nodes of which something is noted."""


DEPTH_MIN: Final = 2
"""One call that runs, and one that is there when it has ended."""


@dataclass(slots=True, frozen=True)
class Parts:
    """What kernels' news are passed on to."""

    registry: Registry
    books: Books
    index: NodeIndex
    loading: Loading
    leaving: Leaving
    residency: Residency
    replicas: Replicas
    reclaim: Reclaim
    accesses: Accesses
    lane_use: LaneUse


class Nodes:
    """The switchboard's side of every kernel's life."""

    def __init__(
        self,
        parts: Parts,
        calls: Calls,
        questions: Questions,
        journal: Journal,
        term: Term,
        config: CoreConfig,
        replacers: Mapping[str, Callable[[], Replacer]],
    ) -> None:
        self._registry = parts.registry
        self._books = parts.books
        self._index = parts.index
        self._loading = parts.loading
        self._leaving = parts.leaving
        self._residency = parts.residency
        self._replicas = parts.replicas
        self._reclaim = parts.reclaim
        self._accesses = parts.accesses
        self._lane_use = parts.lane_use
        self._adoption = Adoption(
            parts.registry, parts.books, parts.loading, parts.leaving, parts.reclaim, parts.lane_use, journal, term
        )
        self._calls = calls
        self._questions = questions
        self._journal = journal
        self._term = term
        self._twins = Twins(journal)
        self._config = config
        self._replacers = replacers
        self._notes: dict[str, str] = {}  # by node: what its operator should know
        self.drained_names: set[str] = set()  # nodes that an operator has drained, registered or not

    def on_register(self, event: KernelRegistered, now_s: float) -> list[Effect]:
        """Take a kernel in. One name, one living kernel: a second one is refused until the first is lost."""
        meta = event.meta
        effects = self._tell_of_store(meta, now_s)
        if self._term.is_behind(meta):  # it registers again when the epoch is written
            return [*effects, *self._term.step_beyond(meta.epoch_seen, now_s)]
        known = self._registry.nodes_by_name.get(meta.node)
        if known is not None and known.identity != event.identity:
            if now_s - known.last_heartbeat_s < self._config.node_timeout_s:
                return self._twins.refuse(event.identity, known, now_s, who=f"{meta.host}, pid {meta.pid},")
            effects += self.lose(known, "replaced by a kernel that was started anew", now_s)
            known = None
        node = known or self._add(event, now_s)
        self._registry.heard(node, now_s)
        self._calls.heard(node.identity)
        node.devices = {device.id: device.name for device in meta.capacity.devices}
        node.offered = _amounts(meta)
        self._count_base(node, meta)
        node.host_id = meta.host_id
        node.note = self._notes.get(node.name, "")
        effects.append(Command(node.identity, Kind.REGISTER, self._registered()))
        node.counted_before = self._calls.upcoming
        effects += self._tell_of_registration(node, meta, now_s)
        return effects + self._reconcile(node, meta, now_s) + self._residency.retry_anew(now_s)

    def _tell_of_registration(self, node: Node, meta: RegisterMeta, now_s: float) -> list[Effect]:
        """A kernel may register again and again: the journal is told of that once in a while."""
        if now_s - node.registered_told_s < REGISTRATIONS_TOLD_S:
            node.registrations_untold += 1
            return []
        details = {"untold_before": node.registrations_untold} if node.registrations_untold else {}
        node.registered_told_s, node.registrations_untold = now_s, 0
        reason = f"kernel of {meta.host} with {len(meta.containers)} containers"
        facts = {"capacity": node.offered.facts(), "pid": meta.pid, **details}
        return [self._journal.record("node.registered", node.name, reason, now_s, **facts)]

    def _tell_of_store(self, meta: RegisterMeta, now_s: float) -> list[Effect]:
        """A kernel has been commanded by what this store does not know of: whoever lost the store must hear of it."""
        is_behind, is_foreign = self._term.is_behind(meta), self._term.is_foreign(meta)
        if not is_behind and not is_foreign:
            return []
        seen = f"kernel {meta.node} was commanded in epoch {meta.epoch_seen}"
        if not is_behind:
            note = f"{seen} of another store: what was loaded from there is ended"
        elif is_foreign:
            note = f"{seen} of another store: this one is younger, so that one was lost or replaced, with all it knew"
        else:
            note = f"{seen} of this store, which is younger now: it was restored from an older copy"
        if self._notes.get(meta.node) == note:
            return []
        self._notes[meta.node] = note
        if len(self._notes) > NOTES_MAX:
            del self._notes[next(iter(self._notes))]
        kind = "store.younger" if is_behind else "store.other"
        return [self._journal.record(kind, meta.node, note, now_s, epoch=self._term.epoch, store=self._term.store)]

    def stepped(self, now_s: float) -> list[Effect]:
        """A newer epoch is on disk: kernels that waited for it register again with their next heartbeat."""
        self._term.stepped()
        reason = f"epoch {self._term.epoch} is newer than all that kernels have seen"
        return [self._journal.record("epoch", "switchboard", reason, now_s)]

    def _add(self, event: KernelRegistered, now_s: float) -> Node:
        meta = event.meta
        policy = self._config.node_policies.get(meta.node, self._config.policy)
        node = Node(
            name=meta.node,
            identity=event.identity,
            boot=meta.boot,
            host=meta.host,
            pid=meta.pid,
            version=meta.version,
            offered=_amounts(meta),
            capacity=_amounts(meta),
            limit=_amounts(meta),
            replacer=self._replacers[policy](),
            policy=policy,
            registered_at=self._journal.at(now_s),
            last_heartbeat_s=now_s,
        )
        node.drained = node.name in self.drained_names
        self._registry.add_node(node)
        self._index.add(node)
        return node

    def _reconcile(self, node: Node, meta: RegisterMeta, now_s: float) -> list[Effect]:
        """First what is there, then what is not: the room of what has gone is given out, and must be free."""
        effects: list[Effect] = []
        reported = {report.container for report in meta.containers}
        missing = [c for c in node.containers.values() if c.id not in reported and c.state is not State.PLANNED]
        for report in _least_recently_used_first(meta.containers):
            if (known := node.containers.get(report.container)) is not None:
                effects += self._see(known, report, now_s)
            elif report.state != "gone":
                effects += self._adoption.take(node, report, now_s)
        if meta.host_bytes_free:  # older kernels tell it in heartbeats alone
            self._count_foreign_use(node, meta, now_s)
        effects += self._note_ready(node, meta.containers, now_s)  # it may hold more than was reserved for it
        for container in missing:
            if container.id in node.containers:
                effects += self._residency.ended(container, "node_lost", "the kernel no longer has it", "", now_s)
        return effects

    def on_beat(self, event: KernelBeat, now_s: float) -> list[Effect]:
        """Note what the kernel sees; a kernel that is not known is asked to register."""
        node = self._registry.nodes.get(event.identity)
        if node is None:
            if (first := self._registry.nodes_by_name.get(event.meta.node)) is not None:
                return self._twins.refuse(event.identity, first, now_s)
            return [Command(event.identity, Kind.REGISTER, self._registered(again=True))]
        self._registry.heard(node, now_s)
        self._calls.heard(node.identity)
        effects: list[Effect] = [Command(event.identity, Kind.HEARTBEAT, None)]
        strays = False
        for report in _least_recently_used_first(event.meta.containers):
            if (container := node.containers.get(report.container)) is not None:
                effects += self._see(container, report, now_s)
            else:
                strays = strays or report.state != "gone"
        if strays:  # it was given up here, and lives: registering settles whose it is
            effects.append(Command(node.identity, Kind.REGISTER, self._registered(again=True)))
        effects += self._end_lost_calls(node, event.meta.calls, now_s)
        self._count_base(node, event.meta)
        self._count_foreign_use(node, event.meta, now_s)
        effects += self._note_ready(node, event.meta.containers, now_s)
        effects += self._end_missing(node, now_s)
        effects += self._give_up_plans(node, now_s)
        effects += self._loading.start_planned(node, now_s)  # others may have given memory back
        effects += self._leaving.remind(node, now_s)
        for group in {container.group.key: container.group for container in node.containers.values()}.values():
            effects += self._replicas.look(group, now_s)
        if node.drained:
            effects += self._replicas.move_from(node, now_s)
        return effects + self._reclaim.relieve(node, now_s)

    def _registered(self, *, again: bool = False) -> RegisteredMeta:
        term = self._term
        return RegisteredMeta(term.epoch, self._config.heartbeat_s, again, term.store, term.mark)

    def _note_ready(self, node: Node, reports: Iterable[ContainerReport], now_s: float) -> list[Effect]:
        """Who is ready, and that was lost when it was told. After the room was counted: it lets others load."""
        effects: list[Effect] = []
        for report in reports:
            container = node.containers.get(report.container)
            if container is not None and container.state is State.CREATING and report.state == "ready":
                effects += self._on_ready(container, _ready_of(report), now_s)
        return effects

    def _give_up_plans(self, node: Node, now_s: float) -> list[Effect]:
        """What stays has outgrown the node: what is not loaded yet is looked for elsewhere, the newest plan first."""
        effects = self._reclaim.give_up_plans(node, now_s)
        return effects + self._residency.retry_anew(now_s) if effects else effects

    def _end_missing(self, node: Node, now_s: float) -> list[Effect]:
        """A kernel tells of all that it has. What it has not told of for long never came, or has gone, unheard of."""
        effects: list[Effect] = []
        for container in list(node.containers.values()):
            silent = now_s - container.seen_s >= self._config.order_again_s
            if silent and container.state is not State.PLANNED and container.id in node.containers:
                effects += self._residency.ended(container, "node_lost", "its kernel does not have it", "", now_s)
        return effects

    def _end_lost_calls(self, node: Node, numbers: list[int] | None, now_s: float) -> list[Effect]:
        """A kernel that has connected anew tells which calls it has. The others' requests or answers were lost."""
        before, node.counted_before = node.counted_before, None if numbers is not None else node.counted_before
        if numbers is None or before is None:
            return []
        lost = self._calls.lost_at(node, before, set(numbers))
        return self._residency.fail_calls(lost, f"the connection to node {node.name!r} was lost", now_s)

    def _see(self, container: Container, report: ContainerReport, now_s: float) -> list[Effect]:
        """Note what a kernel tells of a container that is known."""
        container.seen_s = now_s
        container.pid, container.pid_started = report.pid, report.pid_started
        container.lanes, container.lane_calls = report.lanes, report.lane_calls
        container.lane_services = lane_services(report)
        self._count_lanes(container, report, now_s)
        self._measure_calls(container, report)
        if container.is_filling:
            container.measured_host_bytes, container.measured_device_bytes = report.host_bytes, report.device_bytes
        if container.state is not State.READY:
            return []
        self._accesses.hold(container, now_s)
        strangers = self._leaving.end_lanes_of_strangers(container, report.lane_services, now_s)
        return strangers + self._loading.measure(container, report.host_bytes, report.device_bytes)

    def _count_base(self, node: Node, meta: RegisterMeta | HeartbeatMeta) -> None:
        """What containers share is charged to the node, once: they may have the rest."""
        node.base_bytes = meta.base_bytes
        capacity = node.offered.less(Amounts(0, meta.base_bytes))
        if node.capacity != capacity:
            node.capacity = capacity
            self._books.limit(node, capacity.less(Amounts()))
            self._index.update(node)

    def _measure_calls(self, container: Container, report: ContainerReport) -> None:
        """How many calls a container may be given at once without others' waiting for long."""
        calls = report.requests - container.requests_seen
        busy_us = report.busy_us - container.busy_us_seen
        container.requests_seen, container.busy_us_seen = report.requests, report.busy_us
        if calls > 0 and busy_us > 0:
            fitting = int(self._config.turn_s * 1e6 * calls / busy_us)
            container.group.depth = max(DEPTH_MIN, min(fitting, self._config.turn_calls_max))

    def _count_foreign_use(self, node: Node, meta: RegisterMeta | HeartbeatMeta, now_s: float) -> None:
        """What others have taken of the node is not the containers' to have.

        They may hold what they hold now and what is free beside; what is loading will take some of that yet. The base
        is neither: it is held, and not by them.
        """
        node.host_bytes_free = meta.host_bytes_free
        node.device_bytes_free = {device.id: device.nbytes for device in meta.devices}
        limit = Amounts(node.capacity.slots, node.capacity.host_bytes, dict(node.capacity.devices))
        held = node.present.less(not_held(node, now_s))
        if meta.host_bytes_free:
            limit.host_bytes = min(limit.host_bytes, meta.host_bytes_free + held.host_bytes)
        for device, free in node.device_bytes_free.items():
            if device in limit.devices:
                limit.devices[device] = min(limit.devices[device], free + held.devices.get(device, 0))
        self._books.limit(node, limit)

    def _count_lanes(self, container: Container, report: ContainerReport | ContainerEvent, now_s: float) -> None:
        """Calls by lanes are hits like others."""
        fresh = self._lane_use.count(container.id, report.lane_usage, now_s)
        container.hits += fresh.calls
        container.errors += fresh.errors
        container.last_hit_s = max(container.last_hit_s, fresh.last_s)
        if fresh.calls:
            container.group.calls += fresh.calls
            container.node.replacer.record_access(container.id, fresh.calls)

    def on_report(self, event: ContainerReported, now_s: float) -> list[Effect]:
        """A container was made, is ready, has no lanes any more, or is gone."""
        report = event.event
        node = self._registry.nodes.get(event.identity)
        container = node.containers.get(report.container) if node else None
        if container is None:
            return self._on_late_report(report, now_s)
        container.seen_s = now_s
        match report.what:
            case "loading":
                container.pid, container.pid_started = report.pid, report.pid_started
            case "ready":
                return self._on_ready(container, report, now_s)
            case "drained":
                return self._leaving.lanes_ended(container, now_s)
            case "lane_broken":
                return self._on_lane_broken(container, report.reason, now_s)
            case "gone":
                self._count_lanes(container, report, now_s)
                return self._residency.ended(container, report.cause, report.reason, report.traceback, now_s)
        return []

    def _on_ready(self, container: Container, report: ContainerEvent, now_s: float) -> list[Effect]:
        effects = self._loading.ready(container, report, now_s)
        if container.state is not State.READY:
            return effects
        self._reclaim.watch(container)
        return effects + self._replicas.joined(container, now_s)

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
        self._registry.remove_node(node)
        self._index.remove(node)
        self._twins.settled(node)
        effects: list[Effect] = [
            self._journal.record("node.lost", node.name, reason, now_s, containers=len(node.containers))
        ]
        for container in list(node.containers.values()):
            if container.id in self._registry.containers:
                effects += self._residency.ended(container, "node_lost", f"its node was lost: {reason}", "", now_s)
        effects += self._residency.fail_calls_of(node, f"its node was lost: {reason}", now_s)
        effects += self._questions.lose(node.identity)
        self._calls.heard(node.identity)
        return effects + self._residency.retry_anew(now_s)  # what it was loading is loaded elsewhere

    def excuse(self, now_s: float) -> None:
        """The switchboard itself did not run for a while, and could not hear anybody: all start afresh."""
        for node in self._registry.nodes.values():
            node.last_heartbeat_s = now_s

    def lose_silent(self, now_s: float) -> list[Effect]:
        effects: list[Effect] = []
        while self._registry.nodes:
            node = next(iter(self._registry.nodes.values()))  # the one that has been silent for the longest time
            silent_s = now_s - node.last_heartbeat_s
            if silent_s <= self._config.node_timeout_s:
                break
            effects += self.lose(node, f"no heartbeat for {silent_s:.1f} s", now_s)
        return effects

    # The operator's hand.

    def drain(self, node: Node, now_s: float) -> list[Effect]:
        """Load nothing there any more; what is there moves away."""
        node.drained = True
        self._index.update(node)
        self.drained_names.add(node.name)
        reason = f"an operator drained it: {len(node.containers)} containers move away"
        drained = self._journal.record("node.drained", node.name, reason, now_s)
        return [drained, *self._replicas.move_from(node, now_s)]

    def resume(self, name: str, now_s: float) -> list[Effect]:
        """Loads may go there again."""
        self.drained_names.discard(name)
        if (node := self._registry.nodes_by_name.get(name)) is not None:
            node.drained = False
            self._index.update(node)
        resumed = self._journal.record("node.resumed", name, "an operator opened it again", now_s)
        return [resumed, *self._residency.retry_anew(now_s)]


def _amounts(meta: RegisterMeta) -> Amounts:
    capacity = meta.capacity
    return Amounts(capacity.slots, capacity.host_bytes, {device.id: device.nbytes for device in capacity.devices})


def _ready_of(report: ContainerReport) -> ContainerEvent:
    """The event that a report of a ready container stands for."""
    return ContainerEvent(
        container=report.container,
        what="ready",
        pid=report.pid,
        pid_started=report.pid_started,
        host_bytes=report.host_bytes,
        device_bytes=report.device_bytes,
    )


def _least_recently_used_first(reports: Iterable[ContainerReport]) -> list[ContainerReport]:
    """By the last call in a lane: the replacer hears of accesses in the order in which they came."""

    def idle_us(report: ContainerReport) -> int:
        return min((usage.idle_us for usage in report.lane_usage), default=0)

    return sorted(reports, key=idle_us, reverse=True)
