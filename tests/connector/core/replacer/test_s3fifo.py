"""S3-FIFO: on probation first; in the main queue when used twice, or when back soon."""

import pytest
from tests.connector.core.replacer.pool import Pool, evict, filled, insert, order_of

from huterox_connector.core.replacer.lru import Lru
from huterox_connector.core.replacer.s3fifo import GHOSTS_MAX, S3Fifo

SCANNED = 999


def with_main(*cids: int) -> S3Fifo:
    """`cids` in the main queue with no bits set, and nothing in the small one."""
    replacer = S3Fifo()
    for cid in cids:
        insert(replacer, cid)
        replacer.record_access(cid, 2)
    insert(replacer, SCANNED)
    assert evict(replacer, {*cids, SCANNED}) == SCANNED
    return replacer


def test_one_further_use_does_not_end_probation() -> None:
    replacer = filled(S3Fifo, 1, 2)
    replacer.record_access(1)
    assert order_of(replacer, {1, 2}) == [1, 2]


def test_two_further_uses_lead_on_to_the_main_queue() -> None:
    replacer = filled(S3Fifo, 1, 2, 3)
    replacer.record_access(1)
    replacer.record_access(1)
    assert order_of(replacer, {1, 2, 3}) == [2, 3, 1]


def test_bits_are_cleared_on_the_way_to_the_main_queue() -> None:
    replacer = with_main(1, 2)
    assert order_of(replacer, {1, 2}) == [1, 2]
    replacer.record_access(1)
    assert order_of(replacer, {1, 2}) == [2, 1]


@pytest.mark.parametrize(("uses", "rounds"), [(1, 1), (2, 2), (3, 3), (1000, 3)])
def test_in_the_main_queue_each_use_is_worth_a_round_up_to_three(uses: int, rounds: int) -> None:
    """Against one that was used as often as a round is worth, and comes later in line."""
    replacer = with_main(1, 2)
    replacer.record_access(1, uses)
    replacer.record_access(2, rounds)
    assert replacer.copy().victim({1, 2}) == 1
    replacer.insert(3, page=SCANNED, nbytes=1, reload_cost_s=1.0)  # a ghost: it enters the main queue
    assert order_of(replacer, {1, 2, 3}) == [3, 1, 2]


def test_the_small_queue_is_spared_below_a_tenth_of_the_bytes() -> None:
    replacer = with_main(1, 2)
    insert(replacer, 1, nbytes=500)
    insert(replacer, 2, nbytes=500)
    insert(replacer, 3, nbytes=100)
    assert replacer.copy().victim({1, 2, 3}) == 1  # 100 of 1100
    insert(replacer, 3, nbytes=112)
    assert replacer.copy().victim({1, 2, 3}) == 3  # 112 of 1112


def test_where_one_queue_may_not_leave_the_other_is_asked() -> None:
    replacer = with_main(1, 2)
    insert(replacer, 3)
    assert replacer.copy().victim({1, 2, 3}) == 3
    assert replacer.copy().victim({1, 2}) == 1
    insert(replacer, 1, nbytes=500)
    assert replacer.copy().victim({1, 2, 3}) == 1
    assert replacer.copy().victim({3}) == 3
    replacer.record_access(3, 2)
    assert replacer.copy().victim({3}) == 3  # on the way through the main queue


def test_what_may_not_leave_keeps_its_bits_and_its_place() -> None:
    replacer = with_main(1, 2, 3)
    replacer.record_access(1)
    replacer.record_access(3)
    assert evict(replacer, {2}) == 2
    insert(replacer, 4, page=SCANNED)
    assert order_of(replacer, {1, 3, 4}) == [4, 1, 3]


def test_a_page_that_comes_back_as_a_ghost_enters_the_main_queue() -> None:
    replacer = filled(S3Fifo, 1, 2, 3)
    assert evict(replacer, {1, 2, 3}) == 1
    insert(replacer, 4, page=1)
    insert(replacer, 5)
    assert order_of(replacer, {2, 3, 4, 5}) == [2, 3, 5, 4]


def test_a_ghost_is_one_only_once() -> None:
    replacer = filled(S3Fifo, 1, 2, 3)
    assert evict(replacer, {1, 2, 3}) == 1
    insert(replacer, 4, page=1)
    replacer.remove(4)
    insert(replacer, 5, page=1)
    insert(replacer, 6)
    assert order_of(replacer, {2, 3, 5, 6}) == [2, 3, 5, 6]


def test_one_that_left_unnamed_leaves_no_ghost() -> None:
    replacer = filled(S3Fifo, 1, 2, 3)
    replacer.remove(1)
    insert(replacer, 4, page=1)
    insert(replacer, 5)
    assert order_of(replacer, {2, 3, 4, 5}) == [2, 3, 4, 5]


@pytest.mark.parametrize(("nbytes", "remembered"), [(1, True), (2, True), (3, False)])
def test_ghosts_stand_for_no_more_bytes_than_are_resident(nbytes: int, remembered: bool) -> None:
    """A ghost of one byte, the oldest, another of `nbytes`, and three bytes resident."""
    replacer = S3Fifo()
    insert(replacer, 1, nbytes=1)
    insert(replacer, 2, nbytes=nbytes)
    insert(replacer, 3, nbytes=2)
    assert evict(replacer, {1}) == 1
    assert evict(replacer, {2}) == 2
    insert(replacer, 4, nbytes=1)
    insert(replacer, 5, page=1, nbytes=1)
    insert(replacer, 6, nbytes=1)
    assert order_of(replacer, {3, 4, 5, 6}) == ([3, 4, 6, 5] if remembered else [3, 4, 5, 6])


def test_ghosts_without_a_size_are_bounded_by_their_number() -> None:
    replacer = S3Fifo()
    for cid in range(GHOSTS_MAX + 1):
        insert(replacer, cid, nbytes=0)
        assert evict(replacer, {cid}) == cid
    insert(replacer, 5001, page=0, nbytes=0)  # forgotten
    insert(replacer, 5002, page=1, nbytes=0)  # the oldest that is left
    insert(replacer, 5003, nbytes=0)
    assert order_of(replacer, {5001, 5002, 5003}) == [5001, 5003, 5002]


def test_a_scan_does_not_wash_out_what_is_used() -> None:
    """Six pages that are used in turn, then scans of twelve that are used once, in ten slots."""
    used, scan = (1, 2, 3, 4, 5, 6), range(100, 112)
    trace = [page for at in range(40) for page in (*used, *used, *used, *(page + 12 * at for page in scan))]
    hits = {make: sum(Pool(make(), 10).requests(trace)) for make in (S3Fifo, Lru)}
    assert hits == {S3Fifo: 12 + 39 * 18, Lru: 40 * 12}
