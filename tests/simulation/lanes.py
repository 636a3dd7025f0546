"""The lanes of the simulated platform: who leases them, what passes through them, and what must hold of them.

Callers call in lanes without the switchboard, so everything that it knows of these calls has come by reports. Here both
sides are known: what happened, and what was told. `Told` is the arithmetic of what the switchboard must have counted.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from tests.simulation.callers import LATE_S, UNKNOWN_HANDLE
from tests.simulation.records import SimContainer, SimKernel, SimLane, SimLease, Totals

from huterox_connector.core import effects as asked
from huterox_connector.core import events as happened
from huterox_connector.core.lifecycle import State, Step
from huterox_connector.core.measured import StoredUsage
from huterox_connector.core.records import Service
from huterox_wire.leases import LeaseMeta, LeaseOrderMeta
from huterox_wire.nodes import ContainerEvent, ContainerReport, LaneUsage
from huterox_wire.route import CALLER

if TYPE_CHECKING:
    from tests.simulation.world import World

LANES_PER_CONTAINER_MAX = 6


class Told:
    """What the switchboard has been told, and must have counted. Forgotten with it."""

    def __init__(self) -> None:
        self.routed: Counter[int] = Counter()  # handle -> calls forwarded
        self.lane_calls: dict[tuple[int, int], int] = {}  # container, handle -> calls in lanes
        self.hits: Counter[int] = Counter()  # container -> hits
        self.drained: set[int] = set()

    def restored(self, usage: Iterable[StoredUsage]) -> None:
        """A new switchboard goes on from what is on disk."""
        for stored in usage:
            lanes = {(container, stored.service): totals[0] for container, totals in stored.lanes.items()}
            self.lane_calls |= lanes
            self.routed[stored.service] = stored.usage.calls - sum(lanes.values())

    def forwarded(self, handle: int, container: int) -> None:
        self.routed[handle] += 1
        self.hits[container] += 1

    def usage(self, container: int, usage: Iterable[LaneUsage]) -> None:
        for totals in usage:
            key = container, totals.service
            fresh = totals.calls - self.lane_calls.get(key, 0)
            self.lane_calls[key] = totals.calls
            self.hits[container] += fresh

    def adopted(self, report: ContainerReport) -> None:
        self.usage(report.container, report.lane_usage)
        self.hits[report.container] = report.requests


class Lanes:
    """Leases and lanes of one world."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.told = Told()
        self.leases: dict[tuple[bytes, int], SimLease] = {}
        self._ends: dict[tuple[bytes, int], str] = {}
        self.all: list[SimLane] = []
        self.made: Counter[int] = Counter()  # handle -> calls in lanes there ever were

    def switchboard_started(self) -> None:
        """Lanes go on; questions to the old one have no answer."""
        self.told = Told()
        self.told.restored(self._world.disk.read()[1].usage)
        self.leases.clear()

    # Leasing.

    def lease(self) -> None:
        world = self._world
        caller, request_id = b"caller%d" % world.random.randrange(4), world.request_id()
        resident = [service for service in world.board.registry.services.values() if service.group.ready]
        if resident and world.random.random() < 0.7:  # most callers have called before they ask
            service = world.random.choice(resident)
            handle, host_id = service.id, service.group.ready[0].node.host_id
        else:
            handle = world.random.choice(world.operator.handles or [UNKNOWN_HANDLE])
            hosts = sorted({kernel.host_id for kernel in world.kernels.living()})
            host_id = world.random.choice([*hosts, "elsewhere"])
        budget_s = world.random.choice([0.03, 0.5, 1.0])
        self.leases[caller, request_id] = SimLease(handle, host_id, world.now_s + budget_s)
        meta = LeaseMeta(host_id, 4711)
        world.on(happened.LeaseRequested(caller, request_id, handle, int(budget_s * 1e6), meta))

    def caller_left(self, caller: bytes) -> None:
        """Nobody waits for what it has asked for."""
        self.leases = {key: lease for key, lease in self.leases.items() if key[0] != caller}

    def ask_arrived(self, ask: asked.AskKernel) -> None:
        """The switchboard passes a LEASE on."""
        world = self._world
        order = ask.meta
        assert isinstance(order, LeaseOrderMeta)
        lease = self.leases[ask.route[CALLER], ask.request_id]
        service = world.board.registry.services[lease.handle]
        container = world.board.registry.containers[order.container]
        assert container.state is State.READY, f"a lane of container {container.title} was asked for, {container.state}"
        assert container in service.group.ready
        world.operator.check_handle(lease.handle, service)
        assert container.node.host_id == lease.host_id
        assert (order.service, order.epoch) == (lease.handle, world.term.epoch)
        kernel = world.kernels.all.get(ask.kernel)
        if kernel is None or not kernel.alive:
            world.after(0.0, lambda: world.on(happened.KernelUnreachable(ask.kernel)))
        elif kernel.reachable:
            world.after(world.random.expovariate(1 / 0.02), lambda: self._granted(kernel, ask, order))

    def _granted(self, kernel: SimKernel, ask: asked.AskKernel, order: LeaseOrderMeta) -> None:
        """The kernel answers; the switchboard passes it on to the caller, who comes for the lane, or never does."""
        world = self._world
        if not kernel.alive or not kernel.reachable:
            return
        caller = ask.route[CALLER]
        container = kernel.containers.get(order.container)
        granted = (
            container is not None and container.state == "ready" and len(container.lanes) < LANES_PER_CONTAINER_MAX
        )
        if not world.board.answered_by_kernel(kernel.identity, ask.route, ask.request_id, world.now_s):
            world.seen["lease.late"] += 1
            return
        lease = self.leases[caller, ask.request_id]
        assert world.now_s < lease.deadline_s, "a lease was answered after its deadline"
        self._end((caller, ask.request_id), "granted" if granted else "refused by kernel")
        if granted and container is not None and world.random.random() < 0.9:
            world.after(world.random.expovariate(1 / 0.1), lambda: self._handed_over(kernel, container, lease.handle))

    def _handed_over(self, kernel: SimKernel, container: SimContainer, handle: int) -> None:
        """The caller shows its token: good unless the container has begun to leave meanwhile."""
        if not kernel.alive or container.id not in kernel.containers or container.state != "ready":
            self._world.seen["lane.refused"] += 1
            return
        self._world.seen["lane"] += 1
        lane = SimLane(handle, kernel, container)
        container.lanes.append(lane)
        self.all.append(lane)

    def refused(self, key: tuple[bytes, int], code: str) -> bool:
        """ERROR to a LEASE."""
        assert key not in self._ends, f"lease {key} was answered twice: {self._ends[key]} and {code}"
        if key not in self.leases:
            return False
        self._end(key, code)
        self._world.seen[f"lease.{code}"] += 1
        return True

    def _end(self, key: tuple[bytes, int], how: str) -> None:
        del self.leases[key]
        self._ends[key] = how

    # Calls.

    def call(self) -> None:
        """A few calls in one lane, past the switchboard."""
        world = self._world
        lanes = [lane for lane in self.all if lane.open]
        if not lanes:
            return
        lane = world.random.choice(lanes)
        totals = lane.container.totals.setdefault(lane.handle, Totals())
        for _ in range(world.random.randint(1, 5)):
            world.seen["lane.call"] += 1
            lane.in_flight += 1
            totals.calls += 1
            self.made[lane.handle] += 1
            totals.last_s = world.now_s
            world.after(world.random.expovariate(1 / 0.05), lambda: self._served(lane, totals))

    def _served(self, lane: SimLane, totals: Totals) -> None:
        if lane.ended or lane.container.hangs:
            return
        lane.in_flight -= 1
        totals.errors += self._world.random.random() < 0.1
        totals.busy_us += self._world.random.randint(1, 50_000)
        if lane.container.state == "draining" and not lane.in_flight:
            self._close(lane)

    # Ends.

    def caller_dies(self) -> None:
        """One lane ends from the caller's side: it has gone, or has written nonsense."""
        world = self._world
        if not self.all:
            return
        lane = world.random.choice(self.all)
        if world.random.random() < 0.3:
            world.kernels.report(lane.kernel, ContainerEvent(lane.container.id, "lane_broken", reason="t/s: nonsense"))
        self._close(lane)

    def drain(self, kernel: SimKernel, container_id: int, service: int) -> None:
        """DRAIN has reached the kernel."""
        container = kernel.containers.get(container_id)
        if service and container is not None:
            for lane in [lane for lane in container.lanes if lane.handle == service]:
                self._close(lane)
            return
        if container is None:
            self._world.kernels.not_here(kernel, container_id)
            return
        container.state = "draining"
        for lane in list(container.lanes):
            if not lane.in_flight:
                self._close(lane)
        self._tell_if_drained(kernel, container)

    def _close(self, lane: SimLane) -> None:
        """The worker lets go of it."""
        lane.ended = True
        lane.in_flight = 0
        lane.container.lanes.remove(lane)
        self.all.remove(lane)
        if lane.container.state == "draining":
            self._tell_if_drained(lane.kernel, lane.container)

    def _tell_if_drained(self, kernel: SimKernel, container: SimContainer) -> None:
        if container.lanes or container.id not in kernel.containers:
            return
        world = self._world
        event = ContainerEvent(container.id, "drained")
        world.after(world.random.uniform(0.0, 0.02), lambda: self._drained(kernel, event))

    def _drained(self, kernel: SimKernel, event: ContainerEvent) -> None:
        if kernel.alive and kernel.reachable:
            self.told.drained.add(event.container)
        self._world.kernels.report(kernel, event)

    def container_ended(self, container: SimContainer) -> None:
        """Its lanes end with it, whatever was in them."""
        for lane in list(container.lanes):
            lane.ended = True
            self.all.remove(lane)
        container.lanes.clear()

    def kernel_died(self, kernel: SimKernel) -> None:
        for container in kernel.containers.values():
            self.container_ended(container)

    # What must always hold.

    def check_close(self, container_id: int, known: SimContainer | None) -> None:
        """CLOSE is on its way."""
        record = self._world.board.registry.containers[container_id]
        if any(entry.startswith(Step.DRAIN) for entry in record.history):
            assert container_id in self.told.drained, f"{record.title} is closed before its lanes have ended"
        else:
            assert known is None or not known.lanes, f"{record.title} is closed with {len(known.lanes)} lanes"

    def check(self) -> None:
        """Lanes live as long as their containers, what was told is counted once, and leases end in time."""
        registry, now_s = self._world.board.registry, self._world.now_s
        for lane in self.all:
            assert lane.kernel.alive
            assert lane.container is lane.kernel.containers.get(lane.container.id), "a lane outlives its container"
        self._check_hits(list(registry.services.values()))
        for container in registry.containers.values():
            expected = self.told.hits[container.id]
            assert container.hits == expected, f"{container.title}: {container.hits} hits, {expected} were told"
        overdue = [lease for lease in self.leases.values() if lease.deadline_s + LATE_S < now_s]
        assert not overdue, f"{len(overdue)} leases were never answered, e.g. {overdue[0]}"

    def _check_hits(self, services: Sequence[Service]) -> None:
        by_lanes: Counter[int] = Counter()
        for (_, handle), calls in self.told.lane_calls.items():
            by_lanes[handle] += calls
        for service in services:
            expected = self.told.routed[service.id] + by_lanes[service.id]
            assert service.hits == expected, f"{service.title}: {service.hits} hits, {expected} were told"
            made = self.made[service.id] + self._world.callers.made[service.id]
            assert service.hits <= made, f"{service.title}: {service.hits} hits, {made} calls were made"
