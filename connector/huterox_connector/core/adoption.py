"""Containers that a kernel has and this switchboard does not know: taken over, or closed.

Another switchboard made them, or this one before it was started anew or gave their node up.
"""

from typing import Final

from huterox_connector.core.books import Books
from huterox_connector.core.effects import Effect
from huterox_connector.core.hotness import Hotness
from huterox_connector.core.ids import ServiceId
from huterox_connector.core.journal import Journal
from huterox_connector.core.leaving import Leaving
from huterox_connector.core.lifecycle import Step
from huterox_connector.core.loading import Loading
from huterox_connector.core.placement import charges_on
from huterox_connector.core.reclaim import Reclaim
from huterox_connector.core.records import Container, Group, Model, Node
from huterox_connector.core.registry import Registry
from huterox_connector.core.term import Term
from huterox_connector.core.usage import LaneUse
from huterox_connector.core.vectors import MIB, Charge
from huterox_wire.nodes import ContainerReport, ModelSpec, Resources

LANE_IDLE_US: Final = 60_000_000
"""A service without a call in lanes for so long does not count as calling by them."""


class Adoption:
    """Decides what becomes of a container that was found."""

    def __init__(
        self,
        registry: Registry,
        books: Books,
        loading: Loading,
        leaving: Leaving,
        reclaim: Reclaim,
        lane_use: LaneUse,
        journal: Journal,
        term: Term,
    ) -> None:
        self._registry = registry
        self._books = books
        self._loading = loading
        self._leaving = leaving
        self._reclaim = reclaim
        self._lane_use = lane_use
        self._journal = journal
        self._term = term

    def take(self, node: Node, report: ContainerReport, now_s: float) -> list[Effect]:
        """A container that runs but is not known here: another switchboard, or this one before a restart, made it."""
        model = self._registry.models.get(report.model)
        if model is None or not self._is_of(model, report) or report.state not in ("ready", "creating"):
            return self._close_stray(node, report, now_s)
        group = self._group_of(report, model)
        if group is None:
            return self._close_stray(node, report, now_s)
        needless = report.state == "creating" and group.resident
        if needless or len(group.ready) + len(group.coming) >= model.spec.replicas_max:
            return self._close_stray(node, report, now_s)
        container = self._container_of(node, report, model, group, now_s)
        self._books.enter(container)
        adopted: list[Effect] = [
            self._journal.record("adopt", f"{model.name} {container.title}", container.reason, now_s, node=node.name)
        ]
        if report.state == "creating":
            self._books.step(container, Step.COMMANDED, now_s)
            return adopted
        self._books.step(container, Step.ADOPTED, now_s)
        container.ready_s = container.counted_s = now_s
        self._reclaim.watch(container)
        adopted += self._leaving.end_lanes_of_strangers(container, report.lane_services, now_s)
        return adopted + self._loading.resident(container, now_s)

    def _is_of(self, model: Model, report: ContainerReport) -> bool:
        """Whether it was made of the model as it is deployed now, in this store: a name and a version prove nothing."""
        if not report.revision:  # an older switchboard or kernel made it
            return model.spec.version == report.version
        return report.revision == self._term.revision_of(model.spec)

    def _group_of(self, report: ContainerReport, model: Model) -> Group | None:
        """Whose calls it takes. None: nobody's. No service shares it, or that which it is dedicated to is no more."""
        if not report.service:
            shared = self._registry.groups.get((model.name, 0))
            return shared if shared is not None and shared.services else None
        service = self._registry.services.get(report.service)
        return service.group if service is not None and service.group.key == (model.name, report.service) else None

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
        group = Group((spec.name, 0), model, Hotness(now_s))
        container = self._container_of(node, report, model, group, now_s)
        self._books.enter(container)
        self._books.step(container, Step.COMMANDED if report.state == "creating" else Step.ADOPTED, now_s)
        container.ready_s = container.counted_s = now_s
        return self._leaving.evict(container, "the switchboard has no use for it", now_s, kind="reclaim")

    def _container_of(self, node: Node, report: ContainerReport, model: Model, group: Group, now_s: float) -> Container:
        """Its counters begin at what the kernel reports, calls in lanes among them; services get their share once."""
        charge = _charge_of(report, model, node)
        container = Container(
            id=report.container,
            model=model,
            spec=model.spec,
            group=group,
            node=node,
            charge=charge,
            reserved=charge,
            created_at=report.started_s,
            created_s=now_s,
            seen_s=now_s,
            reason="adopted when its kernel registered",
            pid=report.pid,
            pid_started=report.pid_started,
            load_s=model.footprints.load_s(node.name),
            lanes=report.lanes,
            lane_calls=report.lane_calls,
            hits=report.requests,
            errors=report.errors,
            measured_host_bytes=report.host_bytes,
        )
        fresh = self._lane_use.count(container.id, report.lane_usage, now_s)
        container.last_hit_s = fresh.last_s
        container.lane_services = lane_services(report)
        group.calls += fresh.calls
        return container


def _charge_of(report: ContainerReport, model: Model, node: Node) -> Charge:
    """What a container that was found takes: as measured. One that is loading will take more than it does now."""
    declared = model.spec.resources
    expected = Charge(1, declared.host_mb * MIB, report.device, declared.gpu_mb * MIB if report.device else 0)
    expected = next((charge for charge in charges_on(model, node) if charge.device == report.device), expected)
    host_bytes, device_bytes = expected.host_bytes, expected.device_bytes
    if report.state == "creating":
        host_bytes, device_bytes = max(host_bytes, report.host_bytes), max(device_bytes, report.device_bytes)
    else:
        host_bytes, device_bytes = report.host_bytes or host_bytes, report.device_bytes or device_bytes
    return Charge(1, host_bytes, report.device, device_bytes if report.device else 0)


def lane_services(report: ContainerReport) -> tuple[ServiceId, ...]:
    """Whose callers have called by lanes lately."""
    return tuple(usage.service for usage in report.lane_usage if usage.idle_us < LANE_IDLE_US)
