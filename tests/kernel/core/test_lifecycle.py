"""The worker's life cycle, entry by entry."""

import pytest

from huterox_kernel.core.lifecycle import TRANSITIONS, IllegalTransition, State, Step, after

LEGAL = [
    (State.STARTING, Step.FORKED, State.LOADING),
    (State.STARTING, Step.OVERDUE, State.CLOSING),
    (State.STARTING, Step.CLOSE, State.CLOSING),
    (State.STARTING, Step.ENDED, State.GONE),
    (State.LOADING, Step.LOADED, State.READY),
    (State.LOADING, Step.FAILED, State.CLOSING),
    (State.LOADING, Step.BROKEN, State.CLOSING),
    (State.LOADING, Step.OVERDUE, State.CLOSING),
    (State.LOADING, Step.CLOSE, State.CLOSING),
    (State.LOADING, Step.EXITED, State.RETURNING),
    (State.LOADING, Step.ENDED, State.GONE),
    (State.READY, Step.FAILED, State.CLOSING),
    (State.READY, Step.BROKEN, State.CLOSING),
    (State.READY, Step.OVERDUE, State.CLOSING),
    (State.READY, Step.CLOSE, State.CLOSING),
    (State.READY, Step.EXITED, State.RETURNING),
    (State.READY, Step.ENDED, State.GONE),
    *((State.CLOSING, step, State.CLOSING) for step in Step if step not in (Step.EXITED, Step.ENDED)),
    (State.CLOSING, Step.EXITED, State.RETURNING),
    (State.CLOSING, Step.ENDED, State.GONE),
    (State.RETURNING, Step.CLOSE, State.RETURNING),
    (State.RETURNING, Step.ENDED, State.GONE),
]
ILLEGAL = [
    (state, step) for state in State for step in Step if (state, step) not in {(before, by) for before, by, _ in LEGAL}
]


@pytest.mark.parametrize(("state", "step", "following"), LEGAL)
def test_a_step_leads_to_the_state_that_the_table_names(state: State, step: Step, following: State) -> None:
    assert after(state, step, "c1.1", []) is following


@pytest.mark.parametrize(("state", "step"), ILLEGAL)
def test_a_step_that_the_table_does_not_have_is_refused_with_the_last_steps(state: State, step: Step) -> None:
    with pytest.raises(IllegalTransition, match=r"c1\.1: no step .* \(last steps: forked, loaded\)"):
        after(state, step, "c1.1", ["forked", "loaded"])


def test_the_table_has_an_entry_for_every_state() -> None:
    assert set(TRANSITIONS) == set(State)


def test_every_state_but_gone_can_end() -> None:
    assert all(Step.ENDED in steps for state, steps in TRANSITIONS.items() if state is not State.GONE)
