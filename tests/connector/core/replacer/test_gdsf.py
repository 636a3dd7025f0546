"""GDSF: what a byte saves, and an age that lets the unused fall behind."""

import pytest
from tests.connector.core.replacer.pool import Pool, evict, filled, insert, order_of

from huterox_connector.core.replacer.gdsf import NBYTES_MIN, RELOAD_COST_MAX_S, Gdsf
from huterox_connector.core.replacer.lfu import Lfu

MIB = 1 << 20


def test_the_largest_leaves_first_where_uses_and_costs_are_equal() -> None:
    replacer = Gdsf()
    for cid, mib in ((1, 100), (2, 400), (3, 200)):
        insert(replacer, cid, nbytes=mib * MIB)
    assert order_of(replacer, {1, 2, 3}) == [2, 3, 1]


def test_the_cheapest_to_load_again_leaves_first_where_uses_and_sizes_are_equal() -> None:
    replacer = Gdsf()
    for cid, cost_s in ((1, 3.0), (2, 0.5), (3, 20.0)):
        insert(replacer, cid, nbytes=100 * MIB, reload_cost_s=cost_s)
    assert order_of(replacer, {1, 2, 3}) == [2, 1, 3]


def test_uses_seconds_and_bytes_make_one_number() -> None:
    """Accesses x seconds / MiB: 1 x 8 / 4 = 2, 3 x 3 / 3 = 3, 10 x 1 / 4 = 2.5."""
    replacer = Gdsf()
    for cid, uses, cost_s, mib in ((1, 1, 8.0, 4), (2, 3, 3.0, 3), (3, 10, 1.0, 4)):
        insert(replacer, cid, nbytes=mib * MIB, reload_cost_s=cost_s)
        if uses > 1:
            replacer.record_access(cid, uses - 1)
    assert order_of(replacer, {1, 2, 3}) == [1, 3, 2]


def test_of_equals_the_least_recently_used_one_leaves() -> None:
    replacer = filled(Gdsf, 1, 2, 3)
    for cid in (2, 3, 1):
        replacer.record_access(cid)
    assert order_of(replacer, {1, 2, 3}) == [2, 3, 1]


def test_what_is_no_longer_used_falls_behind_where_lfu_keeps_it_for_ever() -> None:
    trace = [1] * 50 + [*range(100, 120)] * 10
    pools = {make: Pool(make(), 2, unit_nbytes=MIB) for make in (Gdsf, Lfu)}
    for pool in pools.values():
        pool.requests(trace)
    assert {make: pool.request(1) for make, pool in pools.items()} == {Gdsf: False, Lfu: True}


def test_the_age_rises_to_the_priority_of_what_was_evicted() -> None:
    """1 left at 3 uses. So a new one stands at 3 + 1: before 2 with its 3, behind 4 with its 5."""
    replacer = filled(Gdsf, 1, 2, 4)
    replacer.record_access(1, 2)
    replacer.record_access(2, 2)
    replacer.record_access(4, 4)
    assert evict(replacer, {1}) == 1
    insert(replacer, 3)
    assert order_of(replacer, {2, 3, 4}) == [2, 3, 4]


@pytest.mark.parametrize("named_and_spared", [False, True])
def test_one_that_leaves_for_another_reason_does_not_raise_the_age_by_its_worth(named_and_spared: bool) -> None:
    """However hot it was when it crashed, a new one is not worth more for that than 2, which was used twice."""
    replacer = filled(Gdsf, 1, 2)
    if named_and_spared:
        assert replacer.victim({1}) == 1  # at a worth of 1, which is what it says of room
    replacer.record_access(1, 1000)
    replacer.record_access(2, 2)
    replacer.remove(1)
    insert(replacer, 3)
    assert order_of(replacer, {2, 3}) == [3, 2]


def test_the_age_counts_from_the_last_use() -> None:
    """2 was used before the age rose to 5, 3 after it: 2 + 0 against 2 + 5."""
    replacer = filled(Gdsf, 1, 2, 3)
    replacer.record_access(1, 4)
    replacer.record_access(3)
    replacer.record_access(2)
    assert evict(replacer, {1}) == 1
    assert replacer.copy().victim({2, 3}) == 3
    replacer.record_access(3)
    assert replacer.copy().victim({2, 3}) == 2


def test_the_age_never_falls() -> None:
    """Named at 1 before another left at 5: gone after it."""
    replacer = filled(Gdsf, 1, 2, 3)
    replacer.record_access(2, 4)
    assert replacer.victim({1}) == 1
    assert evict(replacer, {2}) == 2
    replacer.remove(1)
    replacer.record_access(3, 4)  # 5 + 5
    insert(replacer, 4)  # 5 + 1
    insert(replacer, 5)
    replacer.record_access(5, 5)  # 5 + 6
    assert order_of(replacer, {3, 4, 5}) == [4, 3, 5]


def test_renewing_counts_new_costs_and_keeps_uses_and_age() -> None:
    replacer = filled(Gdsf, 1, 2)
    replacer.record_access(1, 3)
    insert(replacer, 1, nbytes=8 * MIB)  # 4 / 8 against 1
    assert replacer.copy().victim({1, 2}) == 1
    insert(replacer, 1, nbytes=2 * MIB)  # 4 / 2 against 1
    assert replacer.copy().victim({1, 2}) == 2


@pytest.mark.parametrize("nbytes", [0, 1, NBYTES_MIN])
def test_what_has_next_to_no_size_counts_as_a_mebibyte(nbytes: int) -> None:
    replacer = Gdsf()
    insert(replacer, 1, nbytes=nbytes)
    insert(replacer, 2, nbytes=2 * NBYTES_MIN, reload_cost_s=3.0)
    assert order_of(replacer, {1, 2}) == [1, 2]


def test_what_costs_nothing_leaves_first_and_ages_nothing() -> None:
    replacer = filled(Gdsf, 1, 2)
    insert(replacer, 1, reload_cost_s=0.0)
    replacer.record_access(1, 1000)
    assert evict(replacer, {1, 2}) == 1
    insert(replacer, 3)
    assert order_of(replacer, {2, 3}) == [2, 3]


@pytest.mark.parametrize("cost_s", [RELOAD_COST_MAX_S, 1e300, float("inf")])
def test_a_cost_beyond_reason_does_not_drown_the_others_once_it_has_left(cost_s: float) -> None:
    replacer = Gdsf()
    insert(replacer, 1, nbytes=MIB, reload_cost_s=cost_s)
    assert evict(replacer, {1}) == 1
    insert(replacer, 2, nbytes=80_000 * MIB, reload_cost_s=20.0)
    insert(replacer, 3, nbytes=80_000 * MIB, reload_cost_s=10.0)
    assert order_of(replacer, {2, 3}) == [3, 2]


def test_a_cost_that_is_no_number_counts_as_none() -> None:
    replacer = filled(Gdsf, 1, 2)
    insert(replacer, 2, reload_cost_s=float("nan"))
    assert order_of(replacer, {1, 2}) == [2, 1]
