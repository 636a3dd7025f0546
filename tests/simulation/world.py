"""A simulated platform around the real core: callers, kernels and a disk under one clock, driven from one seed.

The core is the unchanged `Switchboard`. The world performs its effects, answers them after random times, breaks things,
and after every step checks what must always hold. A failing seed replays exactly. What belongs to lanes is in `lanes`.
"""

import heapq
import random
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from msgspec import Struct
from tests.simulation.lanes import Lanes
from tests.simulation.records import SimCall, SimContainer, SimKernel

from huterox_connector.core import desired, measured
from huterox_connector.core import effects as asked
from huterox_connector.core import events as happened
from huterox_connector.core.books import sums_of
from huterox_connector.core.config import CoreConfig
from huterox_connector.core.lifecycle import State
from huterox_connector.core.replacer import POLICIES
from huterox_connector.core.switchboard import Switchboard
from huterox_connector.core.vectors import MIB
from huterox_wire.header import pack_header
from huterox_wire.kinds import Flag, Kind
from huterox_wire.leases import DrainMeta
from huterox_wire.meta import AdminMeta, OpenedMeta, OpenMeta
from huterox_wire.nodes import (
    Capacity,
    CloseMeta,
    ContainerEvent,
    ContainerReport,
    CreateMeta,
    HeartbeatMeta,
    LaneUsage,
    RegisteredMeta,
    RegisterMeta,
)

TICK_S = 0.05


class World:
    """One run. `step` advances to the next thing that happens."""

    def __init__(self, seed: int, *, nodes: int = 2, models: int = 5, services: int = 8, trouble: float = 1.0) -> None:
        self.random = random.Random(seed)
        self.now_s = 100.0
        self.trouble = trouble
        self.config = CoreConfig(
            policy=self.random.choice(sorted(POLICIES)),
            calls_max=200,
            calls_per_caller_max=60,
            calls_per_container_max=20,
            waiting_per_group_max=15,
            room_patience_s=3.0,
            node_timeout_s=1.5,
            residency_max_s=5.0,
            backoff_first_s=0.2,
            backoff_max_s=2.0,
        )
        self.epoch = 0
        self.board: Switchboard
        self._stored: dict[str, bytes] = {}
        self.seen: Counter[str] = Counter()
        self.calls: dict[tuple[bytes, int], SimCall] = {}
        self.kernels: dict[bytes, SimKernel] = {}
        self.handles: list[int] = []
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._request_ids = count(1)
        self._boots = count(1)
        self._admin_answers: dict[tuple[bytes, int], Callable[[Struct], None]] = {}
        self._model_versions: dict[str, int] = {}
        self.lanes = Lanes(self)
        self.start_switchboard()
        for number in range(nodes):
            self.start_kernel(f"node{number}")
        for number in range(models):
            self.deploy(f"model{number}")
        for number in range(services):
            self.create(f"service{number}", f"model{number % models}")
        self.after(TICK_S, self._tick)

    def request_id(self) -> int:
        return next(self._request_ids)

    def start_switchboard(self) -> None:
        """A new one, which knows what is on disk. Whoever waited for the old one gives up by himself."""
        self.epoch += 1
        self.board = Switchboard(self.config, self.epoch, clock_offset_s=1e9, started_s=self.now_s)
        seen, unreadable = measured.decode(self._stored)
        assert not unreadable
        self.board.restore(desired.decode(self._stored), seen, [])
        self._admin_answers.clear()
        self.lanes.forget_switchboard()
        self.calls = {}

    # The clock.

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.now_s + delay_s, next(self._order), action))

    def step(self) -> None:
        self.now_s, _, action = heapq.heappop(self._queue)
        action()
        self.check()

    def run(self, duration_s: float) -> None:
        until_s = self.now_s + duration_s
        while self._queue and self._queue[0][0] <= until_s:
            self.step()
        self.now_s = until_s

    def on(self, event: happened.Event) -> None:
        self.perform(self.board.on(event, self.now_s))

    def _tick(self) -> None:
        self.on(happened.Ticked())
        self.after(TICK_S, self._tick)

    # Performing effects.

    def perform(self, effects: list[asked.Effect]) -> None:
        for effect in effects:
            match effect:
                case asked.Forward():
                    self._forward(effect.kernel, effect.route, effect.frames[0])
                case asked.Answer():
                    action = self._admin_answers.pop((effect.caller, effect.request_id), None)
                    if action is not None:
                        action(effect.meta)
                case asked.Refuse():
                    self._refused(effect)
                case asked.Command():
                    self._commanded(effect)
                case asked.CancelCall():
                    self._cancel_arrived(effect)
                case asked.Commit():
                    self._commit(effect)
                case asked.Keep():
                    self._write(effect.writes)
                case asked.Journalled():
                    self.seen[effect.kind] += 1
                case asked.AskKernel():
                    self.lanes.ask_arrived(effect)

    def _refused(self, effect: asked.Refuse) -> None:
        key = (effect.caller, effect.request_id)
        self.seen[effect.error.code] += 1
        self._admin_answers.pop(key, None)
        self.lanes.refused(key, effect.error.code)
        if key in self.calls:
            self._end(key, effect.error.code)

    def _end(self, key: tuple[bytes, int], how: str) -> None:
        call = self.calls[key]
        call.ends.append(how)
        assert len(call.ends) == 1, f"call {key} was answered twice: {call.ends}"
        assert self.now_s <= call.deadline_s + 2 * TICK_S, f"call {key} ended {self.now_s - call.deadline_s} s late"

    def _commit(self, effect: asked.Commit) -> None:
        fails = self.random.random() < 0.05 * self.trouble
        epoch = self.epoch

        def written() -> None:
            if epoch != self.epoch:
                return  # the switchboard ended first, and took its writer along
            if fails:
                self.on(happened.CommitFailed(effect.ticket, "disk full"))
                return
            self._write(effect.writes)
            self.on(happened.Committed(effect.ticket))

        self.after(self.random.uniform(0.0005, 0.01), written)

    def _write(self, writes: Sequence[asked.Write]) -> None:
        for write in writes:
            self._stored.pop(write.key, None)
            if write.value is not None:
                self._stored[write.key] = write.value

    # Kernels.

    def start_kernel(self, name: str) -> SimKernel:
        boot, slots, host_mb = next(self._boots), self.random.randint(1, 4), self.random.choice([512, 1024, 2048])
        kernel = SimKernel(name, f"b{boot}", slots, host_mb, host_id=f"host of {name}")
        self.kernels[kernel.identity] = kernel
        self._beat(kernel)
        return kernel

    def _beat(self, kernel: SimKernel) -> None:
        if not kernel.alive:
            return
        if kernel.reachable and self.random.random() >= 0.05 * self.trouble:
            reports = [self._report(container) for container in kernel.containers.values()]
            if kernel.registered:
                node = self.board.registry.nodes.get(kernel.identity)
                for report in reports:
                    if node is not None and report.container in node.containers:
                        self.lanes.told.usage(report.container, report.lane_usage)
                meta = HeartbeatMeta(kernel.name, kernel.boot, containers=reports)
                self.on(happened.KernelBeat(kernel.identity, meta))
            else:
                self._register(kernel)
        self.after(self.config.heartbeat_s, lambda: self._beat(kernel))

    def _register(self, kernel: SimKernel) -> None:
        reports = [self._report(container) for container in kernel.containers.values()]
        capacity = Capacity(kernel.slots, kernel.host_mb * MIB)
        meta = RegisterMeta(kernel.name, kernel.boot, 1, "host", capacity, reports, host_id=kernel.host_id)
        known = set(self.board.registry.containers)
        effects = self.board.on(happened.KernelRegistered(kernel.identity, meta), self.now_s)
        if kernel.identity in self.board.registry.nodes:  # else another kernel of this name lives
            for report in reports:
                if report.container in known:
                    self.lanes.told.usage(report.container, report.lane_usage)
                else:
                    self.seen["adopted"] += 1
                    self.lanes.told.adopted(report)
        self.perform(effects)

    def _report(self, container: SimContainer) -> ContainerReport:
        state: Any = container.state
        usage = self._usage(container)
        return ContainerReport(
            container.id,
            container.model,
            container.version,
            state,
            host_bytes=container.host_mb * MIB,
            requests=container.routed + sum(totals.calls for totals in usage),
            lanes=len(container.lanes),
            lane_calls=sum(lane.in_flight for lane in container.lanes),
            lane_usage=usage,
        )

    def _usage(self, container: SimContainer) -> list[LaneUsage]:
        return [
            LaneUsage(handle, total.calls, total.errors, total.busy_us, int((self.now_s - total.last_s) * 1e6))
            for handle, total in container.totals.items()
        ]

    def _commanded(self, effect: asked.Command) -> None:
        kernel = self.kernels.get(effect.kernel)
        if kernel is None or not kernel.alive:
            identity = effect.kernel
            self.after(0.0, lambda: self.on(happened.KernelUnreachable(identity)))
            return
        if not kernel.reachable:
            return
        match effect.meta:
            case RegisteredMeta(again=again):
                kernel.registered = not again
            case CreateMeta():
                self._create_container(kernel, effect.meta)
            case DrainMeta():
                self.lanes.drain(kernel, effect.meta.container, effect.meta.service)
            case CloseMeta():
                self.lanes.check_close(effect.meta.container, kernel.containers.get(effect.meta.container))
                self._close_container(kernel, effect.meta.container)

    def _create_container(self, kernel: SimKernel, meta: CreateMeta) -> None:
        spec = meta.model
        container = SimContainer(meta.container, spec.name, spec.version, spec.resources.host_mb)
        kernel.containers[container.id] = container
        used_mb = sum(c.host_mb for c in kernel.containers.values())
        assert len(kernel.containers) <= kernel.slots, (
            f"{kernel.name}: {len(kernel.containers)} in {kernel.slots} slots"
        )
        assert used_mb <= kernel.host_mb, f"{kernel.name}: {used_mb} MiB in {kernel.host_mb}"
        load_s = self.random.expovariate(1 / 0.4)
        if self.random.random() < 0.08 * self.trouble:
            self.after(load_s, lambda: self._gone(kernel, container.id, "load_failed", "ImportError"))
        else:
            self.after(load_s, lambda: self._ready(kernel, container))

    def _ready(self, kernel: SimKernel, container: SimContainer) -> None:
        if kernel.alive and container.id in kernel.containers and container.state == "creating":
            container.state = "ready"
            self.report_event(kernel, ContainerEvent(container.id, "ready", pid=7))

    def report_event(self, kernel: SimKernel, event: ContainerEvent) -> None:
        if kernel.reachable:
            self.on(happened.ContainerReported(kernel.identity, event))

    def _close_container(self, kernel: SimKernel, container_id: int) -> None:
        container = kernel.containers.get(container_id)
        if container is None:
            event = ContainerEvent(container_id, "gone", cause="refused", reason="not known here")
            self.report_event(kernel, event)
        else:
            container.state = "draining"
            self.after(self.random.uniform(0.01, 0.5), lambda: self._gone(kernel, container_id, "closed", "closed"))

    def _gone(self, kernel: SimKernel, container_id: int, cause: Any, reason: str) -> None:
        container = kernel.containers.pop(container_id, None)
        if container is None or not kernel.alive:
            return
        self.lanes.container_ended(container)
        for key in sorted(container.calls):
            if kernel.reachable and self.random.random() < 0.5:
                self.seen["returned"] += 1
                header = pack_header(Kind.CALL, Flag.PACKED, 0, key[1])
                self.on(happened.CallReturned(kernel.identity, key[0], key[1], [header], len(header)))
            else:
                self._answer(kernel, key, Kind.ERROR)
        usage = self._usage(container)
        if kernel.reachable:
            self.lanes.told.usage(container_id, usage)
        self.report_event(kernel, ContainerEvent(container_id, "gone", cause=cause, reason=reason, lane_usage=usage))

    # Calls.

    def call(self, handle: int | None = None) -> None:
        handle = handle if handle is not None else self.random.choice(self.handles or [999])
        caller = b"caller%d" % self.random.randrange(4)
        request_id = next(self._request_ids)
        budget_s = self.random.choice([0.05, 1.0, 10.0])
        header = pack_header(Kind.CALL, Flag.PACKED, 0, request_id, handle, int(budget_s * 1e6))
        self.calls[caller, request_id] = SimCall(caller, request_id, handle, self.now_s + budget_s)
        container = self.board.calls.hit(caller, header, 0, self.now_s)
        if container is not None:
            assert container.state is State.READY
            self._forward(container.node.identity, container.route_prefix + caller, header)
            return
        self.on(happened.CallMissed(caller, request_id, handle, int(budget_s * 1e6), [header], len(header)))

    def _forward(self, identity: bytes, route: bytes, header: bytes) -> None:
        caller, request_id = route[8:], int.from_bytes(header[8:16], "little")
        key = (caller, request_id)
        kernel = self.kernels.get(identity)
        self.seen["forwarded"] += 1
        self.lanes.told.routed[self.calls[key].handle] += 1
        self.lanes.told.hits[int.from_bytes(route[:8], "little")] += 1
        if kernel is None or not kernel.alive:
            gone = self.random.random() < 0.8
            self.on(happened.CallUndeliverable(caller, request_id, [header], len(header), gone))
            self.after(0.0, lambda: self.on(happened.KernelUnreachable(identity)))
            return
        if not kernel.reachable:
            return
        container = kernel.containers.get(int.from_bytes(route[:8], "little"))
        if container is None or (container.state == "draining" and self.random.random() < 0.5):
            self.seen["returned"] += 1
            self.on(happened.CallReturned(kernel.identity, caller, request_id, [header], len(header)))
            return
        assert container.state in ("ready", "draining"), "a call came to a container that is not ready"
        container.calls.add(key)
        container.routed += 1
        self.after(self.random.expovariate(1 / 0.05), lambda: self._served(kernel, container, key))

    def _served(self, kernel: SimKernel, container: SimContainer, key: tuple[bytes, int]) -> None:
        if kernel.alive and container.id in kernel.containers and key in container.calls:
            container.calls.discard(key)
            self._answer(kernel, key, Kind.REPLY)

    def _answer(self, kernel: SimKernel, key: tuple[bytes, int], kind: Kind) -> None:
        if not kernel.reachable:
            return
        header = pack_header(kind, Flag.PACKED, 0, key[1], 0, 1000)
        call = self.board.calls.answered(kernel.identity, key[0], header)
        if call is not None:
            self._end(key, kind.name)
            if call.container.state is State.DRAINING and not call.container.in_flight:
                self.on(happened.ContainerDrained(call.container.id))

    def _cancel_arrived(self, effect: asked.CancelCall) -> None:
        kernel = self.kernels.get(effect.kernel)
        container = kernel.containers.get(int.from_bytes(effect.route[:8], "little")) if kernel else None
        key = (effect.route[8:], effect.request_id)
        if kernel is not None and container is not None and key in container.calls:
            container.calls.discard(key)
            self._answer(kernel, key, Kind.ERROR)

    def cancel_one(self) -> None:
        open_calls = [call for call in self.calls.values() if not call.ends]
        if open_calls:
            call = self.random.choice(open_calls)
            self.on(happened.CallCancelled(call.caller, call.request_id))

    # The operator.

    def admin(self, verb: str, on_answer: Callable[[Any], None] = lambda _: None, **args: Any) -> None:
        request_id = next(self._request_ids)
        self._admin_answers[b"operator", request_id] = on_answer
        self.on(happened.AdminRequested(b"operator", request_id, AdminMeta(verb, args)))

    def deploy(self, name: str) -> None:
        version = self._model_versions[name] = self._model_versions.get(name, 0) + 1
        host_mb = self.random.choice([64, 200, 500, 900])
        spec = {"name": name, "version": str(version), "entry": "m.py:M", "resources": {"host_mb": host_mb}}
        spec["idle_timeout_s"] = self.random.choice([2.0, 600.0])
        self.admin("deploy", model=spec)

    def create(self, name: str, model: str) -> None:
        tier = self.random.choice(["shared"] * 6 + ["pinned", "dedicated"])
        caller, request_id = b"opener", next(self._request_ids)

        def opened(meta: Struct) -> None:
            assert isinstance(meta, OpenedMeta)
            self.handles.append(meta.handle)

        def created(_: Struct) -> None:
            self._admin_answers[caller, request_id] = opened
            self.on(happened.OpenRequested(caller, request_id, OpenMeta(name)))

        self.admin("create", created, name=name, model=model, tier=tier)

    # Trouble.

    def disturb(self) -> None:
        """One random thing."""
        kernels = [kernel for kernel in self.kernels.values() if kernel.alive]
        choice = self.random.random()
        if choice < 0.55 or not self.trouble:
            self.call()
        elif choice < 0.65:
            self.lanes.lease()
        elif choice < 0.88:
            self.lanes.call()
        elif choice < 0.9:
            self.lanes.caller_dies()
        elif choice < 0.92:
            self.cancel_one()
        elif choice < 0.935 and self.board.registry.containers:
            victim = self.random.choice(list(self.board.registry.containers.values()))
            self.admin("evict", container=victim.title)
        elif choice < 0.95 and kernels:
            kernel = self.random.choice(kernels)
            if kernel.containers:
                self._gone(kernel, self.random.choice(sorted(kernel.containers)), "crashed", "killed by SIGKILL")
        elif choice < 0.96 and kernels:
            self._kill_kernel(self.random.choice(kernels))
        elif choice < 0.97 and kernels:
            kernel = self.random.choice(kernels)
            kernel.reachable = False
            self.after(self.random.uniform(0.1, 4.0), lambda: setattr(kernel, "reachable", True))
        elif 0.97 <= choice < 0.976:
            self.seen["restart"] += 1
            self.start_switchboard()
        elif choice < 0.98:
            self.deploy(self.random.choice(sorted(self._model_versions)))
        else:
            self._change_services()

    def _kill_kernel(self, kernel: SimKernel) -> None:
        kernel.alive = False
        self.lanes.kernel_died(kernel)
        self.after(self.random.uniform(0.1, 3.0), lambda: self.start_kernel(kernel.name) and None)

    def _change_services(self) -> None:
        registry = self.board.registry
        if registry.services and self.random.random() < 0.5:
            service = self.random.choice(list(registry.services.values()))
            self.admin("delete", name=service.name, tenant=service.tenant)
        else:
            self.create(f"late{next(self._request_ids)}", self.random.choice(sorted(self._model_versions)))

    # What must always hold.

    def check(self) -> None:
        registry = self.board.registry
        for node in registry.nodes.values():
            assert (node.present, node.staying) == sums_of(node), f"{node.name}: the sums are wrong"
            assert not node.capacity.less(node.present).overdrawn, (
                f"{node.name} holds {node.present} of {node.capacity}"
            )
            assert not node.capacity.less(node.staying).overdrawn, f"{node.name} is promised {node.staying}"
        for group in registry.groups.values():
            coming = [
                c
                for c in registry.containers.values()
                if c.group is group and c.state in (State.PLANNED, State.CREATING, State.READY)
            ]
            assert len(coming) <= group.model.spec.replicas_max, f"{group.key} is loaded {len(coming)} times"
            assert sum(c.state is not State.READY for c in coming) <= 1, f"{group.key} is loading more than once"
            assert {c.id for c in group.ready} == {c.id for c in coming if c.state is State.READY}
        for group in registry.groups.values():
            held = any(container.group is group for container in registry.containers.values())
            assert group.services or held or group.key[1] == 0, f"{group.key} serves nobody"
        for service in registry.services.values():
            assert service.in_flight >= 0
        in_flight = Counter(call.container.id for call in self.board.calls._table.values())
        for container in registry.containers.values():
            assert container.in_flight == in_flight[container.id]
        self.lanes.check()
        overdue = [c for c in self.calls.values() if not c.ends and c.deadline_s + 2 * TICK_S < self.now_s]
        assert not overdue, f"{len(overdue)} calls were never answered, e.g. {overdue[0]}"
        self.calls = {key: call for key, call in self.calls.items() if not call.ends or call.deadline_s > self.now_s}

    def check_settled(self) -> None:
        """Long after the last disturbance: nothing has been leaving for longer than lost orders take to be repeated."""
        for container in self.board.registry.containers.values():
            if container.state in (State.DRAINING, State.CLOSING):
                since_s = float(container.history[-1].rpartition(" ")[2])
                assert self.now_s - since_s < self.config.order_again_s + 2.0, f"{container.title} does not leave"
