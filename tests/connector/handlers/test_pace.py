"""Those who are behind are worked for at most a share of the time, where it is others' time, too."""

import pytest

from huterox_connector.handlers.pace import REST_FACTOR, REST_S_MAX, SHARED_S, WORK_S, Pace


def work(pace: Pace, from_s: float, to_s: float, step_s: float) -> float:
    """Work whenever it is allowed; the share of the time that was worked."""
    now_s, worked_s = from_s, 0.0
    while now_s < to_s:
        now_s += step_s
        worked_s += step_s
        if rest_s := pace.worked(step_s, now_s):
            assert pace.rests
            now_s += rest_s
            pace.rested()
        assert not pace.rests
    return worked_s / (now_s - from_s)


@pytest.mark.parametrize("step_s", [WORK_S / 4, WORK_S * 3])
def test_who_is_alone_is_worked_for_all_the_time(step_s: float) -> None:
    assert work(Pace(), 0.0, 1.0, step_s) == pytest.approx(1.0)


@pytest.mark.parametrize("step_s", [WORK_S / 4, WORK_S * 3])
def test_others_leave_an_eighth_of_the_time(step_s: float) -> None:
    pace = Pace()
    pace.others_s = 5.0
    assert work(pace, 5.0, 5.0 + SHARED_S / 2, step_s) == pytest.approx(1 / (1 + REST_FACTOR), rel=0.1)


def test_it_is_over_when_others_have_sent_nothing_for_a_while() -> None:
    pace = Pace()
    pace.others_s = 5.0
    work(pace, 5.0, 5.0 + SHARED_S, WORK_S)
    assert work(pace, 5.0 + SHARED_S, 6.0 + SHARED_S, WORK_S) == pytest.approx(1.0)


def test_rest_has_an_end_however_long_a_message_took() -> None:
    pace = Pace()
    pace.others_s = 0.0
    assert pace.worked(50 * WORK_S, 0.05) == REST_S_MAX
    pace.rested()
    assert pace.worked(WORK_S / 2, 0.06) == 0.0
