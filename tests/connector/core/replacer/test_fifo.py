"""FIFO: age alone counts."""

from tests.connector.core.replacer.pool import filled, insert, order_of

from huterox_connector.core.replacer.fifo import Fifo


def test_the_oldest_leaves_however_much_it_was_used() -> None:
    replacer = filled(Fifo, 1, 2, 3)
    replacer.record_access(1, 1000)
    assert order_of(replacer, {1, 2, 3}) == [1, 2, 3]


def test_a_page_that_was_loaded_again_is_new() -> None:
    replacer = filled(Fifo, 1, 2)
    replacer.remove(1)
    insert(replacer, 3, page=1)
    assert order_of(replacer, {2, 3}) == [2, 3]


def test_sizes_and_costs_do_not_count() -> None:
    replacer = filled(Fifo, 1, 2)
    insert(replacer, 1, nbytes=1, reload_cost_s=1e9)
    insert(replacer, 2, nbytes=1 << 40, reload_cost_s=0.0)
    assert order_of(replacer, {1, 2}) == [1, 2]
