"""LFU: the number of uses counts."""

from tests.connector.core.replacer.pool import Pool, filled, insert, order_of

from huterox_connector.core.replacer.lfu import Lfu


def test_what_was_used_least_often_leaves_first() -> None:
    replacer = filled(Lfu, 1, 2, 3)
    replacer.record_access(1, 5)
    replacer.record_access(2)
    replacer.record_access(3, 2)
    assert order_of(replacer, {1, 2, 3}) == [2, 3, 1]


def test_one_report_of_many_calls_counts_as_many() -> None:
    replacer = filled(Lfu, 1, 2)
    replacer.record_access(1, 3)
    for _ in range(4):
        replacer.record_access(2)
    assert replacer.victim({1, 2}) == 1


def test_of_equals_the_least_recently_used_one_leaves() -> None:
    replacer = filled(Lfu, 1, 2, 3)
    for cid in (2, 3, 1):
        replacer.record_access(cid)
    assert order_of(replacer, {1, 2, 3}) == [2, 3, 1]


def test_counts_are_of_this_stay_only() -> None:
    replacer = filled(Lfu, 1, 2)
    replacer.record_access(1, 100)
    replacer.remove(1)
    insert(replacer, 3, page=1)
    replacer.record_access(2)
    assert replacer.victim({2, 3}) == 3


def test_what_was_hot_once_stays_where_nothing_ages() -> None:
    """The known weakness, and why GDSF has an age."""
    pool = Pool(Lfu(), 2)
    pool.requests([1] * 50)
    pool.requests([*range(100, 120)] * 10)
    assert pool.request(1)
