"""Which workers are taken for hung."""

import pytest

from huterox_kernel.core.hangs import Hangs, Sight, together
from huterox_shm.layout import NO_END

A = 1 << 32 | 1
IDLE = Sight(0, 10, False, False)
GRACE_S, DRAIN_S = 5.0, 30.0


def looks(hangs: Hangs, sight: Sight, until_s: float, begin_s: float = 100.0) -> tuple[float, str]:
    """Look once a second; when it is taken for hung and why."""
    at_s = begin_s
    while at_s <= until_s:
        if reason := hangs.look(A, sight, at_s):
            return at_s, reason
        at_s += 1.0
    return 0.0, ""


def made() -> Hangs:
    return Hangs(GRACE_S, DRAIN_S)


def test_a_worker_that_idles_or_runs_within_its_calls_time_is_let_be() -> None:
    assert looks(made(), IDLE, 1000.0) == (0.0, "")
    assert looks(made(), Sight(2_000_000_000, 10, True, True), 2004.0) == (0.0, "")
    assert looks(made(), Sight(NO_END, 10, True, True), 5000.0) == (0.0, "")


def test_one_that_is_not_back_after_its_calls_deadline_and_the_grace_is_hung() -> None:
    at_s, reason = looks(made(), Sight(110_000_000, 10, False, True), 200.0)
    assert at_s == 115.0
    assert reason == "it did not come back from a call whose time was over 5.0 s ago"


def test_what_was_seen_once_is_looked_at_again() -> None:
    """The whole machine was paused: the worker may be back a moment after its kernel."""
    hangs = made()
    assert not hangs.look(A, Sight(110_000_000, 10, False, True), 500.0)
    assert not hangs.look(A, Sight(0, 12, False, False), 500.2)
    assert not hangs.look(A, Sight(490_000_000, 12, False, True), 501.0)
    assert hangs.look(A, Sight(490_000_000, 12, False, True), 502.0)


def test_one_that_does_not_look_for_calls_is_hung() -> None:
    at_s, reason = looks(made(), Sight(0, 10, True, True), 200.0)
    assert at_s == 105.0
    assert reason == "calls wait for it, and it has not looked at them for 5.0 s"


def test_one_that_works_has_always_something_before_it() -> None:
    hangs = made()
    for second in range(100):
        assert not hangs.look(A, Sight(0, second, True, True), 100.0 + second)


def test_one_that_is_to_drain_and_does_nothing_is_hung() -> None:
    hangs = made()
    busy = Sight(NO_END, 10, False, True)
    assert looks(hangs, busy, 110.0) == (0.0, "")
    hangs.drain(A, 110.5)
    hangs.drain(A, 120.0)  # told again: the time goes on
    assert looks(hangs, busy, 200.0, 111.0)[0] == 141.0


def test_one_that_drains_and_has_nothing_left_or_goes_on_is_let_be() -> None:
    hangs = made()
    hangs.drain(A, 100.0)
    assert looks(hangs, IDLE, 500.0) == (0.0, "")
    for second in range(100):
        assert not hangs.look(A, Sight(NO_END, second, False, True), 600.0 + second)


def test_nothing_is_remembered_of_one_that_has_ended() -> None:
    hangs = made()
    hangs.drain(A, 100.0)
    hangs.look(A, Sight(NO_END, 10, False, True), 100.0)
    hangs.forget(A)
    assert looks(hangs, Sight(NO_END, 10, False, True), 500.0) == (0.0, "")


@pytest.mark.parametrize(
    ("sights", "all_in_all"),
    [
        ([IDLE], IDLE),
        ([IDLE, Sight(7, 5, True, False), Sight(0, 1, False, True)], Sight(7, 16, True, True)),
    ],
)
def test_lanes_are_seen_together(sights: list[Sight], all_in_all: Sight) -> None:
    assert together(sights) == all_in_all
