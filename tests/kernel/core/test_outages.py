"""When orders wait for a zygote, and when they go elsewhere."""

from huterox_kernel.core.outages import REST_S, STARTS_MAX, Outage


def test_orders_wait_a_while_and_no_longer() -> None:
    outage = Outage(10.0)
    assert not outage.is_long(1000.0)
    outage.begin(1000.0)
    outage.begin(1005.0)  # started again: they have waited since the first
    assert not outage.is_long(1010.0)
    assert outage.is_long(1010.1)


def test_a_zygote_that_is_ready_ends_the_outage() -> None:
    outage = Outage(10.0)
    outage.begin(0.0)
    outage.end()
    assert not outage.is_long(100.0)
    outage.begin(200.0)
    assert not outage.is_long(205.0)


def test_a_failure_that_nobody_can_explain_is_not_tried_again_at_once() -> None:
    outage = Outage(10.0)
    assert outage.fail(5.0, is_explained=False)
    assert outage.is_resting(5.0 + REST_S - 0.1)
    assert not outage.is_resting(5.0 + REST_S)


def test_one_that_is_explained_is_until_there_are_too_many() -> None:
    outage = Outage(10.0)
    assert [outage.fail(0.0, is_explained=True) for _ in range(STARTS_MAX)] == [False] * (STARTS_MAX - 1) + [True]
    assert not outage.fail(REST_S, is_explained=True)


def test_what_is_ready_has_not_failed() -> None:
    outage = Outage(10.0)
    for _ in range(10 * STARTS_MAX):
        assert not outage.fail(0.0, is_explained=True)
        outage.end()
