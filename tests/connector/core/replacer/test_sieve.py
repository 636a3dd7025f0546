"""SIEVE: survivors keep their place, and the hand goes on from where it was."""

import pytest
from tests.connector.core.replacer.pool import Pool, evict, filled, insert, order_of

from huterox_connector.core.replacer.clock import Clock
from huterox_connector.core.replacer.fifo import Fifo
from huterox_connector.core.replacer.lru import Lru
from huterox_connector.core.replacer.sieve import Sieve


@pytest.mark.parametrize(("make", "order"), [(Sieve, [3, 4, 1]), (Clock, [3, 1, 4])])
def test_a_survivor_stays_behind_the_hand_where_clock_puts_it_before_the_new_ones(
    make: type[Sieve | Clock], order: list[int]
) -> None:
    replacer = filled(make, 1, 2, 3)
    replacer.record_access(1)
    assert evict(replacer, {1, 2, 3}) == 2
    insert(replacer, 4)
    assert order_of(replacer, {1, 3, 4}) == order


def test_from_the_newest_the_hand_goes_to_the_oldest() -> None:
    replacer = filled(Sieve, 1, 2, 3)
    replacer.record_access(1)
    replacer.record_access(2)
    assert evict(replacer, {1, 2, 3}) == 3
    insert(replacer, 4)
    assert order_of(replacer, {1, 2, 4}) == [1, 2, 4]


def test_where_all_were_visited_the_hand_comes_round_to_where_it_began() -> None:
    replacer = filled(Sieve, 1, 2, 3, 4)
    assert evict(replacer, {1, 2, 3, 4}) == 1
    assert evict(replacer, {2, 3, 4}) == 2
    insert(replacer, 5)
    for cid in (3, 4, 5):
        replacer.record_access(cid)
    assert order_of(replacer, {3, 4, 5}) == [3, 4, 5]


@pytest.mark.parametrize(("gone", "order"), [(1, [3, 4, 2]), (3, [4, 1, 2]), (4, [3, 1, 2])])
def test_the_hand_stays_where_it_is_when_another_one_leaves(gone: int, order: list[int]) -> None:
    replacer = filled(Sieve, 1, 2, 3, 4, 5)
    for cid in (1, 2):
        replacer.record_access(cid)
    replacer.remove(5)
    assert replacer.victim({1, 2, 3, 4}) == 3
    replacer.remove(gone)
    assert order_of(replacer, {1, 2, 3, 4} - {gone}) == order


def test_what_may_not_leave_keeps_its_bit() -> None:
    replacer = filled(Sieve, 1, 2, 3)
    replacer.record_access(1)
    assert replacer.victim({2, 3}) == 2
    assert evict(replacer, {3}) == 3
    assert order_of(replacer, {1, 2}) == [2, 1]


def test_a_scan_does_not_wash_out_what_is_used() -> None:
    """Four pages in use, and three new ones between their uses: more than the six slots hold."""
    rounds = 40
    scan = [page for at in range(rounds) for page in (1, 2, 3, 4, *range(100 + 3 * at, 103 + 3 * at))]
    trace = [1, 2, 3, 4, *scan]
    hits = {make: sum(Pool(make(), 6).requests(trace)) for make in (Sieve, Lru, Fifo)}
    assert hits == {Sieve: rounds * 4, Lru: 4, Fifo: 4}
