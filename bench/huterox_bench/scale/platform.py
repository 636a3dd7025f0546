"""A platform of many nodes around the real core: kernels that do at once, or after a load time, what they are told.

Nothing here is random but what is asked for, and time is simulated: only the core's own time is measured.
"""

import heapq
from collections.abc import Callable
from functools import partial
from itertools import count
from random import Random
from typing import Any, Final

from huterox_bench.scale.clocked import Clocked
from huterox_bench.scale.shape import HOST_MB, SLOTS, Shape
from huterox_connector.core import effects as asked
from huterox_connector.core import events as happened
from huterox_connector.core.config import CoreConfig
from huterox_connector.core.switchboard import Switchboard
from huterox_connector.core.term import Term
from huterox_connector.core.vectors import MIB
from huterox_wire.header import pack_header
from huterox_wire.kinds import Flag, Kind
from huterox_wire.leases import DrainMeta
from huterox_wire.meta import AdminMeta
from huterox_wire.nodes import (
    Capacity,
    CloseMeta,
    ContainerEvent,
    ContainerReport,
    CreateMeta,
    HeartbeatMeta,
    RegisterMeta,
)

TICK_S: Final = 0.25
LOAD_S: Final = 1.0
CALL_S: Final = 0.02
CLOSE_S: Final = 0.1
BUDGET_S: Final = 20.0
OPERATOR: Final = b"operator"


class Kernel:
    """What one node runs, as its heartbeats tell it."""

    def __init__(self, number: int) -> None:
        self.name = f"node{number}"
        self.identity = f"{self.name}:b1".encode()
        self.reports: dict[int, ContainerReport] = {}


class Platform:
    """Switchboard, kernels and callers under one clock."""

    def __init__(self, shape: Shape, clocked: Clocked) -> None:
        self.shape = shape
        self.now_s = 1000.0
        self.clocked = clocked
        self.random = Random(shape.seed)
        self.config = CoreConfig()
        self.board = Switchboard(self.config, Term(1, mark=1), 0.0, self.now_s)
        self.kernels = {kernel.identity: kernel for kernel in map(Kernel, range(shape.nodes))}
        self._answers: list[Any] = []
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order, self._request_ids = count(), count(1)

    # Time.

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.now_s + delay_s, next(self._order), action))

    def run(self, duration_s: float) -> None:
        until_s = self.now_s + duration_s
        while self._queue and self._queue[0][0] <= until_s:
            self.now_s, _, action = heapq.heappop(self._queue)
            action()
        self.now_s = until_s

    def decide(self, event: happened.Event, kind_of: Callable[[list[asked.Effect]], str]) -> None:
        """One decision of the core, measured, and what follows from it."""
        self._perform(self.clocked.time(self.board.on, event, self.now_s, kind_of=kind_of))

    # Beginning.

    def build(self) -> None:
        """Nodes register, models are deployed, services are made."""
        for kernel in self.kernels.values():
            meta = RegisterMeta(kernel.name, "b1", 1, "host", Capacity(SLOTS, HOST_MB * MIB), [])
            self.decide(happened.KernelRegistered(kernel.identity, meta), lambda _: "register")
            self.after(self.random.uniform(0.0, self.config.heartbeat_s), partial(self._beat, kernel))
        for number in range(self.shape.models):
            self.ask("deploy", model=self.shape.model(number, self.random))
        for number in range(self.shape.services):
            model = f"model{number % self.shape.models}"
            self.ask("create", name=f"service{number}", model=model, tenant=f"tenant{number % 100}")
        self.after(TICK_S, self._tick)

    def ask(self, verb: str, **args: Any) -> Any:
        """A verb of the operator's; its commit is on disk at once. Returns the answer."""
        self._answers.clear()
        event = happened.AdminRequested(OPERATOR, next(self._request_ids), AdminMeta(verb, args))
        self.decide(event, lambda _: f"verb {verb}")
        return self._answers[0].result if self._answers else None

    # Kernels.

    def _beat(self, kernel: Kernel) -> None:
        reports = list(kernel.reports.values())
        free = HOST_MB * MIB - sum(report.host_bytes for report in reports)
        meta = HeartbeatMeta(kernel.name, "b1", free, reports)
        self.decide(happened.KernelBeat(kernel.identity, meta), lambda _: "heartbeat")
        self.after(self.config.heartbeat_s, lambda: self._beat(kernel))

    def lose_nodes(self, count: int) -> None:
        """So many kernels end."""
        for identity in list(self.kernels)[:count]:
            self.decide(happened.KernelUnreachable(identity), lambda _: "node lost")

    def _tick(self) -> None:
        self.decide(happened.Ticked(), lambda _: "tick")
        self.after(TICK_S, self._tick)

    def _report(self, kernel: Kernel, event: ContainerEvent) -> None:
        self.decide(happened.ContainerReported(kernel.identity, event), lambda _: f"report {event.what}")

    def _perform(self, effects: list[asked.Effect]) -> None:
        for effect in effects:
            match effect:
                case asked.Command():
                    self._commanded(self.kernels[effect.kernel], effect.meta)
                case asked.Forward():
                    request_id = int.from_bytes(effect.frames[0][8:16], "little")
                    self._served(self.kernels[effect.kernel], effect.route, request_id)
                case asked.Commit():
                    self.decide(happened.Committed(effect.ticket), lambda _: "verb is written")
                case asked.Answer():
                    self._answers.append(effect.meta)

    def _commanded(self, kernel: Kernel, order: Any) -> None:
        match order:
            case CreateMeta():
                self._create_container(kernel, order)
            case DrainMeta():
                drained = ContainerEvent(order.container, "drained")
                self.after(0.001, lambda: self._report(kernel, drained))
            case CloseMeta():
                self.after(CLOSE_S, lambda: self._gone(kernel, order.container))

    def _create_container(self, kernel: Kernel, order: CreateMeta) -> None:
        report = ContainerReport(order.container, order.model.name, order.model.version, "creating")
        kernel.reports[order.container] = report

        def ready() -> None:
            if order.container in kernel.reports:
                report.state, report.host_bytes = "ready", order.host_bytes
                event = ContainerEvent(order.container, "ready", pid=1, host_bytes=order.host_bytes)
                event.timings_s = {"load": LOAD_S}
                self._report(kernel, event)

        self.after(LOAD_S * self.random.uniform(0.5, 1.5), ready)

    def _gone(self, kernel: Kernel, container: int) -> None:
        if kernel.reports.pop(container, None) is not None:
            self._report(kernel, ContainerEvent(container, "gone", cause="closed", reason="closed"))

    # Calls.

    def call(self, handle: int) -> None:
        """One call, as the shell passes it on: a hit first, else a fault."""
        request_id = next(self._request_ids)
        caller = b"caller%d" % (request_id % 64)
        header = pack_header(Kind.CALL, Flag.PACKED, 0, request_id, handle, int(BUDGET_S * 1e6))
        calls = self.board.calls
        call = self.clocked.time(
            calls.hit, caller, header, 0, self.now_s, kind_of=lambda found: "hit" if found else "no hit"
        )
        if call is not None:
            self._served(self.kernels[call.container.node.identity], call.route, request_id)
            return
        frames = [header]
        event = happened.CallMissed(caller, request_id, handle, int(BUDGET_S * 1e6), frames, len(header))
        self.decide(event, kind_of_fault)

    def _served(self, kernel: Kernel, route: bytes, request_id: int) -> None:
        def answer() -> None:
            header = pack_header(Kind.REPLY, Flag.PACKED, 0, request_id, 0, 1000)
            call = self.clocked.time(
                self.board.calls.answered, kernel.identity, route, header, kind_of=lambda _: "answer"
            )
            if call is not None and not call.container.in_flight and call.container.state == "draining":
                self.decide(happened.ContainerDrained(call.container.id), lambda _: "report drained")

        self.after(CALL_S, answer)


def kind_of_fault(effects: list[asked.Effect]) -> str:
    """What a call without a container led to."""
    loads = [effect for effect in effects if isinstance(effect, asked.Journalled) and effect.kind == "load"]
    if loads:
        return "fault: somebody leaves" if loads[0].details.get("makes_leave") else "fault: room is free"
    refused = any(isinstance(effect, asked.Refuse) for effect in effects)
    return "fault: refused" if refused else "fault: waits"
