"""The lanes of the simulated platform: who leases them, what passes through them, and what must hold of them.

Callers call in lanes without the switchboard, so everything that it knows of these calls has come by reports. Here both
sides are known: what happened, and what was told. `Told` is the arithmetic of what the switchboard must have counted.
"""

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from tests.simulation.records import SimContainer, SimKernel, SimLane, SimLease, Totals

from huterox_connector.core import effects as asked
from huterox_connector.core import events as happened
from huterox_connector.core.lifecycle import State, Step
from huterox_wire.leases import LeaseMeta, LeaseOrderMeta
from huterox_wire.nodes import ContainerEvent, ContainerReport, LaneUsage

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

    def usage(self, container: int, usage: Iterable[LaneUsage]) -> None:
        for totals in usage:
            key = container, totals.service
            fresh = totals.calls - self.lane_calls.get(key, 0)
            self.lane_calls[key] = totals.calls
            self.hits[container] += fresh

    def adopted(self, report: ContainerReport) -> None:
        self.usage(report.container, report.lane_usage)
        self.hits[report.container] = report.requests

    def service_hits(self, handle: int) -> int:
        return self.routed[handle] + sum(calls for (_, service), calls in self.lane_calls.items() if service == handle)


class Lanes:
    """Leases and lanes of one world."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.told = Told()
        self.leases: dict[tuple[bytes, int], SimLease] = {}
        self.all: list[SimLane] = []

    def forget_switchboard(self) -> None:
        """It was killed: lanes go on, questions have no answer."""
        self.told = Told()
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
            handle = world.random.choice(world.handles or [999])
            hosts = sorted({kernel.host_id for kernel in world.kernels.values() if kernel.alive})
            host_id = world.random.choice([*hosts, "elsewhere"])
        budget_s = world.random.choice([0.03, 0.5, 1.0])
        self.leases[caller, request_id] = SimLease(handle, host_id, world.now_s + budget_s)
        meta = LeaseMeta(host_id, 4711)
        world.on(happened.LeaseRequested(caller, request_id, handle, int(budget_s * 1e6), meta))

    def ask_arrived(self, ask: asked.AskKernel) -> None:
        """The switchboard passes a LEASE on."""
        world = self._world
        order = ask.meta
        assert isinstance(order, LeaseOrderMeta)
        lease = self.leases[ask.route[8:], ask.request_id]
        service = world.board.registry.services[lease.handle]
        container = world.board.registry.containers[order.container]
        assert container.state is State.READY, f"a lane of container {container.title} was asked for, {container.state}"
        assert container in service.group.ready
        assert container.node.host_id == lease.host_id
        assert (order.service, order.epoch) == (lease.handle, world.epoch)
        kernel = world.kernels.get(ask.kernel)
        if kernel is None or not kernel.alive:
            world.after(0.0, lambda: world.on(happened.KernelUnreachable(ask.kernel)))
        elif kernel.reachable:
            world.after(world.random.expovariate(1 / 0.02), lambda: self._granted(kernel, ask, order))

    def _granted(self, kernel: SimKernel, ask: asked.AskKernel, order: LeaseOrderMeta) -> None:
        """The kernel answers; the switchboard passes it on to the caller, who comes for the lane, or never does."""
        world = self._world
        if not kernel.alive or not kernel.reachable:
            return
        caller = ask.route[8:]
        container = kernel.containers.get(order.container)
        granted = (
            container is not None and container.state == "ready" and len(container.lanes) < LANES_PER_CONTAINER_MAX
        )
        if not world.board.answered_by_kernel(kernel.identity, caller, ask.request_id, world.now_s):
            world.seen["lease.late"] += 1
            return
        lease = self.leases[caller, ask.request_id]
        assert world.now_s < lease.deadline_s, "a lease was answered after its deadline"
        lease.ends.append("granted" if granted else "refused by kernel")
        assert len(lease.ends) == 1
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

    def refused(self, key: tuple[bytes, int], code: str) -> None:
        """ERROR to a LEASE."""
        if (lease := self.leases.get(key)) is not None:
            lease.ends.append(code)
            assert len(lease.ends) == 1, f"lease {key} was answered twice: {lease.ends}"
            self._world.seen[f"lease.{code}"] += 1

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
            totals.last_s = world.now_s
            world.after(world.random.expovariate(1 / 0.05), lambda: self._served(lane, totals))

    def _served(self, lane: SimLane, totals: Totals) -> None:
        if lane.ended:
            return
        lane.in_flight -= 1
        totals.errors += self._world.random.random() < 0.1
        totals.busy_us += self._world.random.randint(1, 50_000)
        if lane.container.state == "draining" and not lane.in_flight:
            self._end(lane)

    # Ends.

    def caller_dies(self) -> None:
        """One lane ends from the caller's side: it has gone, or has written nonsense."""
        world = self._world
        if not self.all:
            return
        lane = world.random.choice(self.all)
        if world.random.random() < 0.3:
            world.report_event(lane.kernel, ContainerEvent(lane.container.id, "lane_broken", reason="t/s: nonsense"))
        self._end(lane)

    def drain(self, kernel: SimKernel, container_id: int, service: int) -> None:
        """DRAIN has reached the kernel."""
        container = kernel.containers.get(container_id)
        if service and container is not None:
            for lane in [lane for lane in container.lanes if lane.handle == service]:
                self._end(lane)
            return
        if container is None:
            world = self._world
            world.report_event(kernel, ContainerEvent(container_id, "gone", cause="closed", reason="it is not here"))
            return
        container.state = "draining"
        for lane in list(container.lanes):
            if not lane.in_flight:
                self._end(lane)
        self._tell_if_drained(kernel, container)

    def _end(self, lane: SimLane) -> None:
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
        self._world.report_event(kernel, event)

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
        world = self._world
        for lane in self.all:
            assert lane.kernel.alive
            assert lane.container is lane.kernel.containers.get(lane.container.id), "a lane outlives its container"
        for service in world.board.registry.services.values():
            expected = self.told.service_hits(service.id)
            assert service.hits == expected, f"{service.title}: {service.hits} hits, {expected} were told"
        for container in world.board.registry.containers.values():
            expected = self.told.hits[container.id]
            assert container.hits == expected, f"{container.title}: {container.hits} hits, {expected} were told"
        overdue = [lease for lease in self.leases.values() if not lease.ends and lease.deadline_s + 0.1 < world.now_s]
        assert not overdue, f"{len(overdue)} leases were never answered, e.g. {overdue[0]}"
        self.leases = {
            key: lease for key, lease in self.leases.items() if not lease.ends or lease.deadline_s + 0.1 > world.now_s
        }
