"""One conformance suite for every replacement policy: what `Replacer` promises."""

from collections.abc import Callable, Sized
from random import Random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from tests.connector.core.replacer.pool import TRACES, Pool, evict, filled, insert, order_of

from huterox_connector.core.replacer import POLICIES, Replacer
from huterox_connector.core.replacer.s3fifo import GHOSTS_MAX

Make = Callable[[], Replacer]

ALL = pytest.mark.parametrize("make", POLICIES.values(), ids=POLICIES.keys())
IDS = range(8)
GIB = 1 << 30

ids = st.sampled_from(IDS)
some_ids = st.frozensets(ids)
pages = st.integers(0, 5)
sizes = st.sampled_from([0, 1, GIB, 7 * GIB, 2**63])
costs = st.sampled_from([0.0, 1e-300, 0.5, 20.0, 1e300, float("inf")])
counts = st.sampled_from([1, 2, 5, 2**63])


def test_the_policies_have_the_names_that_a_configuration_can_choose() -> None:
    assert list(POLICIES) == ["fifo", "lru", "lfu", "clock", "sieve", "s3fifo", "gdsf"]


class Conformance(RuleBasedStateMachine):
    """A replacer, and a twin that gets the same orders: made alike at first, copied from it later."""

    def __init__(self, make: Make) -> None:
        super().__init__()
        self.replacer, self.twin = make(), make()
        self.known: dict[int, dict[str, Any]] = {}

    def order(self) -> list[int]:
        return order_of(self.replacer, IDS)

    @rule(cid=ids, page=pages, nbytes=sizes, cost_s=costs)
    def insert(self, cid: int, page: int, nbytes: int, cost_s: float) -> None:
        self.known[cid] = {"page": page, "nbytes": nbytes, "reload_cost_s": cost_s}
        self.replacer.insert(cid, **self.known[cid])
        self.twin.insert(cid, **self.known[cid])

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def renewing_keeps_the_rank(self, data: st.DataObject) -> None:
        cid, before = data.draw(st.sampled_from(sorted(self.known))), self.order()
        self.replacer.insert(cid, **self.known[cid])
        assert self.order() == before

    @rule(cid=ids, count=counts)
    def access(self, cid: int, count: int) -> None:
        before = self.order()
        self.replacer.record_access(cid, count)
        self.twin.record_access(cid, count)
        assert cid in self.known or self.order() == before

    @rule(cid=ids)
    def remove(self, cid: int) -> None:
        before = self.order()
        self.replacer.remove(cid)
        self.twin.remove(cid)
        assert self.known.pop(cid, None) is not None or self.order() == before

    @rule(evictable=some_ids, leaves=st.booleans())
    def name_a_victim(self, evictable: frozenset[int], leaves: bool) -> None:
        before, tried_out = self.order(), self.replacer.copy().victim(evictable)
        assert self.order() == before
        victim = self.replacer.victim(evictable)
        assert victim == tried_out == self.twin.victim(evictable)
        if victim is None:
            assert not self.known.keys() & evictable
            assert self.order() == before
            return
        assert victim in self.known.keys() & evictable
        if leaves:
            self.remove(victim)

    @rule(evictable=some_ids)
    def naming_several_is_as_good_as_removing_each(self, evictable: frozenset[int]) -> None:
        trial, remaining, named = self.replacer.copy(), set(evictable), []
        while (victim := trial.victim(remaining)) is not None:
            remaining.remove(victim)
            named.append(victim)
        assert named == order_of(self.replacer, evictable)

    @rule()
    def put_a_copy_in_its_place(self) -> None:
        self.twin = self.replacer.copy()

    @rule(page=pages, nbytes=sizes, cost_s=costs, evictable=some_ids)
    def what_is_done_to_a_copy_stays_there(
        self, page: int, nbytes: int, cost_s: float, evictable: frozenset[int]
    ) -> None:
        before, copy = self.order(), self.replacer.copy()
        for cid in (*IDS, 99):
            copy.insert(cid, page=page, nbytes=nbytes, reload_cost_s=cost_s)
            copy.record_access(cid, 3)
        while evict(copy, evictable) is not None:
            pass
        assert self.order() == before == order_of(self.twin, IDS)

    @invariant()
    def evicting_all_empties_it(self) -> None:
        assert sorted(self.order()) == sorted(self.known)


@ALL
def test_a_policy_keeps_what_the_interface_promises(make: Make) -> None:
    run_state_machine_as_test(lambda: Conformance(make), settings=settings(max_examples=60, stateful_step_count=40))


@ALL
def test_no_victim_when_nothing_is_known(make: Make) -> None:
    assert make().victim({1, 2, 3}) is None


@ALL
def test_no_victim_when_nothing_known_is_evictable(make: Make) -> None:
    assert filled(make, 1, 2).victim({3}) is None
    assert filled(make, 1, 2).victim(set()) is None


@ALL
def test_a_victim_stays_known_until_it_is_removed(make: Make) -> None:
    replacer = filled(make, 1)
    assert replacer.victim({1}) == 1
    assert replacer.victim({1}) == 1
    replacer.remove(1)
    assert replacer.victim({1}) is None


@ALL
def test_first_in_leaves_first_when_nothing_was_used(make: Make) -> None:
    assert order_of(filled(make, 1, 2, 3), {1, 2, 3}) == [1, 2, 3]


@ALL
def test_what_may_not_leave_is_named_when_it_may_again(make: Make) -> None:
    replacer = filled(make, 1, 2, 3)
    assert evict(replacer, {2}) == 2
    assert sorted(order_of(replacer, {1, 3})) == [1, 3]


@ALL
@pytest.mark.parametrize("trace", TRACES)
def test_a_copy_goes_on_as_the_original_does(make: Make, trace: str) -> None:
    """Through thousands of loads, ghosts and ages included."""
    requests = TRACES[trace](Random(7), 2000)
    pool = Pool(make(), 20)
    pool.requests(requests[:1000])
    twin = Pool(
        pool.replacer.copy(), 20, cids=dict(pool.cids), pages=dict(pool.pages), used=pool.used, loads=pool.loads
    )
    assert pool.requests(requests[1000:]) == twin.requests(requests[1000:])


@ALL
@pytest.mark.parametrize("nbytes", [0, GIB])
def test_memory_is_bounded_by_what_is_resident_and_by_ghosts(make: Make, nbytes: int) -> None:
    """Where pages have no size, only their number bounds the ghosts."""
    replacer, slots = make(), 16
    resident: set[int] = set()
    for cid in range(20_000 if nbytes else 5000):
        if cid >= slots:
            victim = evict(replacer, resident)
            assert victim is not None
            resident.remove(victim)
        insert(replacer, cid, nbytes=nbytes)
        resident.add(cid)
    for held in vars(replacer).values():
        assert not isinstance(held, Sized) or len(held) <= (slots if nbytes else GHOSTS_MAX)


@ALL
def test_nothing_is_kept_of_what_left_without_being_named(make: Make) -> None:
    replacer = make()
    for cid in range(1000):
        insert(replacer, cid)
        replacer.record_access(cid)
        replacer.remove(cid)
    assert not [held for held in vars(replacer).values() if isinstance(held, Sized) and len(held)]
