"""How containers leave: draining, closing, and the orders that kernels are given for it.

Who leaves takes no new calls and no new lanes at once; it is closed when the calls in flight and the lanes have ended.
"""

from collections.abc import Iterable
from typing import Any

from huterox_connector.core.books import Books
from huterox_connector.core.config import CoreConfig
from huterox_connector.core.effects import Command, Effect
from huterox_connector.core.ids import ServiceId
from huterox_connector.core.journal import Journal
from huterox_connector.core.lifecycle import State, Step
from huterox_connector.core.records import Container, Node
from huterox_connector.core.registry import Registry
from huterox_connector.core.term import Term
from huterox_wire.kinds import Kind
from huterox_wire.leases import DrainMeta
from huterox_wire.nodes import CloseMeta


class Leaving:
    """Carries out that a container leaves. Who does is decided elsewhere."""

    def __init__(self, registry: Registry, books: Books, journal: Journal, term: Term, config: CoreConfig) -> None:
        self._registry = registry
        self._books = books
        self._journal = journal
        self._term = term
        self._config = config

    def evict(
        self, container: Container, reason: str, now_s: float, *, kind: str = "evict", **numbers: Any
    ) -> list[Effect]:
        """No new calls and lanes from now on; closed as soon as the calls in flight and the lanes have ended.

        Args:
            kind: of the journal's event: `evict`, `reclaim` or `move`.
            numbers: what it was decided on.
        """
        if container.state is not State.READY:
            return self._stop_loading(container, reason, now_s, kind)
        drain = self._drain(container, reason, now_s)
        evicted = self._journal.record(
            kind,
            f"{container.spec.name} {container.title}",
            reason,
            now_s,
            node=container.node.name,
            frees=container.charge.facts(),
            reload_s=round(container.load_s, 3),
            idle_s=round(now_s - container.used_s, 3),
            hits=container.hits,
            in_flight=container.calls_now,
            lanes=container.lanes,
            **numbers,
        )
        return [evicted, drain]

    def _stop_loading(self, container: Container, reason: str, now_s: float, kind: str) -> list[Effect]:
        subject = f"{container.spec.name} {container.title}"
        if container.state is State.CREATING:
            container.reason = reason
            self._registry.unmap(container)
            stopped = self._journal.record(
                kind,
                subject,
                reason,
                now_s,
                node=container.node.name,
                frees=container.charge.facts(),
                loading_s=round(now_s - container.created_s, 3),
            )
            return [stopped, *self._close(container, now_s)]
        if container.state is State.PLANNED:
            self._books.leave(container, now_s)
            return [self._journal.record("gone", subject, reason, now_s, cause="closed", node=container.node.name)]
        return []  # it is leaving already

    def _drain(self, container: Container, reason: str, now_s: float) -> Command:
        """Its calls are faults from now on; its kernel is told to end its lanes."""
        self._books.step(container, Step.DRAIN, now_s)
        container.reason = reason
        container.node.replacer.remove(container.id)
        self._registry.unmap(container)
        return self._tell(container, now_s)

    def _tell(self, container: Container, now_s: float) -> Command:
        """The order that a container's state stands for, to its kernel."""
        container.told_s = now_s
        kernel = container.node.identity
        if container.state is State.DRAINING:
            return Command(kernel, Kind.DRAIN, DrainMeta(self._term.epoch, container.id, container.reason))
        close = CloseMeta(self._term.epoch, container.id, container.reason, self._config.close_grace_s)
        return Command(kernel, Kind.CLOSE, close)

    def end_lanes_of(self, service: ServiceId, containers: list[Container], reason: str) -> list[Effect]:
        """Whoever calls the service by lanes to these containers must not go on."""
        return [
            Command(container.node.identity, Kind.DRAIN, DrainMeta(self._term.epoch, container.id, reason, service))
            for container in containers
        ]

    def end_lanes_of_strangers(self, container: Container, services: Iterable[ServiceId], now_s: float) -> list[Effect]:
        """`services` have lanes to a ready container: end those of services that it does not serve.

        They were deleted and the order was lost, or the store that knew them was.
        """
        strangers = [service for service in services if service not in container.group.services]
        if not strangers or now_s - container.strangers_told_s < self._config.order_again_s:
            return []
        container.strangers_told_s = now_s
        effects: list[Effect] = []
        for service in strangers:
            effects += self.end_lanes_of(service, [container], "its service is not known here")
        return effects

    def remind(self, node: Node, now_s: float) -> list[Effect]:
        """The kernel lives: tell it again what it has not carried out for long. Order or answer may have been lost."""
        return [
            self._tell(container, now_s)
            for container in node.containers.values()
            if (container.state is State.CLOSING or (container.state is State.DRAINING and not container.lanes_ended))
            and now_s - container.told_s >= self._config.order_again_s
        ]

    def lanes_ended(self, container: Container, now_s: float) -> list[Effect]:
        """Its kernel has ended its lanes, and grants no more."""
        container.lanes = container.lane_calls = 0
        if container.state is State.READY:  # an older switchboard gave that order: callers must get lanes elsewhere
            return self.evict(container, "its kernel has drained it", now_s)
        container.lanes_ended = container.state is State.DRAINING
        return self.drained(container, now_s)

    def drained(self, container: Container, now_s: float) -> list[Effect]:
        """A draining container may have no call and no lane left: then it is closed."""
        if container.state is not State.DRAINING or container.in_flight or not container.lanes_ended:
            return []
        return self._close(container, now_s)

    def _close(self, container: Container, now_s: float) -> list[Effect]:
        self._books.step(container, Step.CLOSE, now_s)
        return [self._tell(container, now_s)]

    def turned_away(self, container: Container, now_s: float) -> list[Effect]:
        """Its kernel handed a call back: the container has ended, and news of it is on the way."""
        if container.state is not State.READY:
            return []
        return [self._drain(container, "its kernel handed a call back", now_s)]
