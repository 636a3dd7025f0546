"""The switchboard's core: events in, effects out. It owns everything that is decided; see the modules it is made of.

    calls      what is in flight               faults     what waits for a load
    residency  who loads and who leaves        nodes      kernels that come and go
    admin      the operator's verbs            registry   the records
    leases     who asks for a lane             questions  what kernels were asked for callers
    usage      calls that pass by lanes

The way of a hit does not come through `on`: the shell asks `calls.hit` and `calls.answered` directly.
"""

from typing import Any, Final

from huterox_connector.core import events as happened
from huterox_connector.core.admin import TENANT_DEFAULT, Admin
from huterox_connector.core.calls import Call, Calls
from huterox_connector.core.config import CoreConfig
from huterox_connector.core.desired import Desired
from huterox_connector.core.effects import Answer, CancelCall, Effect, Journalled, Refuse
from huterox_connector.core.faults import Faults
from huterox_connector.core.ids import IdSource
from huterox_connector.core.journal import Journal
from huterox_connector.core.leases import Leases
from huterox_connector.core.nodes import Nodes
from huterox_connector.core.questions import Questions
from huterox_connector.core.registry import Registry
from huterox_connector.core.residency import Residency
from huterox_wire.errors import (
    Busy,
    Cancelled,
    Conflict,
    DeadlineExceeded,
    Fault,
    HuteroxError,
    NotFound,
    Unavailable,
    WorkerLost,
)
from huterox_wire.meta import OpenedMeta

_RECLAIM_EVERY_S: Final = 1.0


class Switchboard:
    """Decides everything; does nothing.

    Args:
        epoch: larger than that of every earlier switchboard on the same store.
        clock_offset_s: what makes seconds since the epoch out of `now_s`.
    """

    def __init__(
        self, config: CoreConfig, epoch: int, clock_offset_s: float, started_s: float, version: str = ""
    ) -> None:
        self.config = config
        self.registry = Registry()
        self.calls = Calls(self.registry.services, config)
        self._faults = Faults(self.calls, config)
        self._questions = Questions(config.asks_max, config.busy_retry_after_s)
        self._journal = journal = Journal(config.journal_max, clock_offset_s)
        ids = IdSource(epoch)
        self._residency = Residency(self.registry, self.calls, self._faults, journal, ids, epoch, config)
        self._leases = Leases(self.registry, self.calls, self._faults, self._questions, epoch, config)
        self._nodes = Nodes(self.registry, self._residency, self._questions, journal, epoch, config)
        self._admin = Admin(
            self.registry, self._residency, self._faults, self._questions, journal, ids, config, self._status
        )
        self._epoch = epoch
        self._started_s = started_s
        self._version = version
        self._reclaim_at_s = started_s
        self.stopping = False

    def restore(self, stored: Desired, journal: list[Journalled]) -> None:
        """Take over the desired state and the last events of an earlier switchboard."""
        for model in stored.models:
            self.registry.put_model(model.spec, model.deployed_at)
        for service in stored.services:
            model_record = self.registry.models.get(service.model)
            if model_record is None:
                raise Fault(f"the store has service {service.name!r} of model {service.model!r}, but no such model")
            self.registry.add_service(
                service.id, service.name, service.tenant, service.tier, model_record, service.created_at
            )
        self._journal.restore(journal)

    def on(self, event: happened.Event, now_s: float) -> list[Effect]:
        """Take one event in. Never raises for what a peer sent."""
        match event:
            case happened.CallMissed():
                return self._on_call_missed(event, now_s)
            case happened.CallCancelled():
                return self._on_cancel(event)
            case happened.CallUndeliverable():
                return self._on_undeliverable(event, now_s)
            case happened.CallReturned():
                return self._on_returned(event, now_s)
            case happened.ContainerDrained():
                container = self.registry.containers.get(event.container)
                return self._residency.drained(container, now_s) if container else []
            case happened.OpenRequested():
                return self._on_open(event)
            case happened.LeaseRequested():
                return self._leases.on_request(event, now_s)
            case happened.AdminRequested():
                return self._admin.on_request(event, now_s)
            case happened.Committed():
                return self._admin.on_committed(event.ticket, now_s)
            case happened.CommitFailed():
                return self._admin.on_commit_failed(event.ticket, event.reason, now_s)
            case happened.KernelRegistered():
                return self._nodes.on_register(event, now_s)
            case happened.KernelBeat():
                return self._nodes.on_beat(event, now_s)
            case happened.KernelUnreachable():
                node = self.registry.nodes.get(event.identity)
                return self._nodes.lose(node, "its connection was closed", now_s) if node else []
            case happened.ContainerReported():
                return self._nodes.on_report(event, now_s)
            case happened.Ticked():
                return self._on_tick(now_s)

    def answered_by_kernel(self, kernel: bytes, caller: bytes, request_id: int, now_s: float) -> bool:
        """Whether `kernel` was asked something for this caller and answers in time; counts as answered then."""
        return self._questions.answered(kernel, caller, request_id, now_s)

    # Calls off the hot path.

    def _on_call_missed(self, event: happened.CallMissed, now_s: float) -> list[Effect]:
        """A fault, or a call that the limits turn away: say which."""
        try:
            if self.stopping:
                raise Unavailable("the switchboard is stopping")
            service = self.registry.services.get(event.handle)
            if service is None:
                raise NotFound(f"no service has the handle {event.handle}; open it by name again", stale_handle=True)
            if self.calls.get(event.caller, event.request_id) or self._faults.holds(event.caller, event.request_id):
                raise Conflict(f"request id {event.request_id} is in use by a call in flight")
            if service.container is not None:
                raise self._busy(event, service.container.in_flight)
            self._faults.wait(event, service, now_s)
        except HuteroxError as error:
            return [Refuse(event.caller, event.request_id, error)]
        return self._residency.fault(service.group, f"fault by {service.title}", now_s)

    def _busy(self, event: happened.CallMissed, in_flight: int) -> Busy:
        config = self.config
        if in_flight >= config.calls_per_container_max:
            why = f"{in_flight} calls are in flight to this model's container, which is the limit"
        elif not self.calls.room_for(event.caller, 0, event.nbytes):
            why = "the limit of calls or bytes in flight is reached"
        else:
            why = "the call came while its container was changing"
        return Busy(why, retry_after_s=config.busy_retry_after_s, in_flight=len(self.calls))

    def _on_cancel(self, event: happened.CallCancelled) -> list[Effect]:
        call = self.calls.get(event.caller, event.request_id)
        if call is not None:  # its container answers: Cancelled, or the result if that was quicker
            return [self._cancel_at_kernel(call)]
        return self._faults.cancel(event.caller, event.request_id, Cancelled("cancelled by its caller"))

    def _cancel_at_kernel(self, call: Call) -> CancelCall:
        container = call.container
        return CancelCall(container.node.identity, container.route_prefix + call.caller, call.request_id)

    def _on_undeliverable(self, event: happened.CallUndeliverable, now_s: float) -> list[Effect]:
        """Nothing of the call has left. Where its kernel has gone, it waits for another container."""
        call = self.calls.get(event.caller, event.request_id)
        if call is None:
            return []
        node = call.container.node
        if event.kernel_gone:
            self.calls.take_back(call)
            known = self.registry.nodes.get(node.identity) is node
            effects = self._nodes.lose(node, "its connection was closed", now_s) if known else []
            return effects + self._wait_again(call, event.frames, event.nbytes, now_s)
        self.calls.drop(call)
        error = WorkerLost(f"node {node.name!r} takes no more calls", executed="no", container=call.container.title)
        return [Refuse(event.caller, event.request_id, error)]

    def _on_returned(self, event: happened.CallReturned, now_s: float) -> list[Effect]:
        """Nothing of the call has run: it waits for another container, with the time that it has left."""
        call = self.calls.get(event.caller, event.request_id)
        if call is None or call.container.node.identity != event.kernel:
            return []
        self.calls.take_back(call)
        effects = self._residency.turned_away(call.container, now_s)
        return effects + self._wait_again(call, event.frames, event.nbytes, now_s)

    def _wait_again(self, call: Call, frames: list[Any], nbytes: int, now_s: float) -> list[Effect]:
        """A call that was taken back becomes a fault, with what is left of its time."""
        budget_us = max(1, int((call.deadline_s - now_s) * 1e6))
        again = happened.CallMissed(call.caller, call.request_id, call.service.id, budget_us, frames, nbytes)
        return self._on_call_missed(again, now_s)

    def _on_open(self, event: happened.OpenRequested) -> list[Effect]:
        try:
            service = self.registry.service(event.meta.tenant or TENANT_DEFAULT, event.meta.service)
        except NotFound as error:
            return [Refuse(event.caller, event.request_id, error)]
        opened = OpenedMeta(service.id, service.name, service.tenant, service.model.name, service.tier)
        return [Answer(event.caller, event.request_id, opened, handle=service.id)]

    # Time.

    def _on_tick(self, now_s: float) -> list[Effect]:
        effects = self._expire_calls(now_s)
        effects += self._faults.expire(now_s)
        effects += self._questions.expire(now_s)
        effects += self._nodes.lose_silent(now_s)
        effects += self._residency.retry(now_s)
        effects += self._residency.lose_patience(now_s)
        if now_s >= self._reclaim_at_s:
            self._reclaim_at_s = now_s + _RECLAIM_EVERY_S
            effects += self._residency.reclaim(now_s)
        return effects

    def _expire_calls(self, now_s: float) -> list[Effect]:
        effects: list[Effect] = []
        for call in self.calls.expired(now_s):
            self.calls.drop(call)
            title = call.container.title
            error = DeadlineExceeded(f"container {title} did not answer in time", waited_for="answer", container=title)
            effects += [Refuse(call.caller, call.request_id, error), self._cancel_at_kernel(call)]
            effects += self._residency.drained(call.container, now_s)
        return effects

    def _status(self, now_s: float) -> dict[str, Any]:
        registry = self.registry
        return {
            "version": self._version,
            "epoch": self._epoch,
            "uptime_s": round(now_s - self._started_s, 3),
            "nodes": len(registry.nodes),
            "nodes_ready": len(registry.nodes),
            "containers": len(registry.containers),
            "services": len(registry.services),
            "models": len(registry.models),
            "calls_in_flight": len(self.calls),
            "calls_waiting": len(self._faults),
        }
