"""The switchboard's core: events in, effects out. It owns everything that is decided; see the modules it is made of.

    registry   the records                     books      what they hold of their nodes
    calls      what is in flight               faults     what waits for a load, or for its turn
    line       who of those is next            term       epochs, and stores that were lost
    residency  who loads, and for whose room   loading, leaving  how that is carried out
    replicas   how many of one                 reclaim    who leaves unasked
    refusals   who waits for room in vain      lending    dedicated containers, lent
    accesses   who uses what, and pays for it
    health     whose fault a failed load is    survey     what one look sees of the nodes
    nodes      kernels that come and go        admin      the operator's verbs
    leases     who asks for a lane             questions  what kernels were asked for callers
    usage      calls that pass by lanes        measured   what is written behind

The way of a hit does not come through `on`: the shell asks `calls.hit` and `calls.answered` directly, and whether a
call that is no hit may `join` those that wait for a busy model.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from huterox_connector.core import events as happened
from huterox_connector.core.accesses import Accesses
from huterox_connector.core.admin import Admin
from huterox_connector.core.books import Books
from huterox_connector.core.calls import Call, Calls
from huterox_connector.core.changes import TENANT_DEFAULT, Changes
from huterox_connector.core.config import CoreConfig
from huterox_connector.core.desired import Desired, StoredService, service_from
from huterox_connector.core.effects import Answer, CancelCall, Effect, Journalled, Keep, Refuse
from huterox_connector.core.faults import Faults
from huterox_connector.core.health import Health
from huterox_connector.core.ids import IdSource, RouteSource
from huterox_connector.core.journal import Journal
from huterox_connector.core.leases import Leases
from huterox_connector.core.leaving import Leaving
from huterox_connector.core.lending import Lending
from huterox_connector.core.listing import Listing
from huterox_connector.core.loading import Loading
from huterox_connector.core.measured import Measured, StoredUsage, put_usage
from huterox_connector.core.nodeindex import NodeIndex
from huterox_connector.core.nodes import Nodes, Parts
from huterox_connector.core.questions import Questions
from huterox_connector.core.reclaim import Reclaim
from huterox_connector.core.records import Service
from huterox_connector.core.refusals import Refusals
from huterox_connector.core.registry import Registry
from huterox_connector.core.replacer import POLICIES, Replacer
from huterox_connector.core.replicas import Replicas
from huterox_connector.core.residency import Residency
from huterox_connector.core.term import TICKET, Term
from huterox_connector.core.usage import LaneUse
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


def not_read() -> Busy:
    """What a caller is told whose answers are not sent, since it leaves too many unread."""
    return Busy("the caller does not read its answers: too much waits to be sent to it", executed="maybe")


STOPPED_S: Final = 1.0
"""Ticks come several times a second. Where none has come for so long, this process was stopped, or its machine was."""


class Switchboard:
    """Decides everything; does nothing.

    Args:
        term: with an epoch larger than that of every earlier switchboard on the same store.
        clock_offset_s: what makes seconds since the epoch out of `now_s`.
        replacers: the policies by name; another table is for replays that know the future.
    """

    def __init__(
        self,
        config: CoreConfig,
        term: Term,
        clock_offset_s: float,
        started_s: float,
        version: str = "",
        replacers: Mapping[str, Callable[[], Replacer]] = POLICIES,
    ) -> None:
        self.config = config
        self.registry = registry = Registry()
        self._accesses = accesses = Accesses(config, started_s)
        routes = RouteSource(term.mark)
        self.calls = Calls(registry.services, accesses, routes, config)
        self._faults = faults = Faults(self.calls, config)
        self._questions = questions = Questions(routes, config.asks_max, config.busy_retry_after_s)
        self._journal = journal = Journal(config.journal_max, clock_offset_s)
        self._lane_use = LaneUse(registry.services, registry.containers, accesses)
        ids, index = IdSource(term.mark), NodeIndex()
        books = Books(registry, index)
        health = Health(journal, config)
        loading = Loading(registry, books, faults, health, journal, term, config)
        self._leaving = leaving = Leaving(registry, books, journal, term, config)
        self._lending = lending = Lending(faults, journal, config)
        refusals = Refusals(registry, books, faults, lending, journal, config)
        self._residency = residency = Residency(
            registry, books, index, loading, leaving, self.calls, faults, refusals, health, journal, ids, config
        )
        self._replicas = replicas = Replicas(residency, leaving, journal, config)
        self._reclaim = reclaim = Reclaim(registry, leaving, config)
        self._leases = Leases(registry, self.calls, faults, questions, term, config)
        self._nodes = Nodes(
            Parts(registry, books, index, loading, leaving, residency, replicas, reclaim, accesses, self._lane_use),
            self.calls,
            questions,
            journal,
            term,
            config,
            replacers,
        )
        changes = Changes(registry, residency, leaving, reclaim, self._nodes, faults, journal, ids)
        self._admin = Admin(
            registry, leaving, questions, Listing(registry, journal), changes, config, self._status, self._unanswered
        )
        self._term = term
        self._started_s = self._ticked_s = started_s
        self._version = version
        self.stopping = False

    def restore(self, stored: Desired, measured: Measured, journal: list[Journalled]) -> None:
        """Take over the desired state, what was measured, and the last events of an earlier switchboard."""
        for model in stored.models:
            self.registry.put_model(model.spec, model.deployed_at)
        for service in stored.services:
            self._restore_service(service)
        self._nodes.drained_names |= {node.name for node in stored.nodes if node.drained}
        for seen in measured.footprints:
            known = self.registry.models.get(seen.model)
            if known is not None and known.spec.version == seen.version:
                known.footprints.recall(seen.node, seen.footprint)
        for past in measured.past:
            self.registry.past_usage[past.tenant] = past.usage
        for used in measured.usage:
            self._restore_usage(used)
        self._journal.restore(journal)

    def _restore_service(self, stored: StoredService) -> None:
        model = self.registry.models.get(stored.model)
        if model is None:
            raise Fault(f"the store has service {stored.name!r} of model {stored.model!r}, but no such model")
        group = self.registry.group_of(model, stored.id if stored.tier == "dedicated" else 0, self._started_s)
        self.registry.add_service(service_from(stored, model, group, self._started_s))

    def _restore_usage(self, stored: StoredUsage) -> None:
        service = self.registry.services.get(stored.service)
        if service is None:
            return
        usage = stored.usage
        service.hits, service.errors, service.busy_s = usage.calls, usage.errors, usage.busy_s
        service.host_byte_s, service.device_byte_s = usage.host_byte_s, usage.device_byte_s
        service.faults, service.refused = usage.faults, usage.refused
        service.last_hit_s = self._journal.since_start(stored.last_hit_at) if stored.last_hit_at else 0.0
        self._lane_use.restore(service.id, stored.lanes)

    def keep_usage(self) -> list[Effect]:
        """Write what services have used since it was last written: at the end."""
        return self._keep_usage(self._accesses.changed())

    def _keep_usage(self, services: list[Service]) -> list[Effect]:
        writes = [
            put_usage(service, self._lane_use.counted_of(service), self._last_hit_at(service))
            for service in services
            if self.registry.services.get(service.id) is service
        ]
        return [Keep(tuple(writes))] if writes else []

    def _last_hit_at(self, service: Service) -> float:
        return self._journal.at(service.last_hit_s) if service.last_hit_s else 0.0

    def on(self, event: happened.Event, now_s: float) -> list[Effect]:
        """Take one event in. Never raises for what a peer sent."""
        match event:
            case happened.CallMissed():
                return self._on_call_missed(event, now_s)
            case happened.CallCancelled():
                return self._on_cancel(event)
            case happened.CallersGone():
                return self._on_callers_gone(event, now_s)
            case happened.CallerStalled():
                return self._on_stalled(event, now_s)
            case happened.CallsUndeliverable():
                return self._on_undeliverable(event, now_s)
            case happened.CallReturned():
                return self._on_returned(event, now_s)
            case happened.ContainerFreed():
                container = self.registry.containers.get(event.container)
                return self._faults.admit(container.group, now_s) if container else []
            case happened.ContainerDrained():
                container = self.registry.containers.get(event.container)
                return self._leaving.drained(container, now_s) if container else []
            case happened.OpenRequested():
                return self._on_open(event)
            case happened.LeaseRequested():
                return self._leases.on_request(event, now_s)
            case happened.AdminRequested():
                return self._admin.on_request(event, now_s)
            case happened.Committed() if event.ticket == TICKET:
                return self._nodes.stepped(now_s)
            case happened.CommitFailed() if event.ticket == TICKET:
                self._term.step_failed(now_s)
                return []
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
            case happened.Ticked(clock_offset_s=clock_offset_s):
                return self._journal.follow_clock(clock_offset_s, now_s) + self._on_tick(now_s)

    def answered_by_kernel(self, kernel: bytes, route: bytes, request_id: int, now_s: float) -> bool:
        """Whether `kernel` was asked something by this route and answers in time; counts as answered then."""
        return self._questions.answered(kernel, route, request_id, now_s)

    def is_waiting(self) -> bool:
        """Does anybody wait for something that a `Ticked` may have to end or to begin? Then ticks are due often."""
        return bool(len(self.calls) or len(self._faults) or len(self._questions) or self._accesses.is_sweeping())

    def join(self, caller: bytes, frames: list[Any], nbytes: int, now_s: float) -> list[Effect] | None:
        """Hot path while callers take turns. A call to a model that is busy waits for its turn.

        None: it is no such call, or has no place: tell of it by an event.
        """
        return None if self.stopping else self._faults.join(caller, frames, nbytes, now_s)

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
            pushed_out = self._faults.wait(event, service, now_s)
        except HuteroxError as error:
            return [Refuse(event.caller, event.request_id, error)]
        if service.group.ready:
            return pushed_out + self._faults.admit(service.group, now_s)
        effects = self._lending.serve(service.group, now_s) if service.model.lenders else []
        return pushed_out + effects + self._residency.fault(service.group, f"fault by {service.title}", now_s)

    def _on_cancel(self, event: happened.CallCancelled) -> list[Effect]:
        call = self.calls.get(event.caller, event.request_id)
        if call is not None:  # its container answers: Cancelled, or the result if that was quicker
            return [self._cancel_at_kernel(call)]
        return self._faults.cancel(event.caller, event.request_id, Cancelled("cancelled by its caller"))

    def _cancel_at_kernel(self, call: Call) -> CancelCall:
        container = call.container
        return CancelCall(container.node.identity, call.route, call.request_id)

    def _on_callers_gone(self, event: happened.CallersGone, now_s: float) -> list[Effect]:
        """Their calls are given up: those that wait are not loaded for, those that run are cancelled."""
        self._faults.forget(event.callers)
        self._questions.forget(event.callers)
        effects: list[Effect] = []
        for call in self.calls.of_callers(event.callers):
            effects += self._give_up(call, now_s)
        return effects

    def _on_stalled(self, event: happened.CallerStalled, now_s: float) -> list[Effect]:
        """A stream whose caller does not read ends, so that its container can do something else."""
        call = self.calls.get(event.caller, event.request_id)
        if call is None:
            return []
        return [Refuse(event.caller, event.request_id, not_read()), *self._give_up(call, now_s)]

    def _give_up(self, call: Call, now_s: float) -> list[Effect]:
        """Nobody waits for this call any more. It counts as an error."""
        self.calls.give_up(call)
        return [self._cancel_at_kernel(call), *self._leaving.drained(call.container, now_s)]

    def _unanswered(self, caller: bytes) -> list[int]:
        """The request ids of a caller's calls and questions."""
        parts = (self.calls.ids_of(caller), self._faults.ids_of(caller), self._questions.ids_of(caller))
        return [request_id for ids in parts for request_id in ids]

    def waited_for(self, before: int) -> set[bytes]:
        """The callers of calls sent before the one numbered `before`, of calls that wait, and of questions."""
        return self.calls.callers(before) | self._faults.callers() | self._questions.callers()

    def _on_undeliverable(self, event: happened.CallsUndeliverable, now_s: float) -> list[Effect]:
        """Nothing of these calls has left. Where their kernel has gone, they wait for another container."""
        found = [(self.calls.get(sent.caller, sent.request_id), sent) for sent in event.calls]
        undelivered = [(call, sent) for call, sent in found if call is not None]
        effects: list[Effect] = []
        for call, _ in undelivered:
            if event.kernel_gone:
                self.calls.take_back(call)
            else:
                effects.append(self._turn_away(call))
        if not event.kernel_gone:
            return effects
        for node in {call.container.node.identity: call.container.node for call, _ in undelivered}.values():
            if self.registry.nodes.get(node.identity) is node:
                effects += self._nodes.lose(node, "its connection was closed", now_s)
        for call, sent in undelivered:
            effects += self._wait_again(call, sent.frames, sent.nbytes, now_s)
        return effects

    def _turn_away(self, call: Call) -> Refuse:
        """Its kernel takes nothing more."""
        self.calls.drop(call)
        name, title = call.container.node.name, call.container.title
        error = WorkerLost(f"node {name!r} takes no more calls", executed="no", container=title)
        return Refuse(call.caller, call.request_id, error)

    def _on_returned(self, event: happened.CallReturned, now_s: float) -> list[Effect]:
        """Nothing of the call has run: it waits for another container, with the time that it has left."""
        call = self.calls.at(event.kernel, event.route, event.request_id)
        if call is None:
            return []
        self.calls.take_back(call)
        effects = self._leaving.turned_away(call.container, now_s)
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
        if now_s - self._ticked_s > STOPPED_S:
            self._nodes.excuse(now_s)
        self._ticked_s = now_s
        effects = self._expire_calls(now_s)
        effects += self._faults.expire(now_s)
        effects += self._questions.expire(now_s)
        effects += self._nodes.lose_silent(now_s)
        effects += self._lending.serve_all(now_s)
        effects += self._residency.retry(now_s)
        effects += self._residency.lose_patience(now_s)
        effects += self._reclaim.look(now_s)
        effects += self._faults.admit_all(now_s)  # after what ends calls: none is forwarded that has ended
        if self._accesses.sweep(now_s):
            effects += self._keep_usage(self._accesses.swept())
        return effects

    def _expire_calls(self, now_s: float) -> list[Effect]:
        effects: list[Effect] = []
        for call in self.calls.expired(now_s):
            title = call.container.title
            error = DeadlineExceeded(f"container {title} did not answer in time", waited_for="answer", container=title)
            effects += [Refuse(call.caller, call.request_id, error), *self._give_up(call, now_s)]
        return effects

    def _status(self, now_s: float) -> dict[str, Any]:
        registry = self.registry
        return {
            "version": self._version,
            "epoch": self._term.epoch,
            "store": self._term.store,
            "uptime_s": round(now_s - self._started_s, 3),
            "nodes": len(registry.nodes),
            "nodes_ready": sum(not node.drained for node in registry.nodes.values()),
            "containers": len(registry.containers),
            "services": len(registry.services),
            "models": len(registry.models),
            "calls_in_flight": len(self.calls),
            "calls_waiting": len(self._faults),
        }
