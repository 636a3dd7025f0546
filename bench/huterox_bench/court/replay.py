"""Replays a trace through the real core: the unchanged `Switchboard`, simulated kernels, a simulated clock.

Problem: a policy is judged by what it costs, and that depends on all that stands around it: guards, drains, loads that
take their time, calls that join them. Idea: leave all of that in place, and replace only what is outside of the core:
callers by the trace, kernels by ones that take the trace's times, the clock by an agenda. What happens is found event
by event; ticks and heartbeats come when they can change something, so that an idle day costs as much as an idle second.

Each tenant has one service for each model that it calls, and is one caller. Nothing is random. Not replayed: failures
of any kind, lanes, devices, foreign use of memory; loads do not slow each other down.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import ceil, inf
from typing import Final, assert_never

import msgspec

from huterox_bench.court.agenda import Agenda
from huterox_bench.court.kernel import ReplayedCall, SimKernel, Way
from huterox_bench.court.opt import Future, Opt
from huterox_bench.court.tally import Tally, Verdict, percentile
from huterox_bench.court.traces import Request, Trace
from huterox_connector.core import effects as asked
from huterox_connector.core import events as happened
from huterox_connector.core.config import CoreConfig
from huterox_connector.core.lifecycle import State
from huterox_connector.core.records import Group
from huterox_connector.core.replacer import POLICIES, Replacer
from huterox_connector.core.switchboard import Switchboard
from huterox_connector.core.term import Term
from huterox_connector.core.vectors import MIB
from huterox_wire.errors import Fault
from huterox_wire.header import pack_header
from huterox_wire.kinds import Kind
from huterox_wire.meta import AdminMeta
from huterox_wire.nodes import Capacity, ModelSpec, RegisterMeta, Resources
from huterox_wire.route import ROUTE

TICK_S: Final = 0.1
"""As often as the daemon looks at the time while something waits for it."""
SWEEPS: Final = 2
"""Windows after a call until its accessed bit has been cleared."""
NEVER_S: Final = 1e9
PROGRESS_STEPS: Final = 100

REPLAYED: Final = (*POLICIES, "opt")
"""The policies that a trace can be replayed with."""

Progress = Callable[[float], None]
"""Is told which share of the trace has been replayed."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Of a replay, beside the trace and the policy. `capacity_mb` and `slots`: what each node has for containers."""

    capacity_mb: float
    nodes: int = 1
    slots: int | None = None  # None: enough for all
    replicas_max: int = 1
    idle_timeout_s: float = NEVER_S  # so that only the policy closes anything
    unload_s: float = 0.1  # from CLOSE until the memory is back
    core: CoreConfig = field(default_factory=CoreConfig)


def replay(trace: Trace, policy: str, settings: Settings, progress: Progress = lambda _: None) -> tuple[Verdict, Tally]:
    """Send the whole trace through the core. `policy`: one of `REPLAYED`."""
    run = Replay(trace, policy, settings)
    run.run(progress)
    return run.verdict(), run.tally


class Replay:
    """One run."""

    def __init__(self, trace: Trace, policy: str, settings: Settings) -> None:
        self.tally = Tally()
        self._trace = trace
        self._policy = policy
        self._settings = settings
        self._future = Future(trace)
        self._agenda = agenda = Agenda(trace.requests[0].time_s)
        self._numbers = {model: number for number, model in enumerate(trace.models)}
        core = settings.core  # calls queue at the workers, who alone know in which order they are served here
        config = msgspec.structs.replace(core, policy=policy, turn_calls_max=core.calls_per_container_max)
        self._timeout_s = config.call_timeout_s
        self._window_s = config.accessed_window_s
        self._heartbeat_s = config.heartbeat_s
        replacers: Mapping[str, Callable[[], Replacer]] = {**POLICIES, "opt": lambda: Opt(self._future)}
        self.board = Switchboard(config, Term(1, mark=1), 0.0, agenda.now_s, replacers=replacers)
        self._kernels = {
            kernel.identity: kernel
            for kernel in (
                SimKernel(f"node{number}", trace.models, settings.unload_s, agenda, self._on, self._served)
                for number in range(settings.nodes)
            )
        }
        self._callers: dict[str, bytes] = {}
        self._handles: dict[tuple[str, str], int] = {}
        self._open: dict[int, ReplayedCall] = {}
        self._by_deadline: deque[ReplayedCall] = deque()  # all have the same time: the oldest is due first
        self._lines: dict[str, int] = {}  # calls that wait for a container, by model
        self._beat_s = self._looked_s = agenda.now_s
        self._swept_s = agenda.now_s
        self._sweeps_due = 0
        self._set_up()

    # Before the first call.

    def _set_up(self) -> None:
        enough = 2 * len(self._trace.models) * self._settings.replicas_max  # while some leave, others come
        capacity = Capacity(self._settings.slots or enough, int(self._settings.capacity_mb * MIB))
        for kernel in self._kernels.values():
            self._on(
                happened.KernelRegistered(kernel.identity, RegisterMeta(kernel.name, "replay", 1, "host", capacity))
            )
        for model, cost in self._trace.models.items():
            spec = ModelSpec(
                name=model,
                entry="replayed",
                idle_timeout_s=self._settings.idle_timeout_s,
                load_timeout_s=max(120.0, 2 * cost.load_s),
                replicas_max=self._settings.replicas_max,
                resources=Resources(host_mb=ceil(cost.size_mb)),
            )
            self._admin("deploy", model=spec)
        for tenant, model in dict.fromkeys((request.tenant, request.model) for request in self._trace.requests):
            self._admin("create", name=model, model=model, tenant=tenant)
            self._handles[tenant, model] = self.board.registry.service(tenant, model).id
            self._callers.setdefault(tenant, tenant.encode())

    def _admin(self, verb: str, **args: object) -> None:
        self._on(happened.AdminRequested(b"operator", 0, AdminMeta(verb, args)))

    # Time.

    def run(self, progress: Progress) -> None:
        """All calls, until the last has ended."""
        requests = self._trace.requests
        step = max(1, len(requests) // PROGRESS_STEPS)
        for number, request in enumerate(requests):
            if number % step == 0:
                progress(number / len(requests))
            self._pass_time(request.time_s)
            self._arrive(number, request)
        while self._open:
            self._pass_time(min(self._agenda.next_s, self._next_look_s()))
        progress(1.0)

    def _pass_time(self, until_s: float) -> None:
        """All that happens before `until_s`, and at it."""
        agenda = self._agenda
        while True:
            next_s, look_s = agenda.next_s, self._next_look_s()
            if min(next_s, look_s) > until_s:
                break
            if look_s < next_s:
                agenda.now_s = look_s
                self._look()
            else:
                agenda.step()
        if until_s < inf:
            agenda.now_s = until_s

    def _next_look_s(self) -> float:
        """When time alone may change something: the next tick, while calls wait for room; else what is due first."""
        due_s = inf
        if self._sweeps_due and self._settings.replicas_max > 1:  # who uses a model says how many replicas it gets
            due_s = self._swept_s + self._window_s
        by_deadline = self._by_deadline
        while by_deadline and by_deadline[0].ended:
            by_deadline.popleft()
        if by_deadline:
            deadline_s = by_deadline[0].deadline_s
            due_s = min(due_s, deadline_s if deadline_s > self._looked_s else self._looked_s + TICK_S)
        if self._lines and any(not self._group_of(model).resident for model in self._lines):
            due_s = min(due_s, self._looked_s + TICK_S)
        if self._settings.idle_timeout_s < NEVER_S:
            due_s = min(due_s, self._next_idle_s())
        if self._settings.replicas_max > 1 and (self._open or self._has_surplus()):
            due_s = min(due_s, self._looked_s + self._heartbeat_s)
        return max(due_s, self._agenda.now_s)

    def _group_of(self, model: str) -> Group:
        return self.board.registry.groups[model, 0]

    def _next_idle_s(self) -> float:
        """When the first container will have been idle past its time; a while after the last look, if it was spared."""
        used_s = (c.used_s for c in self.board.registry.containers.values() if c.state is State.READY)
        return max(min(used_s, default=inf) + self._settings.idle_timeout_s, self._looked_s + TICK_S)

    def _has_surplus(self) -> bool:
        return any(len(group.ready) > 1 for group in self.board.registry.groups.values())

    def _look(self) -> None:
        """The switchboard looks at the time."""
        now_s = self._agenda.now_s
        self._looked_s = now_s
        self._beat_if_due()
        if now_s >= self._swept_s + self._window_s:
            self._swept_s = now_s
            self._sweeps_due = max(0, self._sweeps_due - 1)
        self._on(happened.Ticked())

    def _beat_if_due(self) -> None:
        """Kernels report as often as they do; but only when somebody looks at it: at ticks, and before faults."""
        if self._agenda.now_s - self._beat_s < self._heartbeat_s:
            return
        self._beat_s = self._agenda.now_s
        for kernel in self._kernels.values():
            self._on(happened.KernelBeat(kernel.identity, kernel.heartbeat()))

    # Calls.

    def _arrive(self, request_id: int, request: Request) -> None:
        """Hot path."""
        now_s = self._agenda.now_s
        if now_s >= self._swept_s + self._window_s:
            self._look()
        model = request.model
        self._future.arrived(model, now_s)
        self._sweeps_due = SWEEPS
        handle, caller = self._handles[request.tenant, model], self._callers[request.tenant]
        header = pack_header(Kind.CALL, 0, 0, request_id, handle)
        call = ReplayedCall(request_id, caller, model, request.service_s, now_s, now_s + self._timeout_s)
        self._open[request_id] = call
        self._by_deadline.append(call)
        hit = self.board.calls.hit(caller, header, 0, now_s)
        if hit is not None:
            call.route, container = hit.route, hit.container
            self._kernels[container.node.identity].forward(container.id, call)
            return
        self._beat_if_due()
        call.way = Way.WAITING
        self._lines[model] = self._lines.get(model, 0) + 1
        self._on(happened.CallMissed(caller, request_id, handle, 0, [call], len(header)))

    def _served(self, kernel: bytes, call: ReplayedCall) -> None:
        """Hot path. A container has worked off a call."""
        answer = pack_header(Kind.REPLY, 0, 0, call.request_id, 0, int(call.service_s * 1e6))
        known = self.board.calls.answered(kernel, call.route, answer)
        if known is None:
            return  # too late
        call.ended = True
        del self._open[call.request_id]
        self.tally.served(call, self._numbers[call.model])
        container = known.container
        if container.state is State.DRAINING and not container.in_flight:
            self._on(happened.ContainerDrained(container.id))

    # The switchboard.

    def _on(self, event: happened.Event) -> None:
        for effect in self.board.on(event, self._agenda.now_s):
            self._perform(effect)

    def _perform(self, effect: asked.Effect) -> None:
        match effect:
            case asked.Forward():
                self._forward(effect)
            case asked.Refuse():
                self._refused(effect)
            case asked.Command():
                self._kernels[effect.kernel].command(effect.meta)
            case asked.Commit():
                self._on(happened.Committed(effect.ticket))
            case asked.Journalled():
                self.tally.evictions += effect.kind == "evict"
                self.tally.reclaims += effect.kind == "reclaim"
            case asked.Answer() | asked.CancelCall() | asked.AskKernel() | asked.Keep():
                pass  # nobody asks, a call that was given up is left out by its worker, and nothing outlives the replay
            case _:
                assert_never(effect)

    def _forward(self, effect: asked.Forward) -> None:
        """A call that had waited. The first that a loaded container is given is the one that it was loaded for."""
        kernel = self._kernels[effect.kernel]
        container_id, _ = ROUTE.unpack_from(effect.route)
        call: ReplayedCall = effect.frames[0]
        call.route = effect.route
        worker = kernel.workers[container_id]
        call.way = Way.MISS if worker.unclaimed else Way.JOINED
        worker.unclaimed = False
        self._leave_line(call)
        kernel.forward(container_id, call)

    def _leave_line(self, call: ReplayedCall) -> None:
        left = self._lines[call.model] - 1
        if left:
            self._lines[call.model] = left
        else:
            del self._lines[call.model]

    def _refused(self, effect: asked.Refuse) -> None:
        call = self._open.pop(effect.request_id, None)
        if call is None or effect.caller != call.caller:
            raise Fault(f"the replay was refused what it needs: {effect.error.message}")
        call.ended = True
        if call.way is Way.WAITING:
            self._leave_line(call)
        self.tally.refuse(effect.error.code)

    def verdict(self) -> Verdict:
        """What came of it, once `run` has ended."""
        tally, kernels = self.tally, self._kernels.values()
        waits_s = sorted(tally.waits_s)
        return Verdict(
            policy=self._policy,
            capacity_mb=self._settings.capacity_mb,
            nodes=self._settings.nodes,
            requests=tally.requests,
            hits=tally.hits,
            misses=tally.misses,
            joined=tally.joined,
            refused=tally.refused,
            miss_ratio=tally.misses / tally.requests,
            loads=sum(kernel.loads for kernel in kernels),
            load_seconds=sum(kernel.load_seconds for kernel in kernels),
            evictions=tally.evictions,
            reclaims=tally.reclaims,
            refusals=tally.refusals,
            p50_wait_s=percentile(waits_s, 0.5),
            p99_wait_s=percentile(waits_s, 0.99),
            mean_wait_s=sum(waits_s) / len(waits_s) if waits_s else 0.0,
            max_wait_s=waits_s[-1] if waits_s else 0.0,
        )
