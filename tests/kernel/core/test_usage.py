"""Totals of what lanes did, by service."""

from hypothesis import given
from hypothesis import strategies as st

from huterox_kernel.core.usage import SERVICES_MAX, Usage
from huterox_shm.layout import LaneCounters
from huterox_wire.nodes import LaneUsage

X, Y = 11, 12


def counts(calls: int, errors: int = 0, busy_us: int = 0, activity_us: int = 0) -> LaneCounters:
    return LaneCounters(calls, calls, errors, busy_us, activity_us)


def test_lanes_that_are_there_and_lanes_that_have_gone_add_up() -> None:
    usage = Usage()
    usage.add(X, counts(3, 1, 30, activity_us=500))
    usage.add(Y, counts(1, 0, 10, activity_us=100))
    there = [(X, counts(4, 1, 40, activity_us=900)), (X, counts(0))]
    assert usage.report(there, now_us=1000) == [LaneUsage(X, 7, 2, 70, 100), LaneUsage(Y, 1, 0, 10, 900)]


def test_calls_that_are_only_taken_do_not_count_yet() -> None:
    assert Usage().report([(X, LaneCounters(5, 0, 0, 0, 7))], now_us=10) == []


def test_the_time_since_the_last_call_is_never_negative() -> None:
    """The worker's clock is read after the kernel's."""
    (row,) = Usage().report([(X, counts(1, activity_us=1001))], now_us=1000)
    assert row.idle_us == 0


def test_a_service_too_many_has_no_room_but_known_ones_do() -> None:
    usage = Usage()
    for service in range(SERVICES_MAX):
        assert usage.has_room(service)
        usage.know(service)
    assert not usage.has_room(SERVICES_MAX)
    assert usage.has_room(3)


lanes = st.lists(st.tuples(st.sampled_from([X, Y]), st.lists(st.integers(0, 9), max_size=5)), max_size=8)


@given(lanes)
def test_totals_never_fall_and_count_every_call_once(opened: list[tuple[int, list[int]]]) -> None:
    """Lanes come, do some calls in several steps, and go; after each step the totals are what was done so far."""
    usage = Usage()
    done = {X: 0, Y: 0}
    for service, steps in opened:
        usage.know(service)
        here = 0
        for step in steps:
            here += step
            done[service] += step
            reported = {row.service: row.calls for row in usage.report([(service, counts(here))], 0)}
            assert reported == {key: value for key, value in done.items() if value}
        usage.add(service, counts(here))
    assert {row.service: row.calls for row in usage.report([], 0)} == {k: v for k, v in done.items() if v}
