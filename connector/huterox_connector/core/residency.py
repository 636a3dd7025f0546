"""Who becomes resident: a fault finds a place, makes room there, loads; and what follows when that ends."""

from typing import Final

from huterox_connector.core.books import Books
from huterox_connector.core.calls import Call, Calls
from huterox_connector.core.claims import Claims
from huterox_connector.core.config import CoreConfig
from huterox_connector.core.effects import Effect, Refuse
from huterox_connector.core.faults import Faults
from huterox_connector.core.guards import Wish, explain, guard_of, wish_of
from huterox_connector.core.health import REFUSED, Health
from huterox_connector.core.ids import IdSource
from huterox_connector.core.journal import Journal
from huterox_connector.core.leaving import Leaving
from huterox_connector.core.lifecycle import State
from huterox_connector.core.loading import Loading
from huterox_connector.core.nodeindex import NodeIndex
from huterox_connector.core.placement import Place, find_place, is_open
from huterox_connector.core.records import Container, Group, Node
from huterox_connector.core.refusals import Refusals
from huterox_connector.core.registry import Registry
from huterox_connector.core.survey import Survey, survey
from huterox_connector.core.vectors import Amounts
from huterox_wire.errors import HuteroxError, ModelError, Unavailable, WorkerLost

LOOKS_MAX: Final = 8
"""Waiting groups for which room is looked for on all nodes in one go, those first that were looked at longest ago."""

RETRIES_MAX: Final = 32
"""Waiting groups that are tried on a node that something has left, those that wait longest first."""


class Residency:
    """Decides loads, and who leaves for them. Kernels carry them out and report back."""

    def __init__(
        self,
        registry: Registry,
        books: Books,
        index: NodeIndex,
        loading: Loading,
        leaving: Leaving,
        calls: Calls,
        faults: Faults,
        refusals: Refusals,
        health: Health,
        journal: Journal,
        ids: IdSource,
        config: CoreConfig,
    ) -> None:
        self._registry = registry
        self._books = books
        self._index = index
        self._loading = loading
        self._leaving = leaving
        self._calls = calls
        self._faults = faults
        self._refusals = refusals
        self._health = health
        self._journal = journal
        self._ids = ids
        self._config = config
        self._claims = Claims(registry, config)

    # Finding a place.

    def fault(self, group: Group, reason: str, now_s: float) -> list[Effect]:
        """Calls wait for `group`: see to it that a container is on its way. Joins a load that is under way."""
        if group.resident or not group.waiting:
            return []
        if group.last_error is not None and now_s < group.retry_at_s:
            return self._faults.fail(group, self._load_refused(group, now_s))
        if self._refusals.is_known(group, now_s):
            return self._refusals.end_vain(group, now_s)
        seen = self._look(group, now_s)
        place = self._place(seen, seen.open, now_s)
        if place is not None:
            return self.load(seen.wish, place, reason, now_s)
        if not seen.nodes:
            return []  # no kernel: `lose_patience` tells
        claimed = self._claim(seen.wish, seen.open, now_s)
        self._refusals.looked(seen, now_s)
        return claimed + self._refusals.end_vain(group, now_s)

    def _place(self, seen: Survey, nodes: list[Node], now_s: float, *, may_evict: bool = True) -> Place | None:
        """Where it failed lately is the last resort."""
        wish = seen.wish
        others = [node for node in nodes if not wish.group.failed_lately(node.name, now_s)]
        place = find_place(wish, others, now_s, self._config, may_evict=may_evict)
        if place is None and len(others) < len(nodes):
            place = find_place(wish, nodes, now_s, self._config, may_evict=may_evict)
        return place

    def add_replica(self, group: Group, reason: str, now_s: float, avoid: Node | None = None) -> list[Effect] | None:
        """One more container for a group that has some, where it fits without an eviction; None: nowhere."""
        seen = self._look(group, now_s)
        nodes = [node for node in seen.open if node is not avoid]
        place = self._place(seen, nodes, now_s, may_evict=False)
        return self.load(seen.wish, place, reason, now_s) if place is not None else None

    def _look(self, group: Group, now_s: float) -> Survey:
        """What is seen now; the next look sees other nodes, where they are many."""
        seen = survey(wish_of(group, now_s, self._config), self._index, now_s, self._config)
        group.looks += 1
        return seen

    def load(self, wish: Wish, place: Place, reason: str, now_s: float) -> list[Effect]:
        """Plan a container at `place`, and see to it that who must leave does."""
        group, node = wish.group, place.node
        self._claims.release(group)
        container = self._loading.plan(group, place, self._ids.next(), reason, now_s)
        refault = node.ghosts.refault(group.key, now_s)
        effects: list[Effect] = [
            self._journal.record(
                "load",
                f"{group.model.name} {container.title}",
                reason,
                now_s,
                node=node.name,
                needs=place.charge.facts(),
                free=node.limit.less(node.present).facts(),
                load_s_expected=round(place.load_s, 3),
                waited_s=round(now_s - wish.since_s, 3),
                waiting=len(group.waiting),
                **({"refault": refault.facts()} if refault is not None else {}),
                **self._about_victims(wish, place, now_s),
            )
        ]
        if place.victims is not None:
            node.replacer = place.victims.replacer
        room = node.room  # with the new one, and before anybody leaves for it: what is below zero is short
        for victim in place.leaving:
            effects += self._make_leave(victim, group, room, now_s)
        return effects + self._loading.start_planned(node, now_s)

    def _about_victims(self, wish: Wish, place: Place, now_s: float) -> dict[str, object]:
        """Who leaves and at what cost, and what keeps the others; nothing does where the replacer preferred others."""
        if place.victims is None:
            return {}
        stays = {
            other.title: explain(guard_of(other, wish, now_s, self._config), other, wish, now_s, self._config)
            or "the policy keeps it"
            for other in place.node.containers.values()
            if other not in place.leaving and other.state is State.READY
        }
        cost_s = round(place.victims.cost_s, 3)
        return {"makes_leave": [victim.title for victim in place.leaving], "cost_s": cost_s, "stays": stays}

    def _make_leave(self, victim: Container, group: Group, room: Amounts, now_s: float) -> list[Effect]:
        node = victim.node
        if victim.state is not State.READY:
            victim.group.gave_way = True
            reason = f"room for {group.model.name}: nobody waits for this load any more"
            return self._leaving.evict(victim, reason, now_s, policy=node.policy)
        surplus = len(victim.group.ready) > 1
        if not surplus:  # a replica's group does not fault for it
            node.ghosts.evicted(
                victim.group.key,
                victim.charge.nbytes,
                victim.load_s,
                group.model.name,
                now_s,
                for_memory=room.host_bytes < 0 or any(nbytes < 0 for nbytes in room.devices.values()),
                for_slot=room.slots < 0,
            )
        idle_s = now_s - victim.used_s
        standing = (
            "a replica that others can stand in for" if surplus else f"{node.policy} victim of those that may leave"
        )
        reason = (
            f"room for {group.model.name}: {standing}, last used {idle_s:.1f} s ago, {victim.hits} calls in its life"
        )
        return self._leaving.evict(victim, reason, now_s, policy=node.policy)

    # No place.

    def _claim(self, wish: Wish, open_nodes: list[Node], now_s: float) -> list[Effect]:
        node = self._claims.claim(wish, open_nodes, now_s)
        if node is None:
            return []
        waited_s = now_s - wish.since_s
        reason = f"{wish.group.model.name} has waited {waited_s:.1f} s for room: nothing else is loaded until it has it"
        return [self._journal.record("claim", node.name, reason, now_s, model=wish.group.model.name)]

    def _load_refused(self, group: Group, now_s: float) -> HuteroxError:
        error = group.last_error
        assert isinstance(error, HuteroxError)
        left_s = round(group.retry_at_s - now_s, 3)
        facts = {**error.details, "retry_after_s": left_s, "failures": group.failures}
        again = type(error)(
            f"{error.message} (the next attempt to load is due in {left_s} s)", retryable=error.retryable
        )
        again.details = facts
        return again

    # What ends.

    def ended(self, container: Container, cause: str, reason: str, traceback: str, now_s: float) -> list[Effect]:
        """A container is gone and its memory is back: go on with what waited for its room.

        Calls that are in flight to it are its kernel's to answer, or to hand back: some may have crossed the news. Only
        where the kernel does not know of them any more do they end here.
        """
        was_loading = container.state in (State.PLANNED, State.CREATING)
        self._books.leave(container, now_s)
        kind = "gone"
        if cause not in ("closed", "node_lost"):
            kind = "load_failed" if was_loading else "crash"
        subject, node = f"{container.spec.name} {container.title}", container.node
        effects: list[Effect] = [self._journal.record(kind, subject, reason, now_s, cause=cause, node=node.name)]
        if cause == "node_lost" and container.in_flight:
            effects += self.fail_calls(self._calls.of_container(container), reason, now_s)
        if kind == "load_failed":
            effects += self._load_failed(container, cause, reason, traceback, now_s)
        effects += self._loading.start_planned(node, now_s)
        return effects + self._retry_on(node, now_s)

    def _load_failed(self, container: Container, cause: str, reason: str, traceback: str, now_s: float) -> list[Effect]:
        group, name = container.group, container.spec.name
        effects = self._health.failed(container, cause, now_s)
        group.failed_on = {node: until_s for node, until_s in group.failed_on.items() if now_s < until_s}
        group.failed_on[container.node.name] = now_s + self._config.backoff_max_s
        if cause == REFUSED and self._may_load_elsewhere(group, now_s):
            return effects  # its calls wait on: the model has done nothing wrong
        group.failures += cause != REFUSED
        backoff_s = self._config.backoff_first_s * 2.0 ** min(max(group.failures - 1, 0), 16)
        group.retry_at_s = now_s + min(backoff_s, self._config.backoff_max_s)
        if group.resident:
            return effects  # a replica's failure: others serve
        if cause == "refused":
            group.last_error = Unavailable(f"node {container.node.name!r} refused to load {name!r}: {reason}")
        elif cause == "load_timeout":
            group.last_error = Unavailable(f"model {name!r} did not load in time: {reason}", model=name)
        else:
            group.last_error = ModelError(f"model {name!r} failed to load: {reason}", traceback=traceback, model=name)
        return effects + self._faults.fail(group, group.last_error)

    def _may_load_elsewhere(self, group: Group, now_s: float) -> bool:
        return any(
            is_open(node, group, now_s, self._config) and not group.failed_lately(node.name, now_s)
            for node in self._registry.nodes.values()
        )

    def fail_calls_of(self, node: Node, reason: str, now_s: float) -> list[Effect]:
        """The node is lost: nobody will answer calls to containers that had gone from it before, either."""
        return self.fail_calls(self._calls.of_node(node), reason, now_s)

    def fail_calls(self, calls: list[Call], reason: str, now_s: float) -> list[Effect]:
        """Nobody will answer these. A container that was draining may have waited for the last of them."""
        effects: list[Effect] = []
        for call in calls:
            self._calls.drop(call)
            container = call.container
            error = WorkerLost(
                f"container {container.title} of model {container.spec.name!r} ended: {reason}",
                executed="maybe",
                container=container.title,
            )
            effects.append(Refuse(call.caller, call.request_id, error))
            effects += self._leaving.drained(container, now_s)
        return effects

    # Time.

    def retry(self, now_s: float) -> list[Effect]:
        """Room may have come: try waiting groups again."""
        effects: list[Effect] = []
        self._claims.sweep(now_s)
        unknown: list[Group] = []
        for group in self._waiting():
            if not self._refusals.is_known(group, now_s):
                unknown.append(group)
            else:
                effects += self._refusals.end_vain(group, now_s)
        unknown.sort(key=lambda group: (self._refusals.looked_s(group), group.waiting.oldest.arrived_s))
        for group in unknown[:LOOKS_MAX]:
            effects += self.fault(group, f"fault by {group.waiting.oldest.service.title}", now_s)
        return effects

    def retry_anew(self, now_s: float) -> list[Effect]:
        """The same, after a change that frees room without anything leaving."""
        self._books.changed()
        return self.retry(now_s)

    def _retry_on(self, node: Node, now_s: float) -> list[Effect]:
        """Something has left `node`: who has waited longest may have room there.

        Nobody leaves for it: whether there is room elsewhere is looked at in the next `retry`.
        """
        effects: list[Effect] = []
        if self._registry.nodes.get(node.identity) is not node:
            return effects
        for group in sorted(self._waiting(), key=lambda group: group.waiting.oldest.arrived_s)[:RETRIES_MAX]:
            if now_s < group.retry_at_s or not is_open(node, group, now_s, self._config):
                continue
            if group.failed_lately(node.name, now_s):
                continue  # others are tried first, which `retry` does
            wish = wish_of(group, now_s, self._config)
            if (place := find_place(wish, [node], now_s, self._config, may_evict=False)) is not None:
                effects += self.load(wish, place, f"fault by {group.waiting.oldest.service.title}", now_s)
        return effects

    def _waiting(self) -> list[Group]:
        # Many lines wait for a load that is under way: `resident`, looked up here without the call.
        return [group for group in self._faults.groups() if not (group.ready or group.coming)]

    def lose_patience(self, now_s: float) -> list[Effect]:
        """End the faults of a platform without nodes."""
        if self._registry.nodes:
            return []
        patience_s = self._config.no_node_patience_s
        error = Unavailable("no kernel is registered with this switchboard", retry_after_s=patience_s)
        effects: list[Effect] = []
        for group in self._faults.groups():
            effects += self._faults.fail(group, error, lambda w: now_s - w.arrived_s >= patience_s)
        return effects
