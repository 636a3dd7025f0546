"""LRU: the last use counts."""

from tests.connector.core.replacer.pool import Pool, filled, insert, order_of

from huterox_connector.core.replacer.lru import Lru


def test_what_was_used_longest_ago_leaves_first() -> None:
    replacer = filled(Lru, 1, 2, 3)
    for cid in (1, 3, 2, 1):
        replacer.record_access(cid)
    assert order_of(replacer, {1, 2, 3}) == [3, 2, 1]


def test_how_often_does_not_count() -> None:
    replacer = filled(Lru, 1, 2)
    replacer.record_access(1, 1000)
    replacer.record_access(2)
    assert replacer.victim({1, 2}) == 1


def test_being_named_is_no_use() -> None:
    replacer = filled(Lru, 1, 2, 3)
    assert replacer.victim({2, 3}) == 2
    assert order_of(replacer, {1, 2, 3}) == [1, 2, 3]


def test_renewing_is_no_use() -> None:
    replacer = filled(Lru, 1, 2)
    insert(replacer, 1, nbytes=5, reload_cost_s=2.0)
    assert replacer.victim({1, 2}) == 1


def test_a_loop_that_is_one_too_long_misses_always() -> None:
    assert not any(Pool(Lru(), 4).requests(list(range(5)) * 10))
