"""Bugs that the core does not have: each is put in on purpose, and the simulation must find it.

An invariant that never fails proves nothing. Most of these were bugs of real systems, some of this one.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final
from unittest.mock import patch

from tests.simulation.records import SimContainer, SimKernel

from huterox_connector.core import books, placement, residency, victims
from huterox_connector.core.adoption import Adoption
from huterox_connector.core.calls import Calls
from huterox_connector.core.claims import Claims
from huterox_connector.core.faults import Faults
from huterox_connector.core.guards import Guard, guard_of
from huterox_connector.core.ids import IdSource
from huterox_connector.core.leaving import Leaving
from huterox_connector.core.lending import Lending
from huterox_connector.core.lifecycle import State
from huterox_connector.core.loading import Loading
from huterox_connector.core.nodeindex import NodeIndex
from huterox_connector.core.nodes import Nodes
from huterox_connector.core.reclaim import Reclaim
from huterox_connector.core.records import Group, Usage
from huterox_connector.core.residency import Residency
from huterox_connector.core.term import Term
from huterox_connector.core.usage import LaneUse
from huterox_wire.header import REQUEST_ID
from huterox_wire.nodes import HeartbeatMeta
from huterox_wire.route import CALLER

Mutant = Callable[[], AbstractContextManager[Any]]


def _does_nothing(owner: Any, name: str, result: Any = None) -> Mutant:
    return lambda: patch.object(owner, name, lambda *_, **__: list(result) if result is not None else None)


def _ignores(ignored: Guard) -> Mutant:
    """Who is guarded so leaves all the same."""

    def mutated(*args: Any) -> Guard | None:
        guard = guard_of(*args)
        return None if guard is ignored else guard

    return lambda: patch.object(victims, "guard_of", mutated)


def _around(owner: Any, name: str, mutate: Callable[..., Any]) -> Mutant:
    """Replace a method by `mutate`, which is given the real one first."""
    real = getattr(owner, name)
    return lambda: patch.object(owner, name, lambda self, *args, **more: mutate(real, self, *args, **more))


def _cancel_leaks(real: Any, self: Faults, caller: bytes, request_id: int, error: Any) -> Any:
    waiting = self._waiting.get((caller, request_id))
    effects = real(self, caller, request_id, error)
    if waiting is not None:
        waiting.service.in_flight += 1
    return effects


def _nobody_is_told(real: Any, self: Faults, *args: Any) -> Any:
    real(self, *args)
    return []


def _joins_unseen(real: Any, self: Faults, *args: Any) -> Any:
    return None if real(self, *args) is None else []


def _by_request_id(real: Any, self: Calls, kernel: bytes, route: bytes, first: Any) -> Any:
    """An answer's request id alone says whose it is."""
    call = self.get(route[CALLER], int.from_bytes(first[REQUEST_ID], "little"))
    return real(self, kernel, call.route if call is not None else route, first)


def _closed_at_once(real: Any, self: Leaving, container: Any, now_s: float) -> Any:
    container.lanes_ended = container.lanes_ended or container.state is State.DRAINING
    return real(self, container, now_s)


def _in_heartbeats_alone(real: Any, self: Nodes, node: Any, meta: Any, now_s: float) -> None:
    if isinstance(meta, HeartbeatMeta):
        real(self, node, meta, now_s)


def _at_first_alone(real: Any, self: Nodes, node: Any, meta: Any) -> None:
    if not isinstance(meta, HeartbeatMeta):
        real(self, node, meta)


def _share_mb(self: SimKernel, container: SimContainer, now_s: float) -> int:
    siblings = sum(other.zygote is container.zygote for other in self.containers.values())
    assert container.zygote is not None
    return container.held(now_s).host_mb + container.zygote.base_mb // (1 + siblings)


def _proportional() -> AbstractContextManager[Any]:
    """The kernels do it for once: when one sibling ends the others are charged more, and there is no room for that."""
    return patch.multiple(SimKernel, charge_mb=_share_mb, base_mb=lambda self: 0)


def _only_when_new(real: Any, self: NodeIndex, node: Any) -> None:
    if node.name not in self._keys:
        real(self, node)


@contextmanager
def _all_leave_for_one() -> Iterator[None]:
    """One load empties the whole node."""
    real = victims.find_victims

    def everybody(charge: Any, node: Any, wish: Any, now_s: float, config: Any) -> Any:
        found = real(charge, node, wish, now_s, config)
        if found is None:
            return None
        free = [c for c in node.containers.values() if guard_of(c, wish, now_s, config) is None]
        return victims.Victims(tuple(free), found.replacer)

    with patch.object(placement, "find_victims", everybody):
        yield


MUTANTS: Final[dict[str, Mutant]] = {
    "a pinned container is a victim": _ignores(Guard.PINNED),
    "a dedicated container is a victim": _ignores(Guard.DEDICATED),
    "a fresh container is a victim": _ignores(Guard.FRESH),
    "a hot container is a victim": _ignores(Guard.HOT),
    "a busy container is a victim before its turn": _ignores(Guard.BUSY),
    "a pinned container is closed as idle": lambda: patch.object(Group, "pinned", property(lambda _: False)),
    "one load makes all leave": _all_leave_for_one,
    "victims that are not needed leave too": lambda: patch.object(
        victims, "_without_needless", lambda chosen, *_: tuple(chosen)
    ),
    "what is leaving counts as gone": lambda: patch.object(books, "_PRESENT", frozenset({State.CREATING, State.READY})),
    "calls are refused though there is room": _does_nothing(residency, "find_place"),
    "a model is loaded twice at once": lambda: patch.object(Group, "resident", property(lambda g: bool(g.ready))),
    "big loads go on together": lambda: patch.object(Loading, "_must_queue", lambda *_: False),
    "what others have taken is not counted": _does_nothing(Nodes, "_count_foreign_use"),
    "what others have taken is not known at first": _around(Nodes, "_count_foreign_use", _in_heartbeats_alone),
    "loads go to closed nodes": lambda: patch.object(residency, "is_open", lambda *_: True),
    "the index of nodes is never renewed": _around(NodeIndex, "update", _only_when_new),
    "a claim is never given back": _does_nothing(Claims, "release"),
    "an error is told twice": _around(Faults, "fail", lambda real, *args: 2 * real(*args)),
    "a call that waited for a failed load is lost": _around(Faults, "fail", _nobody_is_told),
    "a cancelled call stays counted": _around(Faults, "cancel", _cancel_leaks),
    "calls that wait are never late": _does_nothing(Faults, "expire", ()),
    "calls that a broken connection lost are waited for": _does_nothing(Nodes, "_end_lost_calls", ()),
    "calls that wait for their turn are forgotten": _does_nothing(Faults, "admit", ()),
    "who joins those that wait is not told what follows": _around(Faults, "join", _joins_unseen),
    "calls of callers that have left are kept": _does_nothing(Faults, "forget"),
    "calls in flight are never late": _does_nothing(Calls, "expired", ()),
    "a late answer is given to the next call of its request id": _around(Calls, "answered", _by_request_id),
    "calls at a lost node have no end": _does_nothing(Residency, "fail_calls", ()),
    "a container is closed before its lanes have ended": _around(Leaving, "drained", _closed_at_once),
    "a container in use is lent": _around(
        Lending, "_borrowable", lambda _, self, group, now_s: next(self._lent_to(group, now_s), None)
    ),
    "a lost CREATE is waited for": _does_nothing(Nodes, "_end_missing", ()),
    "a restart counts lanes again": _does_nothing(LaneUse, "restore"),
    "a deleted service's usage is forgotten": _does_nothing(Usage, "add"),
    "a lost store begins its epochs anew": lambda: patch.object(Term, "is_behind", lambda *_: False),
    "handles are numbered by each start alone": _around(IdSource, "__init__", lambda real, self, _: real(self, 1)),
    "a name and a version prove what runs": lambda: patch.object(
        Adoption, "_is_of", lambda _, model, report: model.spec.version == report.version
    ),
    "lanes of services that are no more go on": _does_nothing(Leaving, "end_lanes_of_strangers", ()),
    "workers are charged proportional shares of their base": _proportional,
    "what workers share is not counted": _does_nothing(Nodes, "_count_base"),
    "what workers share is counted at first alone": _around(Nodes, "_count_base", _at_first_alone),
    "a ready container is not watched": _does_nothing(Reclaim, "watch"),
}
