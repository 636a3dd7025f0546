"""The life of a container, as one table.

PLANNED has its room reserved but no process yet: what must leave first has not left. CLOSING has been told to end;
its memory counts until the kernel says that it is back.
"""

from enum import StrEnum

from huterox_wire.errors import Fault


class State(StrEnum):
    PLANNED = "planned"
    CREATING = "creating"
    READY = "ready"
    DRAINING = "draining"
    CLOSING = "closing"
    GONE = "gone"


class Step(StrEnum):
    """What can happen to a container."""

    COMMANDED = "commanded"  # CREATE was sent
    ADOPTED = "adopted"  # a kernel registered with it, running
    LOADED = "loaded"
    DRAIN = "drain"  # no new calls
    CLOSE = "close"  # CLOSE was sent
    LOST = "lost"  # the process has ended, or was never started


TRANSITIONS: dict[State, dict[Step, State]] = {
    State.PLANNED: {Step.COMMANDED: State.CREATING, Step.ADOPTED: State.READY, Step.LOST: State.GONE},
    State.CREATING: {Step.LOADED: State.READY, Step.CLOSE: State.CLOSING, Step.LOST: State.GONE},
    State.READY: {Step.DRAIN: State.DRAINING, Step.LOST: State.GONE},
    State.DRAINING: {Step.CLOSE: State.CLOSING, Step.LOST: State.GONE},
    State.CLOSING: {Step.LOST: State.GONE},
    State.GONE: {},
}


class IllegalTransition(Fault):
    """A step that the table does not have: a bug of ours."""


def after(state: State, step: Step, subject: str) -> State:
    """The state that follows. Raises IllegalTransition where the table has no such entry."""
    following = TRANSITIONS[state].get(step)
    if following is None:
        raise IllegalTransition(f"{subject}: no step {step} from state {state}", state=state, step=step)
    return following
