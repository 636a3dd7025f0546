"""A switchboard core with a kernel or two, for tests: feed events, compare effects.

Its kernels have no lanes to end, so that DRAIN is answered at once, unless a test sets `drains_at_once` to False.
"""

from typing import Any

from huterox_connector.core import effects as asked
from huterox_connector.core import events as happened
from huterox_connector.core.config import CoreConfig
from huterox_connector.core.records import Container
from huterox_connector.core.switchboard import Switchboard
from huterox_connector.core.term import Term
from huterox_connector.core.vectors import MIB
from huterox_wire.header import pack_header
from huterox_wire.kinds import Flag, Kind
from huterox_wire.leases import DrainMeta, LeaseMeta
from huterox_wire.meta import AdminMeta, AdminReplyMeta
from huterox_wire.nodes import (
    Capacity,
    CloseMeta,
    ContainerEvent,
    ContainerReport,
    CreateMeta,
    Device,
    HeartbeatMeta,
    LaneUsage,
    RegisterMeta,
)
from huterox_wire.route import pack_route

HOST_ID = "boot-id-1"
CALLER = b"caller"
OPERATOR = b"operator"


class Harness:
    """A board at time 0 with models, services and nodes made on demand."""

    def __init__(self, **config: Any) -> None:
        defaults = {"residency_min_s": 0.0, "residency_load_factor": 0.0, "hotter_factor": 0.0, "turn_after_s": 0.0}
        defaults["node_suspect_s"] = 1e9
        self.config = CoreConfig(**{**defaults, **config})
        self.board = Switchboard(self.config, Term(1, mark=1, store="store1"), clock_offset_s=1000.0, started_s=0.0)
        self.handles: dict[str, int] = {}
        self.drains_at_once = True
        self._request_id = 1_000_000

    def on(self, event: happened.Event, now_s: float = 0.0) -> list[asked.Effect]:
        effects = self.board.on(event, now_s)
        if self.drains_at_once:
            for drain in [drain for drain in drained(effects) if not drain.service]:
                (container,) = (c for c in self.board.registry.containers.values() if c.id == drain.container)
                effects += self.drained(container.node.identity, drain.container, now_s)
        return effects

    def admin(self, verb: str, now_s: float = 0.0, **args: Any) -> list[asked.Effect]:
        """A verb, with its commit written at once; all effects that came of it."""
        self._request_id += 1
        effects = self.on(happened.AdminRequested(OPERATOR, self._request_id, AdminMeta(verb, args)), now_s)
        for effect in list(effects):
            if isinstance(effect, asked.Commit):
                effects += self.on(happened.Committed(effect.ticket), now_s)
        return effects

    def ask(self, verb: str, now_s: float = 0.0, **args: Any) -> Any:
        """A verb's result."""
        for effect in self.admin(verb, now_s, **args):
            if isinstance(effect, asked.Answer):
                assert isinstance(effect.meta, AdminReplyMeta)
                result = effect.meta.result
                if isinstance(result, dict) and "rows" in result:
                    assert not result["next"], "one page is enough in these tests"
                    return result["rows"]
                return result
            if isinstance(effect, asked.Refuse):
                raise effect.error
        raise AssertionError(f"{verb} was not answered")

    def node(
        self,
        name: str = "n1",
        slots: int = 2,
        host_mb: int = 1000,
        now_s: float = 0.0,
        gpu_mb: dict[str, int] | None = None,
        **more: Any,
    ) -> bytes:
        """Register a kernel. `gpu_mb`: its devices' memory by their ids."""
        identity = f"{name}:b1".encode()
        more.setdefault("host_id", HOST_ID)
        devices = [Device(device, mb * MIB) for device, mb in (gpu_mb or {}).items()]
        meta = RegisterMeta(name, "b1", 1, "host", Capacity(slots, host_mb * MIB, devices), **more)
        self.on(happened.KernelRegistered(identity, meta), now_s)
        return identity

    def deploy(self, name: str, host_mb: int = 100, gpu_mb: int = 0, **more: Any) -> None:
        resources = {"host_mb": host_mb, "gpu_mb": gpu_mb}
        self.ask("deploy", model={"name": name, "entry": "m.py:M", "resources": resources, **more})

    def service(self, name: str, model: str | None = None, tier: str = "shared", tenant: str = "", **more: Any) -> int:
        """Make a service, and its model of the same name where none is named."""
        if model is None:
            model = name
            if name not in self.board.registry.models:
                self.deploy(name)
        self.ask("create", name=name, model=model, tier=tier, tenant=tenant, **more)
        handle = self.board.registry.service(tenant or "default", name).id
        self.handles[name] = handle
        return handle

    def call(
        self, service: str | int, request_id: int, now_s: float = 0.0, budget_s: float = 10.0, caller: bytes = CALLER
    ) -> list[asked.Effect]:
        handle = self.handles[service] if isinstance(service, str) else service
        return self.on(
            happened.CallMissed(caller, request_id, handle, int(budget_s * 1e6), [b"frame%d" % request_id], 6), now_s
        )

    def hit(self, service: str, request_id: int, now_s: float = 0.0, caller: bytes = CALLER) -> Container | None:
        call = self.board.calls.hit(caller, call_header(self.handles[service], request_id), 0, now_s)
        return call.container if call is not None else None

    def answer(self, kernel: bytes, request_id: int, kind: Kind = Kind.REPLY, caller: bytes = CALLER) -> Any:
        """The kernel answers a call, by the route that it was sent by."""
        header = pack_header(kind, Flag.PACKED, 0, request_id)
        return self.board.calls.answered(kernel, self.route_of(request_id, caller), header)

    def route_of(self, request_id: int, caller: bytes = CALLER) -> bytes:
        """By which a call was sent; another one for a call that is not in flight."""
        call = self.board.calls.get(caller, request_id)
        return call.route if call is not None else pack_route(0, 0, caller)

    def hand_back(self, kernel: bytes, request_id: int, now_s: float = 0.0) -> list[asked.Effect]:
        """A kernel sends a call back that no container has begun."""
        route, frames = self.route_of(request_id), [b"frame%d" % request_id]
        return self.on(happened.CallReturned(kernel, route, request_id, frames, 6), now_s)

    def ready(self, kernel: bytes, container: int, now_s: float = 0.0, **more: Any) -> list[asked.Effect]:
        event = ContainerEvent(container, "ready", pid=42, **more)
        return self.on(happened.ContainerReported(kernel, event), now_s)

    def gone(
        self,
        kernel: bytes,
        container: int,
        now_s: float = 0.0,
        cause: Any = "closed",
        reason: str = "closed",
        **more: Any,
    ) -> list[asked.Effect]:
        event = ContainerEvent(container, "gone", cause=cause, reason=reason, **more)
        return self.on(happened.ContainerReported(kernel, event), now_s)

    def tick(self, now_s: float) -> list[asked.Effect]:
        return self.on(happened.Ticked(), now_s)

    def pass_time(self, from_s: float, to_s: float) -> list[asked.Effect]:
        """Tick as a switchboard does that runs all the while; what came of it."""
        steps = max(1, round((to_s - from_s) / 0.5))
        return [e for n in range(steps + 1) for e in self.tick(from_s + (to_s - from_s) * n / steps)]

    def beat(self, kernel: bytes, now_s: float, *reports: ContainerReport, **more: Any) -> list[asked.Effect]:
        """A heartbeat with `reports`; without any it tells of all containers that the kernel must have."""
        told = list(reports) or self._reports_of(kernel)
        meta = HeartbeatMeta(kernel.split(b":")[0].decode(), "b1", containers=told, **more)
        return self.on(happened.KernelBeat(kernel, meta), now_s)

    def _reports_of(self, kernel: bytes) -> list[ContainerReport]:
        states: dict[str, Any] = {
            "creating": "creating",
            "ready": "ready",
            "draining": "draining",
            "closing": "draining",
        }
        node = self.board.registry.nodes.get(kernel)
        return [
            ContainerReport(container.id, container.spec.name, container.spec.version, states[container.state])
            for container in (node.containers.values() if node is not None else ())
            if container.state in states
        ]

    def drained(self, kernel: bytes, container: int, now_s: float = 0.0) -> list[asked.Effect]:
        return self.on(happened.ContainerReported(kernel, ContainerEvent(container, "drained")), now_s)

    def lease(
        self, service: str | int, request_id: int, now_s: float = 0.0, budget_s: float = 1.0, **meta: Any
    ) -> list[asked.Effect]:
        handle = self.handles[service] if isinstance(service, str) else service
        lease = LeaseMeta(**{"host_id": HOST_ID, "pid": 4711, **meta})
        return self.on(happened.LeaseRequested(CALLER, request_id, handle, int(budget_s * 1e6), lease), now_s)

    def load(self, kernel: bytes, service: str, request_id: int, now_s: float = 0.0, **ready: Any) -> int:
        """Make a service's container resident by calling it once; the call is answered. Returns the container's id."""
        container = created(self.call(service, request_id, now_s))[0].container
        self.ready(kernel, container, now_s, **ready)
        assert self.answer(kernel, request_id) is not None
        return container


def args_of_verbs() -> dict[str, type[Any]]:
    """The operator's verbs, all that the core has, and the type of each one's arguments."""
    return Harness().board._admin.args_of


def call_header(handle: int, request_id: int, budget_us: int = 10_000_000) -> bytes:
    return pack_header(Kind.CALL, Flag.PACKED, 0, request_id, handle, budget_us)


def created(effects: list[asked.Effect]) -> list[CreateMeta]:
    return [e.meta for e in effects if isinstance(e, asked.Command) and isinstance(e.meta, CreateMeta)]


def closed(effects: list[asked.Effect]) -> list[CloseMeta]:
    return [e.meta for e in effects if isinstance(e, asked.Command) and isinstance(e.meta, CloseMeta)]


def drained(effects: list[asked.Effect]) -> list[DrainMeta]:
    return [e.meta for e in effects if isinstance(e, asked.Command) and isinstance(e.meta, DrainMeta)]


def asks(effects: list[asked.Effect]) -> list[asked.AskKernel]:
    return [e for e in effects if isinstance(e, asked.AskKernel)]


def forwarded(effects: list[asked.Effect]) -> list[asked.Forward]:
    return [e for e in effects if isinstance(e, asked.Forward)]


def refused(effects: list[asked.Effect]) -> list[asked.Refuse]:
    return [e for e in effects if isinstance(e, asked.Refuse)]


def events_of(effects: list[asked.Effect], kind: str) -> list[asked.Journalled]:
    return [e for e in effects if isinstance(e, asked.Journalled) and e.kind == kind]


def journalled(effects: list[asked.Effect]) -> list[tuple[str, str]]:
    return [(e.kind, e.reason) for e in effects if isinstance(e, asked.Journalled)]


def report(container: int, model: str, state: Any = "ready", version: str = "1", **more: Any) -> ContainerReport:
    return ContainerReport(container, model, version, state, pid=9, host_bytes=50 * MIB, **more)


def usage(service: int, calls: int, errors: int = 0, busy_s: float = 0.0, idle_s: float = 0.0) -> LaneUsage:
    return LaneUsage(service, calls, errors, round(busy_s * 1e6), round(idle_s * 1e6))
