"""One conformance suite for every replacement policy, and what each does of its own."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from huterox_connector.core.replacer import POLICIES, Replacer
from huterox_connector.core.replacer.clock import Clock
from huterox_connector.core.replacer.lru import Lru

ALL = pytest.mark.parametrize("make", POLICIES.values(), ids=POLICIES.keys())
Make = Callable[[], Replacer]


def filled(make: Make, *cids: int) -> Replacer:
    replacer = make()
    for cid in cids:
        replacer.insert(cid, nbytes=1, reload_cost_s=1.0)
    return replacer


@ALL
def test_no_victim_when_nothing_is_known(make: Make) -> None:
    assert make().victim({1, 2, 3}) is None


@ALL
def test_no_victim_when_nothing_known_is_evictable(make: Make) -> None:
    assert filled(make, 1, 2).victim({3}) is None
    assert filled(make, 1, 2).victim(set()) is None


@ALL
def test_victim_stays_known_until_it_is_removed(make: Make) -> None:
    replacer = filled(make, 1)
    assert replacer.victim({1}) == 1
    assert replacer.victim({1}) == 1
    replacer.remove(1)
    assert replacer.victim({1}) is None


@ALL
def test_unknown_ids_are_ignored(make: Make) -> None:
    replacer = filled(make, 1)
    replacer.record_access(99)
    replacer.remove(99)
    assert replacer.victim({1, 99}) == 1


@ALL
def test_first_in_leaves_first_when_nothing_was_used(make: Make) -> None:
    replacer = filled(make, 1, 2, 3)
    assert [_evict(replacer, {1, 2, 3}) for _ in range(3)] == [1, 2, 3]


@ALL
def test_inserting_again_keeps_the_rank(make: Make) -> None:
    replacer = filled(make, 1, 2)
    replacer.insert(1, nbytes=5, reload_cost_s=2.0)
    assert replacer.victim({1, 2}) == 1


@ALL
def test_used_one_outlives_unused_ones(make: Make) -> None:
    replacer = filled(make, 1, 2, 3)
    replacer.record_access(1)
    assert [_evict(replacer, {1, 2, 3}) for _ in range(3)] == [2, 3, 1]


@ALL
@given(steps=st.lists(st.tuples(st.sampled_from(["insert", "access", "remove", "victim"]), st.integers(0, 8))))
def test_victim_is_always_known_and_evictable(make: Make, steps: list[tuple[str, int]]) -> None:
    replacer, known = make(), set[int]()
    for step, cid in steps:
        if step == "insert":
            replacer.insert(cid, nbytes=1, reload_cost_s=1.0)
            known.add(cid)
        elif step == "access":
            replacer.record_access(cid, 2)
        elif step == "remove":
            replacer.remove(cid)
            known.discard(cid)
        else:
            evictable = set(range(cid))
            victim = replacer.victim(evictable)
            assert (victim in known & evictable) if known & evictable else victim is None


def test_lru_evicts_what_was_used_longest_ago() -> None:
    replacer = filled(Lru, 1, 2, 3)
    for cid in (1, 3, 2, 1):
        replacer.record_access(cid)
    assert [_evict(replacer, {1, 2, 3}) for _ in range(3)] == [3, 2, 1]


def test_clock_gives_each_used_one_a_second_chance() -> None:
    replacer = filled(Clock, 1, 2, 3)
    for cid in (1, 2, 3):
        replacer.record_access(cid)
    assert replacer.victim({1, 2, 3}) == 1  # all bits were set: the hand cleared them and came round


def test_clock_keeps_the_bit_of_what_may_not_leave() -> None:
    replacer = filled(Clock, 1, 2)
    replacer.record_access(1)
    assert _evict(replacer, {2}) == 2
    replacer.insert(3, nbytes=1, reload_cost_s=1.0)
    assert replacer.victim({1, 3}) == 3


def _evict(replacer: Replacer, evictable: set[int]) -> int | None:
    victim = replacer.victim(evictable)
    if victim is not None:
        replacer.remove(victim)
    return victim
