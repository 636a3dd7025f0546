"""Decayed rates of counts that only grow."""

import pytest

from huterox_connector.core.hotness import Hotness, impulse

HALF_LIFE_S = 60.0


def test_steady_calls_settle_at_their_rate() -> None:
    hotness = Hotness(0.0)
    for second in range(1, 1001):
        rate = hotness.rate(5 * second, float(second), HALF_LIFE_S)
    assert rate == pytest.approx(5.0, rel=0.01)


def test_rate_halves_with_each_half_life_without_calls() -> None:
    hotness = Hotness(0.0)
    hot = hotness.rate(600, 60.0, HALF_LIFE_S)
    assert hotness.rate(600, 120.0, HALF_LIFE_S) == pytest.approx(hot / 2)
    assert hotness.rate(600, 240.0, HALF_LIFE_S) == pytest.approx(hot / 8)


def test_looking_more_often_changes_nothing_where_no_call_comes() -> None:
    seldom, often = Hotness(0.0), Hotness(0.0)
    seldom.rate(100, 10.0, HALF_LIFE_S)
    often.rate(100, 10.0, HALF_LIFE_S)
    for now_s in range(11, 40):
        often.rate(100, float(now_s), HALF_LIFE_S)
    assert seldom.rate(100, 40.0, HALF_LIFE_S) == pytest.approx(often.rate(100, 40.0, HALF_LIFE_S))


def test_calls_of_this_very_moment_count_in_full_without_being_forgotten() -> None:
    hotness = Hotness(0.0)
    hotness.rate(0, 10.0, HALF_LIFE_S)
    assert hotness.rate(3, 10.0, HALF_LIFE_S) == pytest.approx(3 * impulse(HALF_LIFE_S))
    assert hotness.rate(3, 11.0, HALF_LIFE_S) > 0.0
