"""Clock: a second chance for what was used since the hand last came by."""

from tests.connector.core.replacer.pool import evict, filled, insert, order_of

from huterox_connector.core.replacer.clock import Clock


def test_what_was_used_gets_a_second_chance() -> None:
    replacer = filled(Clock, 1, 2, 3)
    replacer.record_access(1)
    assert order_of(replacer, {1, 2, 3}) == [2, 3, 1]


def test_where_all_were_used_the_hand_comes_round_to_the_first() -> None:
    replacer = filled(Clock, 1, 2, 3)
    for cid in (3, 2, 1):
        replacer.record_access(cid)
    assert order_of(replacer, {1, 2, 3}) == [1, 2, 3]


def test_a_second_chance_is_no_third() -> None:
    replacer = filled(Clock, 1, 2, 3)
    replacer.record_access(1, 1000)
    assert evict(replacer, {1, 2, 3}) == 2  # the hand has cleared the bit of 1 and gone on
    assert evict(replacer, {1, 3}) == 3
    insert(replacer, 4)
    assert evict(replacer, {1, 4}) == 1


def test_a_new_one_comes_behind_the_hand_and_is_judged_last() -> None:
    replacer = filled(Clock, 1, 2, 3)
    replacer.record_access(1)
    assert evict(replacer, {1, 2, 3}) == 2
    insert(replacer, 4)
    assert order_of(replacer, {1, 3, 4}) == [3, 1, 4]


def test_what_may_not_leave_keeps_its_bit() -> None:
    replacer = filled(Clock, 1, 2)
    replacer.record_access(1)
    assert evict(replacer, {2}) == 2
    insert(replacer, 3)
    assert replacer.victim({1, 3}) == 3


def test_what_may_not_leave_keeps_its_place() -> None:
    replacer = filled(Clock, 1, 2, 3)
    replacer.record_access(2)
    assert evict(replacer, {2, 3}) == 3
    assert order_of(replacer, {1, 2}) == [1, 2]


def test_one_that_was_named_and_spared_is_the_next_to_be_judged() -> None:
    replacer = filled(Clock, 1, 2, 3)
    assert replacer.victim({1, 2, 3}) == 1
    assert evict(replacer, {2, 3}) == 2
    assert replacer.victim({1, 3}) == 1
