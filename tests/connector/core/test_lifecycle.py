from itertools import product

import pytest

from huterox_connector.core.lifecycle import TRANSITIONS, IllegalTransition, State, Step, after

LEGAL = [
    (State.PLANNED, Step.COMMANDED, State.CREATING),
    (State.PLANNED, Step.ADOPTED, State.READY),
    (State.PLANNED, Step.LOST, State.GONE),
    (State.CREATING, Step.LOADED, State.READY),
    (State.CREATING, Step.CLOSE, State.CLOSING),
    (State.CREATING, Step.LOST, State.GONE),
    (State.READY, Step.DRAIN, State.DRAINING),
    (State.READY, Step.LOST, State.GONE),
    (State.DRAINING, Step.CLOSE, State.CLOSING),
    (State.DRAINING, Step.LOST, State.GONE),
    (State.CLOSING, Step.LOST, State.GONE),
]


@pytest.mark.parametrize(("state", "step", "following"), LEGAL)
def test_entry_of_the_table(state: State, step: Step, following: State) -> None:
    assert after(state, step, "c1.1") is following


def test_every_other_entry_is_refused_with_its_subject() -> None:
    legal = {(state, step) for state, step, _ in LEGAL}
    for state, step in product(State, Step):
        if (state, step) not in legal:
            with pytest.raises(IllegalTransition, match=r"c1\.1"):
                after(state, step, "c1.1")


def test_every_state_has_a_row_and_only_gone_is_an_end() -> None:
    assert set(TRANSITIONS) == set(State)
    assert [state for state, row in TRANSITIONS.items() if not row] == [State.GONE]
