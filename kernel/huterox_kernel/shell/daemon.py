"""The kernel's daemon: the loop, the timers, and the hands of the core."""

import asyncio
import logging
import os
import signal
import socket
import time
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, assert_never

from huterox_kernel.config import MIB, KernelConfig, node_name
from huterox_kernel.core.contact import Contact
from huterox_kernel.core.effects import (
    AdmitCalls,
    AskToClose,
    AwaitMemory,
    Discard,
    DrainLanes,
    Effect,
    Exit,
    FailCalls,
    KillWorker,
    Note,
    PromiseLane,
    RefuseCalls,
    RefuseLane,
    Register,
    Report,
    StartWorker,
    TellCalls,
)
from huterox_kernel.core.events import (
    Event,
    FootprintMeasured,
    MemoryReturned,
    ShutdownOrdered,
    StartFailed,
    Ticked,
    WorkerBroken,
    WorkerHung,
    WorkerReady,
)
from huterox_kernel.core.hangs import Hangs, together
from huterox_kernel.core.leases import LeaseLimits, LeaseTable
from huterox_kernel.core.supervisor import Supervisor
from huterox_kernel.descriptors import lanes_that_fit
from huterox_kernel.shell import probes, strays
from huterox_kernel.shell.devices import limited, open_driver
from huterox_kernel.shell.lanes import Lanes
from huterox_kernel.shell.leases import Leases
from huterox_kernel.shell.link import Link
from huterox_kernel.shell.logs import Logs
from huterox_kernel.shell.memory import NOTHING, Memory
from huterox_kernel.shell.processes import Identity
from huterox_kernel.shell.reports import Reports
from huterox_kernel.shell.requests import Requests
from huterox_kernel.shell.resident import Tree
from huterox_kernel.shell.workers import Worker, Workers
from huterox_kernel.shell.zygotes import ZygoteConfig, Zygotes
from huterox_shm.errors import ShmError
from huterox_shm.handover import Tokens
from huterox_shm.lane import LaneConfig
from huterox_wire.nodes import Capacity, ContainerEvent, ModelSpec

_log: Final = logging.getLogger("huterox.kernel")

TICK_S_MAX: Final = 60.0
LOOK_S: Final = 1.0
"""At zygotes, for hung workers, for an answer of the switchboard, and at the path where lanes are fetched."""


class Daemon:
    """One node's kernel. `run` returns when it has been told to end and nothing is left.

    Args:
        lane_socket: where callers fetch lanes, listening; taken over. None: they have none.
    """

    def __init__(self, config: KernelConfig, loop: AbstractEventLoop, lane_socket: socket.socket | None) -> None:
        self._config = config
        self._loop = loop
        self._node, self._boot = node_name(config), os.urandom(8).hex()
        driver, devices = open_driver(config.devices)
        self._memory = Memory(loop, driver, [device.id for device in devices])
        capacity = Capacity(config.slots, _host_bytes(config), limited(devices, config.device_mb))
        self._supervisor = Supervisor(
            capacity,
            close_grace_s=config.close_grace_s,
            heartbeat_s=config.heartbeat_s,
            return_timeout_s=config.memory_return_timeout_s,
        )
        self._logs = Logs(Path(config.dir) / "logs", config.log_mb_max * MIB, config.log_files_max)
        identity = f"{self._node}:{self._boot}".encode()
        self._link = Link(loop, config.switchboard, identity, config.batch_max, config.outbox_max)
        self._lanes = self._make_lanes()
        self._workers = self._make_workers()
        self._leases = Leases(
            loop,
            self._link,
            _lease_table(config),
            lane_socket,
            config.lease_uids,
            self._workers.post,
            self._feed,
        )
        self._zygotes = self._make_zygotes(capacity)
        self._contact = Contact(config.switchboard, time.monotonic())
        self._requests = Requests(self._link, self._lanes, self._logs, self._contact, self._feed)
        self._reports = Reports(
            self._node,
            self._boot,
            capacity,
            self._supervisor,
            self._link,
            self._lanes,
            self._leases,
            self._memory,
            self._base_bytes,
        )
        self._hangs = Hangs(config.hang_grace_s, config.drain_grace_s)
        self._ordered_s: dict[int, float] = {}  # of containers that are not ready yet
        self._queue: list[Event] = []
        self._feeding = False
        self._tick_timer: TimerHandle | None = None
        self._exit = loop.create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._telling_base: asyncio.Task[None] | None = None  # the newest; it may have ended

    def _make_lanes(self) -> Lanes:
        config = self._config
        half_nbytes = config.lane_half_mb * MIB
        return Lanes(
            self._loop,
            self._link,
            LaneConfig(config.lane_ring_entries, half_nbytes, half_nbytes),
            config.busy_retry_after_s,
            lambda container, reason: self._feed(WorkerBroken(container, reason)),
        )

    def _make_workers(self) -> Workers:
        config = self._config
        return Workers(
            self._loop,
            self._logs,
            config.torch_threads,
            config.worker_spin_us,
            config.exit_report_timeout_s,
            self._feed,
            self._on_worker_ready,
            lambda interpreter, imported: self._zygotes.learn(interpreter, imported),
            self._on_worker_exit,
            lambda container, message: self._leases.on_worker(container, message),
        )

    def _make_zygotes(self, capacity: Capacity) -> Zygotes:
        return Zygotes(
            self._loop,
            self._workers,
            self._logs,
            _zygote_config(self._config),
            self._supervisor.is_loading,
            self._supervisor.is_changing,
            lambda: capacity.host_bytes - self._base_bytes() - self._supervisor.charged_bytes(),
            self._on_zygotes_changed,
        )

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then close all containers."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._on_signal, signal.Signals(number).name)
        self._link.start(self._requests)
        self._leases.start()
        self._zygotes.warm()
        _log.info("node %s, boot %s, for %s", self._node, self._boot, self._config.switchboard)
        self._every(lambda: self._supervisor.heartbeat_s, self._reports.beat)
        self._every(lambda: self._config.footprint_period_s, self._look_around)
        self._every(lambda: LOOK_S, self._look)  # in one: each that sleeps by itself is one more to wake
        try:
            await self._exit
        finally:
            self._close()

    def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tick_timer is not None:
            self._tick_timer.cancel()
        self._leases.close()
        self._lanes.close()
        self._zygotes.close()
        self._logs.close()
        self._link.close()
        self._memory.close()
        strays.end_all_children()

    def _on_signal(self, name: str) -> None:
        _log.info("%s: closing all containers", name)
        self._feed(ShutdownOrdered(f"the kernel was told to end by {name}"))

    # The core's hands.

    def _feed(self, event: Event) -> None:
        """Give the core an event and do what it asks for. Events that come up meanwhile wait for their turn."""
        self._queue.append(event)
        if self._feeding:
            return
        self._feeding = True
        try:
            while self._queue:
                for effect in self._supervisor.on(self._queue.pop(0), time.monotonic()):
                    self._perform(effect)
        finally:
            self._feeding = False
        self._arm_tick()

    def _perform(self, effect: Effect) -> None:
        match effect:
            case StartWorker(container=container, model=model, device=device):
                self._start_worker(container, model, device)
            case AdmitCalls(container=container):
                self._lanes.admit(container)
                self._leases.admit(container)
            case RefuseCalls(container=container):
                self._lanes.refuse(container)
                self._leases.refuse(container)
            case PromiseLane(meta=meta, asked=asked):
                self._leases.promise(meta, asked)
            case RefuseLane(asked=asked, error=error):
                self._leases.refuse_asked(asked, error)
            case DrainLanes(container=container, service=service):
                if not service:
                    self._hangs.drain(container, time.monotonic())
                self._leases.drain_service(container, service) if service else self._leases.drain(container)
            case AskToClose(container=container):
                self._leases.drain(container)
                self._workers.ask_to_close(container)
            case KillWorker(container=container):
                self._workers.kill(container, self._zygotes)
            case AwaitMemory(container=container, pid=pid):
                self._spawn(self._await_memory(container, pid))
            case Discard(container=container):
                self._discard(container)
            case FailCalls(container=container, reason=reason):
                self._leases.end(container)
                self._lanes.fail_calls(container, reason)
            case Report(event=event):
                self._report(event)
            case Register():
                self._spawn(self._reports.register())
            case TellCalls():
                self._spawn(self._reports.beat(with_calls=True))
            case Note(text=text):
                _log.warning("%s", text)
            case Exit():
                if not self._exit.done():
                    self._exit.set_result(None)
            case _:
                assert_never(effect)

    def _start_worker(self, container: int, model: ModelSpec, device: str) -> None:
        self._reports.begin(container)
        self._ordered_s[container] = time.monotonic()
        if device:
            self._memory.watch(container, device)
            self._spawn(self._memory.look_before(container))
        with ExitStack() as given:
            try:
                lane = self._lanes.open(container)
                given.callback(lane.close)
                ledger = self._leases.open(container)
                given.callback(os.close, ledger)
            except (ShmError, OSError) as exc:
                self._feed(StartFailed(container, f"no lane can be made: {exc}", is_nodes_fault=True))
                return
            try:
                self._workers.start(container, model, device, lane, ledger, self._zygotes)
            except OSError as exc:
                self._feed(StartFailed(container, f"no worker can be made: {exc}", is_nodes_fault=True))

    def _discard(self, container: int) -> None:
        self._reports.end(container)
        self._ordered_s.pop(container, None)
        self._hangs.forget(container)
        self._leases.discard(container)
        self._lanes.discard(container)
        self._workers.discard(container)

    def _report(self, event: ContainerEvent) -> None:
        if event.what == "ready":
            self._zygotes.end_load(event.container, True)
        elif event.what == "gone":
            self._zygotes.end_load(event.container, None if event.cause == "closed" else False)
            self._memory.forget(event.container)
        self._reports.tell(event)

    def _arm_tick(self) -> None:
        if self._tick_timer is not None:
            self._tick_timer.cancel()
            self._tick_timer = None
        deadline_s = self._supervisor.next_deadline_s()
        if deadline_s is not None:
            delay_s = min(max(deadline_s - time.monotonic(), 0.0), TICK_S_MAX)
            self._tick_timer = self._loop.call_later(delay_s, self._feed, Ticked())

    def _on_worker_exit(self, container: int) -> None:
        self._lanes.stop(container)
        self._leases.refuse(container)

    def _on_worker_ready(self, worker: Worker, taken_s: float, timings_s: dict[str, float]) -> None:
        """What the stages took, and before them the way to a zygote, which may have had to start first."""
        waited_s = max(taken_s - self._ordered_s.pop(worker.container, taken_s), 0.0)
        self._spawn(self._measure_ready(worker.container, worker.identity, {"zygote": waited_s, **timings_s}))

    async def _measure_ready(self, container: int, identity: Identity | None, timings_s: dict[str, float]) -> None:
        begun_s = time.monotonic()
        if self._telling_base is not None:  # whoever gives out more memory now must know of the base
            await asyncio.wait([self._telling_base])
        held = await self._memory.measure(Tree(container, identity)) if identity is not None else NOTHING
        timings_s = {**timings_s, "measure": time.monotonic() - begun_s}
        self._feed(WorkerReady(container, timings_s, held.host_bytes, held.device_bytes))

    async def _await_memory(self, container: int, pid: int) -> None:
        if await self._memory.await_return(container, pid, self._config.memory_return_timeout_s):
            self._feed(MemoryReturned(container))

    # What is done again and again.

    def _every(self, period_s: Callable[[], float], action: Callable[[], Any]) -> None:
        self._spawn(self._repeat(period_s, action))

    async def _repeat(self, period_s: Callable[[], float], action: Callable[[], Any]) -> None:
        while True:
            await asyncio.sleep(period_s())
            try:
                result = action()
                if asyncio.iscoroutine(result):
                    await result
            except Exception:  # noqa: BLE001 - what failed now, such as a full descriptor table, may go well the next time
                _log.exception("a periodic task failed")

    def _spawn(self, coroutine: Any) -> asyncio.Task[None]:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _measure_all(self) -> None:
        held = await self._memory.measure_all(sorted(self._zygotes.pids()), self._workers.trees())
        self._zygotes.measured(self._memory.zygotes)
        for container, (host_bytes, device_bytes) in held.items():
            self._feed(FootprintMeasured(container, host_bytes, device_bytes))

    def _base_bytes(self) -> int:
        """What is charged to the node: what zygotes and workers share, and what zygotes will take yet."""
        return self._memory.base_bytes + self._zygotes.promised_bytes()

    def _on_zygotes_changed(self) -> None:
        """A zygote has come, and takes orders; or one has gone: what is promised next must know of it."""
        self._telling_base = self._spawn(self._tell_base())

    async def _tell_base(self) -> None:
        await self._measure_all()
        await self._reports.beat()

    async def _look_around(self) -> None:
        await self._measure_all()
        self._lanes.trim_idle()
        strays.tidy(self._zygotes.pids() | self._workers.pids(), self._workers.marks())

    def _look(self) -> None:
        self._look_at_zygotes()
        self._look_for_hangs()
        self._look_for_contact()
        self._leases.look()

    def _look_for_hangs(self) -> None:
        now_s = time.monotonic()
        for container in self._supervisor.serving():
            own = self._lanes.sight(container)
            if own is not None:
                sight = together([own, *self._leases.sights(container)])
                if reason := self._hangs.look(container, sight, now_s):
                    self._feed(WorkerHung(container, reason))

    def _look_for_contact(self) -> None:
        if text := self._contact.look(time.monotonic(), self._supervisor.heartbeat_s):
            _log.warning("%s", text)

    def _look_at_zygotes(self) -> None:
        self._zygotes.look(time.monotonic())


def _lease_table(config: KernelConfig) -> LeaseTable:
    limits = LeaseLimits(
        config.lease_half_mb,
        config.lease_half_mb_max,
        config.lease_ring_entries,
        min(config.lease_lanes_max, lanes_that_fit()),
        config.lease_token_s,
    )
    return LeaseTable(limits, Tokens(config.lease_token_s))


def _zygote_config(config: KernelConfig) -> ZygoteConfig:
    return ZygoteConfig(
        config.preload,
        config.preload_learned,
        Path(config.dir) / "preloads.json",
        config.torch_threads,
        config.zygote_start_timeout_s,
        config.preload_timeout_s,
        config.zygote_idle_s,
    )


def _host_bytes(config: KernelConfig) -> int:
    return config.host_mb * MIB if config.host_mb else int(probes.host_bytes_total() * config.host_share)
