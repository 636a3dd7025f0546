"""Leases: a caller on the container's host asks for a lane. The switchboard checks, the container's kernel grants.

A lease is no call: it loads nothing, waits for nothing, and counts as no use. Where there is no container to lease a
lane of, the caller hears why, and goes on by calls.
"""

from typing import Final

from huterox_connector.core.calls import Calls
from huterox_connector.core.config import CoreConfig
from huterox_connector.core.effects import AskKernel, Effect, Refuse
from huterox_connector.core.events import LeaseRequested
from huterox_connector.core.faults import Faults
from huterox_connector.core.lifecycle import State
from huterox_connector.core.questions import Questions
from huterox_connector.core.records import Container, Service
from huterox_connector.core.registry import Registry
from huterox_connector.core.term import Term
from huterox_wire.errors import Conflict, DeadlineExceeded, HuteroxError, NotFound, Unavailable
from huterox_wire.kinds import Kind
from huterox_wire.leases import LeaseMeta, LeaseOrderMeta

_LEAVING: Final = frozenset({State.DRAINING, State.CLOSING})


class Leases:
    """Answers LEASE, or passes it on."""

    def __init__(
        self, registry: Registry, calls: Calls, faults: Faults, questions: Questions, term: Term, config: CoreConfig
    ) -> None:
        self._registry = registry
        self._calls = calls
        self._faults = faults
        self._questions = questions
        self._term = term
        self._config = config

    def on_request(self, event: LeaseRequested, now_s: float) -> list[Effect]:
        """Refuse, or ask the container's kernel, which answers the caller by the route."""
        try:
            service = self._service(event)
            container = self._container(service, event.meta)
            budget_s = event.budget_us * 1e-6 if event.budget_us else self._config.ask_timeout_s
            budget_s = min(budget_s, self._config.ask_timeout_s)
            late = DeadlineExceeded("the container's node did not answer in time", waited_for="lease")
            route = self._questions.put(
                event.caller, event.request_id, container.node.identity, container.id, now_s + budget_s, late
            )
        except HuteroxError as error:
            return [Refuse(event.caller, event.request_id, error)]
        container.lanes += 1  # until its kernel tells how many there are, so that the next one goes elsewhere
        return [self._ask(event, service, container, route, int(budget_s * 1e6))]

    def _service(self, event: LeaseRequested) -> Service:
        service = self._registry.services.get(event.handle)
        if service is None:
            raise NotFound(f"no service has the handle {event.handle}; open it by name again", stale_handle=True)
        if self._calls.get(event.caller, event.request_id) or self._faults.holds(event.caller, event.request_id):
            raise Conflict(f"request id {event.request_id} is in use by a call in flight")
        return service

    def _container(self, service: Service, meta: LeaseMeta) -> Container:
        """The container that lanes may lead to now. Raises Unavailable, whose `reason` says why there is none."""
        if service.in_flight_max:
            raise Unavailable(
                f"{service.title} has a quota, which only calls by the switchboard are held to",
                retryable=False,
                reason="quota",
            )
        ready = service.group.ready
        if not ready:
            raise self._none_ready(service)
        here = [container for container in ready if container.node.host_id == meta.host_id]
        container = min(here or ready, key=lambda c: (c.lanes, c.calls_now))
        host_id = container.node.host_id
        if not host_id or host_id != meta.host_id:
            raise Unavailable(
                f"the container of {service.title} runs on another host, or its host is not known",
                retryable=False,
                reason="other_host",
            )
        return container

    def _none_ready(self, service: Service) -> Unavailable:
        group = service.group
        leaving = any(c.group is group and c.state in _LEAVING for c in service.model.containers.values())
        if leaving and not group.coming:
            return Unavailable(f"the container of {service.title} is about to leave", reason="draining")
        return Unavailable(f"no container of {service.title} is ready; a call brings one", reason="absent")

    def _ask(
        self, event: LeaseRequested, service: Service, container: Container, route: bytes, budget_us: int
    ) -> AskKernel:
        meta = event.meta
        order = LeaseOrderMeta(
            epoch=self._term.epoch,
            container=container.id,
            service=service.id,
            title=service.title,
            half_mb=meta.half_mb,
            ring_entries=meta.ring_entries,
            pid=meta.pid,
        )
        return AskKernel(
            container.node.identity, route, event.request_id, Kind.LEASE, order, service.id, max(1, budget_us)
        )
