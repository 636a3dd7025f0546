"""How a container comes to be: planned, commanded when there is room, loaded, settled to what it was measured as."""

from typing import Final

from huterox_connector.core.books import Books
from huterox_connector.core.config import CoreConfig
from huterox_connector.core.effects import Command, Effect, Keep
from huterox_connector.core.faults import Faults
from huterox_connector.core.footprints import Footprint
from huterox_connector.core.health import Health
from huterox_connector.core.journal import Journal
from huterox_connector.core.lifecycle import State, Step
from huterox_connector.core.measured import forget_footprint, put_footprint
from huterox_connector.core.placement import Place
from huterox_connector.core.records import Container, Group, Node
from huterox_connector.core.registry import Registry
from huterox_connector.core.term import Term
from huterox_connector.core.vectors import MIB, Charge
from huterox_wire.kinds import Kind
from huterox_wire.nodes import ContainerEvent, CreateMeta

GIB: Final = 1024 * MIB
_WAIT: Final = "zygote"
"""The one of a load's timings that is no part of it: a process that had to start first, for all loads alike."""


class Loading:
    """Plans, commands and settles containers. Where they go was decided before."""

    def __init__(
        self,
        registry: Registry,
        books: Books,
        faults: Faults,
        health: Health,
        journal: Journal,
        term: Term,
        config: CoreConfig,
    ) -> None:
        self._registry = registry
        self._books = books
        self._faults = faults
        self._health = health
        self._journal = journal
        self._term = term
        self._config = config

    def plan(self, group: Group, place: Place, container_id: int, reason: str, now_s: float) -> Container:
        """Reserve room for a container; nothing is loaded yet."""
        container = Container(
            id=container_id,
            model=group.model,
            spec=group.model.spec,
            group=group,
            node=place.node,
            charge=place.charge,
            reserved=place.charge,
            created_at=self._journal.at(now_s),
            created_s=now_s,
            reason=reason,
        )
        self._books.enter(container)
        return container

    def start_planned(self, node: Node, now_s: float) -> list[Effect]:
        """Carry out the node's plans as far as what is present leaves room: what is waited for, and the oldest, first.

        One that must wait does not hold up those after it: each has its room among what stays.
        """
        effects: list[Effect] = []
        if self._registry.nodes.get(node.identity) is not node:
            return effects  # it was lost
        plans = [container for container in node.containers.values() if container.state is State.PLANNED]
        for container in sorted(plans, key=lambda c: not c.group.is_wanted):
            if not node.limit.less(node.present).hold(container.charge) or self._must_queue(container):
                continue
            self._books.step(container, Step.COMMANDED, now_s)
            container.seen_s = now_s
            effects.append(Command(node.identity, Kind.CREATE, self._order(container)))
        return effects

    def _must_queue(self, container: Container) -> bool:
        """Big loads into the same memory go one after another: together they would only slow each other down.

        Not behind one that nobody waits for.
        """
        if not self._is_big(container.charge):
            return False
        device = container.charge.device
        return any(
            other.state is State.CREATING
            and other.charge.device == device
            and self._is_big(other.charge)
            and other.group.is_wanted
            for other in container.node.containers.values()
        )

    def _is_big(self, charge: Charge) -> bool:
        return (charge.device_bytes if charge.device else charge.host_bytes) >= self._config.big_load_mb * MIB

    def _order(self, container: Container) -> CreateMeta:
        charge, spec = container.charge, container.spec
        return CreateMeta(
            self._term.epoch,
            container.id,
            spec,
            device=charge.device,
            host_bytes=charge.host_bytes,
            device_bytes=charge.device_bytes,
            load_timeout_s=spec.load_timeout_s + charge.nbytes / GIB * self._config.load_timeout_s_per_gb,
            service=container.group.key[1],
            revision=self._term.revision_of(spec),
        )

    # What kernels report.

    def ready(self, container: Container, event: ContainerEvent, now_s: float) -> list[Effect]:
        """Loaded and warmed up: calls can go there."""
        if container.state is not State.CREATING:
            return []  # told to close while it was loading
        self._books.step(container, Step.LOADED, now_s)
        container.pid, container.pid_started = event.pid, event.pid_started
        container.ready_s = container.counted_s = now_s
        container.load_s = _load_s(event.timings_s) or now_s - container.created_s
        container.timings_s = event.timings_s
        group, node = container.group, container.node
        group.loads_well(node.name)
        self._health.went_well(node)
        effects = self.measure(container, event.host_bytes, event.device_bytes)
        effects.append(
            self._journal.record(
                "ready",
                f"{container.spec.name} {container.title}",
                f"loaded in {container.load_s:.2f} s, {now_s - container.created_s:.2f} s after it was wanted",
                now_s,
                node=node.name,
                takes=container.charge.facts(),
                reserved=container.reserved.facts(),
                timings_s=event.timings_s,
                waiting=len(group.waiting),
            )
        )
        effects += self.resident(container, now_s)
        return effects + self.start_planned(node, now_s)  # it may take less than was reserved; a big one may follow

    def resident(self, container: Container, now_s: float) -> list[Effect]:
        """Enter a ready container into the page table, and forward who waits for it."""
        self._rank(container)
        self._registry.map(container)
        return self._faults.release(container, now_s)

    def _rank(self, container: Container) -> None:
        container.node.replacer.insert(
            container.id,
            page=container.group.key,
            nbytes=container.charge.nbytes,
            reload_cost_s=container.load_s,
        )

    def measure(self, container: Container, host_bytes: int, device_bytes: int) -> list[Effect]:
        """Settle a ready container to what it was measured to take, and remember it for the next load."""
        if container.state is not State.READY or not host_bytes:
            return []
        container.measured_host_bytes, container.measured_device_bytes = host_bytes, device_bytes
        charge = container.charge
        settled = Charge(charge.slots, host_bytes, charge.device, device_bytes or charge.device_bytes)
        if settled != charge:
            self._books.settle(container, settled)
            if container in container.group.ready:
                self._rank(container)
        return self._remember(container)

    def _remember(self, container: Container) -> list[Effect]:
        model, node, charge = container.model, container.node.name, container.charge
        measured = Footprint(charge.host_bytes, charge.device_bytes, container.load_s, bool(charge.device))
        is_deployed = model.spec == container.spec and self._registry.models.get(model.name) is model
        if not is_deployed or measured == model.footprints.on(node):
            return []
        forgotten = model.footprints.learn(node, measured)
        writes = [put_footprint(model, node, measured)] if model.footprints.must_write(node) else []
        if forgotten is not None:
            writes.append(forget_footprint(model, forgotten))
        return [Keep(tuple(writes))] if writes else []


def _load_s(timings_s: dict[str, float]) -> float:
    """What the load itself took, where the kernel tells: not the wait for room, nor for a zygote."""
    return sum(took_s for stage, took_s in timings_s.items() if stage != _WAIT)
