"""The kernels of the simulated platform: they do what they are told, in their own time, and tell what they see."""

from itertools import count
from typing import TYPE_CHECKING, Any

from tests.simulation.records import SimContainer, SimKernel, SimZygote, Size
from tests.simulation.shapes import draw_node

from huterox_connector.core import effects as asked
from huterox_connector.core import events as happened
from huterox_connector.core.lifecycle import State
from huterox_connector.core.vectors import MIB
from huterox_wire.kinds import Kind
from huterox_wire.leases import DrainMeta
from huterox_wire.nodes import (
    Capacity,
    CloseMeta,
    ContainerEvent,
    ContainerReport,
    CreateMeta,
    Device,
    DeviceFree,
    HeartbeatMeta,
    LaneUsage,
    RegisteredMeta,
    RegisterMeta,
)
from huterox_wire.route import NUMBER

if TYPE_CHECKING:
    from tests.simulation.callers import Sent
    from tests.simulation.world import World

BEATS_LOST = 0.05
LOADS_FAIL = 0.08
ORDERS_LOST = 0.02
"""Of CREATEs: the queue to their kernel is full."""


class Kernels:
    """All kernels there ever were, by their identities."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.all: dict[bytes, SimKernel] = {}
        self._boots = count(1)
        self.broken: set[str] = set()  # models that never load
        self.shares = [0.6, 1.0, 1.0, 1.3]  # what containers take, of what is declared

    def start(self, name: str, **offers: Any) -> SimKernel:
        """Start a kernel; `offers` replaces what is drawn."""
        drawn = {**draw_node(self._world.random), **offers}
        base_mb = drawn.pop("base_mb")
        kernel = SimKernel(name=name, boot=f"b{next(self._boots)}", host_id=f"host of {name}", **drawn)
        kernel.zygotes.append(SimZygote(base_mb))
        self.all[kernel.identity] = kernel
        self._beat(kernel)
        return kernel

    def living(self) -> list[SimKernel]:
        return [kernel for kernel in self.all.values() if kernel.alive]

    def kill(self, kernel: SimKernel) -> None:
        """Its containers and their lanes end with it."""
        kernel.alive = False
        self._world.lanes.kernel_died(kernel)

    # What they tell.

    def _beat(self, kernel: SimKernel) -> None:
        world = self._world
        if not kernel.alive:
            return
        if kernel.reachable and world.random.random() >= BEATS_LOST * world.trouble:
            self._tell(kernel) if kernel.registered else self._register(kernel)
        world.after(world.config.heartbeat_s, lambda: self._beat(kernel))

    def connect(self, kernel: SimKernel) -> None:
        """There is a connection again. What was sent meanwhile, both ways, is lost."""
        kernel.reachable = True
        if kernel.alive:
            kernel.counts_calls = True
            self._register(kernel)

    def _count_calls(self, kernel: SimKernel) -> None:
        """Tell which calls are here: no other is at this kernel, as far as the switchboard knows."""
        if not kernel.alive or not kernel.reachable:
            return
        kernel.counts_calls = False
        held = {sent for container in kernel.containers.values() for sent in container.calls}
        self._tell(kernel, calls=held | kernel.returning)

    def _tell(self, kernel: SimKernel, calls: "set[Sent] | None" = None) -> None:
        world, board = self._world, self._world.board
        node = board.registry.nodes.get(kernel.identity)
        reports = [self._report(kernel, container) for container in kernel.containers.values()]
        ready = []
        for report in reports:
            record = node.containers.get(report.container) if node is not None else None
            if record is not None:
                world.lanes.told.usage(report.container, report.lane_usage)
                if record.state is State.READY:
                    ready.append((record, report))
        free = kernel.free(world.now_s)
        numbers = [int.from_bytes(route[NUMBER], "little") for route, _ in sorted(calls)] if calls is not None else None
        base_bytes = kernel.base_mb() * MIB
        meta = HeartbeatMeta(
            kernel.name, kernel.boot, _host_free(free), reports, _devices_free(free), numbers, base_bytes
        )

        def told() -> None:
            self._learn_charges(kernel)
            if node is not None:
                kernel.base_told()
                kernel.unheard.clear()
                kernel.credit = _credit(kernel, free, world.now_s) if min(free.values()) > 0 else None

        world.on(happened.KernelBeat(kernel.identity, meta), told)
        if node is not None and calls is not None and board.registry.nodes.get(kernel.identity) is node:
            for call in board.calls.of_node(node):
                assert (call.route, call.request_id) in calls, f"call {call.request_id} is waited for, and was lost"
        for record, report in ready:
            assert record.charge.host_bytes == report.host_bytes, f"{record.title} is not settled to what it takes"

    def _register(self, kernel: SimKernel) -> None:
        world, board = self._world, self._world.board
        reports = [self._report(kernel, container) for container in kernel.containers.values()]
        devices = [Device(device, mb * MIB) for device, mb in kernel.devices.items()]
        capacity = Capacity(kernel.slots, kernel.host_mb * MIB, devices)
        free = kernel.free(world.now_s)
        meta = RegisterMeta(
            kernel.name,
            kernel.boot,
            1,
            "host",
            capacity,
            reports,
            host_id=kernel.host_id,
            host_bytes_free=_host_free(free),
            devices=_devices_free(free),
            epoch_seen=kernel.epoch,
            store_seen=kernel.store,
            mark_seen=kernel.mark,
            base_bytes=kernel.base_mb() * MIB,
        )
        known = set(board.registry.containers)
        kernel.credit = None

        def registered() -> None:
            if kernel.identity not in board.registry.nodes:
                return  # another kernel of this name lives
            for report in reports:
                if report.container in known:
                    world.lanes.told.usage(report.container, report.lane_usage)
                else:
                    world.seen["adopted"] += 1
                    world.lanes.told.adopted(report)
            self._learn_charges(kernel)
            kernel.base_told()
            charged_mb = sum(container.charged.host_mb for container in kernel.containers.values())
            overdrawn_mb = charged_mb + kernel.told_base_mb - kernel.host_mb
            kernel.found_mb = max(0, kernel.found_mb + overdrawn_mb - kernel.overdrawn_mb(kernel.containers))
            kernel.credit = _credit(kernel, free, world.now_s) if min(free.values()) > 0 else None

        world.on(happened.KernelRegistered(kernel.identity, meta), registered)

    def _learn_charges(self, kernel: SimKernel) -> None:
        """What the switchboard counts now that it has been told."""
        for container in kernel.containers.values():
            record = self._world.board.registry.containers.get(container.id)
            if record is not None:
                charge = record.charge
                charged = Size(charge.host_bytes // MIB, charge.device_bytes // MIB)
                _change_credit(kernel, container, container.charged, charged)
                container.charged = charged

    def _report(self, kernel: SimKernel, container: SimContainer) -> ContainerReport:
        state: Any = container.state
        usage, held = self._usage(container), container.held(self._world.now_s)
        return ContainerReport(
            container.id,
            container.model,
            container.version,
            state,
            pid=container.pid,
            host_bytes=kernel.charge_mb(container, self._world.now_s) * MIB,
            device=container.device,
            device_bytes=held.device_mb * MIB,
            service=container.service,
            requests=container.routed + sum(totals.calls for totals in usage),
            lanes=len(container.lanes),
            lane_calls=sum(lane.in_flight for lane in container.lanes),
            lane_usage=usage,
            lane_services=list(dict.fromkeys(lane.handle for lane in container.lanes)),
            revision=container.revision,
        )

    def _usage(self, container: SimContainer) -> list[LaneUsage]:
        now_s = self._world.now_s
        return [
            LaneUsage(handle, total.calls, total.errors, total.busy_us, int((now_s - total.last_s) * 1e6))
            for handle, total in container.totals.items()
        ]

    def report(self, kernel: SimKernel, event: ContainerEvent) -> None:
        """Tell the switchboard at once, if it can be reached."""
        if kernel.alive and kernel.reachable:
            self._world.on(happened.ContainerReported(kernel.identity, event), lambda: self._learn_charges(kernel))

    # What they are told.

    def commanded(self, effect: asked.Command) -> None:
        world = self._world
        kernel = self.all.get(effect.kernel)
        if kernel is None or not kernel.alive:
            world.after(0.0, lambda: world.on(happened.KernelUnreachable(effect.kernel)))
            return
        if isinstance(effect.meta, CreateMeta):
            world.decisions.created(kernel, effect.meta)
            self._reserve(kernel, effect.meta)
        is_lost = isinstance(effect.meta, CreateMeta) and world.random.random() < ORDERS_LOST * world.trouble
        if is_lost or not kernel.reachable:
            if isinstance(effect.meta, CreateMeta):
                size = Size(effect.meta.host_bytes // MIB, effect.meta.device_bytes // MIB)
                kernel.unheard[effect.meta.container] = effect.meta.device, size
            return
        if isinstance(effect.meta, CreateMeta | DrainMeta | CloseMeta):
            assert effect.meta.epoch >= kernel.epoch, f"{kernel.name} ignores what is commanded in an old epoch"
        match effect.meta:
            case RegisteredMeta():
                self._heard_of_registration(kernel, effect.meta)
            case CreateMeta():
                self._create(kernel, effect.meta)
            case DrainMeta():
                world.lanes.drain(kernel, effect.meta.container, effect.meta.service)
            case CloseMeta():
                world.lanes.check_close(effect.meta.container, kernel.containers.get(effect.meta.container))
                self._close(kernel, effect.meta.container)

    def _heard_of_registration(self, kernel: SimKernel, meta: RegisteredMeta) -> None:
        kernel.registered = kernel.registered and not meta.again
        other = meta.epoch == kernel.epoch and kernel.mark not in (0, meta.mark)
        if meta.epoch < kernel.epoch or other:
            return  # it is told what was seen
        kernel.epoch, kernel.store, kernel.mark = meta.epoch, meta.store, meta.mark
        kernel.registered = not meta.again
        if kernel.registered and kernel.counts_calls:
            self._world.after(0.001, lambda: self._count_calls(kernel))

    def _reserve(self, kernel: SimKernel, meta: CreateMeta) -> None:
        if kernel.credit is not None:
            kernel.credit[""] -= meta.host_bytes // MIB
            if meta.device:
                kernel.credit[meta.device] -= meta.device_bytes // MIB

    def _create(self, kernel: SimKernel, meta: CreateMeta) -> None:
        world, random, spec = self._world, self._world.random, meta.model
        share = random.choice(self.shares)
        declared = spec.resources
        size = Size(max(1, int(declared.host_mb * share)), max(1, int(declared.gpu_mb * share)) if meta.device else 0)
        charged = Size(meta.host_bytes // MIB, meta.device_bytes // MIB)
        load_s = 0.01 + random.expovariate(1 / 0.3)
        dedicated = world.board.registry.services.get(meta.service)
        container = SimContainer(
            meta.container,
            spec.name,
            spec.version,
            meta.service,
            meta.device,
            size,
            charged,
            world.now_s,
            load_s,
            meta.revision,
            spec.params["deployment"],
            dedicated.info["creation"] if dedicated is not None else "",
        )
        container.zygote = kernel.zygotes[-1]
        kernel.grown_mb[container.id] = max(0, size.host_mb - charged.host_mb)
        kernel.containers[container.id] = container
        if random.random() < 0.5:
            world.after(load_s / 2, lambda: self._loading(kernel, container))
        if kernel.sick or spec.name in self.broken or random.random() < LOADS_FAIL * world.trouble:
            causes = ["crashed", "refused"] if kernel.sick else ["load_failed", "refused", "load_timeout", "crashed"]
            causes = ["load_failed", "load_timeout", "crashed"] if spec.name in self.broken else causes
            cause: Any = random.choice(causes)
            world.after(load_s, lambda: self.gone(kernel, container, cause, "ImportError"))
        else:
            world.after(load_s, lambda: self._ready(kernel, container))

    def not_here(self, kernel: SimKernel, container_id: int) -> None:
        """The kernel was told to close or drain what it does not have."""
        if kernel.reachable and kernel.credit is not None and container_id in kernel.unheard:
            device, size = kernel.unheard.pop(container_id)
            kernel.credit[""] += size.host_mb
            if device:
                kernel.credit[device] += size.device_mb
        self.report(kernel, ContainerEvent(container_id, "gone", cause="closed", reason="it is not here"))

    def _loading(self, kernel: SimKernel, container: SimContainer) -> None:
        if container.id in kernel.containers:
            container.pid = 7
            self.report(kernel, ContainerEvent(container.id, "loading", pid=7))

    def _ready(self, kernel: SimKernel, container: SimContainer) -> None:
        if not kernel.alive or container.id not in kernel.containers or container.state != "creating":
            return
        container.state, container.pid = "ready", 7
        event = ContainerEvent(
            container.id,
            "ready",
            pid=7,
            host_bytes=kernel.charge_mb(container, self._world.now_s) * MIB,
            device_bytes=container.size.device_mb * MIB,
            timings_s={"load": container.load_s} if self._world.random.random() < 0.7 else {},
        )
        self.report(kernel, event)

    def _close(self, kernel: SimKernel, container_id: int) -> None:
        container = kernel.containers.get(container_id)
        if container is None:
            self._world.after(0.001, lambda: self.not_here(kernel, container_id))
            return
        if container.state == "creating":
            container.size = container.held(self._world.now_s)  # it gets no further
        container.state = "draining"
        slow = self._world.random.random() < 0.1
        took_s = self._world.random.uniform(0.5, 2.0) if slow else self._world.random.uniform(0.01, 0.3)
        self._world.after(took_s, lambda: self.gone(kernel, container, "closed", "closed"))

    def hang(self, kernel: SimKernel, container: SimContainer) -> None:
        """Its calls do not come back; its kernel sees that after a while, and ends it."""
        container.hangs = True
        self._world.seen["hung"] += 1
        grace_s = self._world.random.uniform(0.5, 3.0)
        self._world.after(grace_s, lambda: self.gone(kernel, container, "hung", "it did not come back"))

    def gone(self, kernel: SimKernel, container: SimContainer, cause: Any, reason: str) -> None:
        """A container has ended, and its memory is back."""
        world = self._world
        if not kernel.alive or kernel.containers.pop(container.id, None) is None:
            return
        kernel.end_zygotes()
        if kernel.reachable:
            _change_credit(kernel, container, container.charged, Size(0))
        else:
            kernel.unheard[container.id] = container.device, container.charged
        world.lanes.container_ended(container)
        for sent in sorted(container.calls):
            if world.random.random() < 0.5:
                world.callers.returned(kernel, sent)
            else:
                world.callers.answer(kernel, sent, Kind.ERROR)
        usage = self._usage(container)
        if kernel.reachable:
            world.lanes.told.usage(container.id, usage)
        event = ContainerEvent(container.id, "gone", cause=cause, reason=reason, lane_usage=usage)
        self.report(kernel, event)


def _host_free(free: dict[str, int]) -> int:
    """As it is told, where 0 means that it is not known."""
    return max(1, free[""]) * MIB


def _devices_free(free: dict[str, int]) -> list[DeviceFree]:
    return [DeviceFree(device, max(0, mb) * MIB) for device, mb in free.items() if device]


def _credit(kernel: SimKernel, free: dict[str, int], now_s: float) -> dict[str, int]:
    """What may still be reserved, going by what is free and by what those that are loading will take yet."""
    credit = dict(free)
    for container in kernel.containers.values():
        if container.state == "creating":
            held = container.held(now_s)
            credit[""] -= max(0, container.charged.host_mb - held.host_mb)
            if container.device:
                credit[container.device] -= max(0, container.charged.device_mb - held.device_mb)
    return credit


def _change_credit(kernel: SimKernel, container: SimContainer, was: Size, now: Size) -> None:
    if kernel.credit is None:
        return
    kernel.credit[""] += was.host_mb - now.host_mb
    if container.device:
        kernel.credit[container.device] += was.device_mb - now.device_mb
