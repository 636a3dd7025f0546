"""The life of a worker, as one table.

STARTING has asked the zygote for a process; LOADING has one; CLOSING has been told to end, or will be killed. RETURNING
is one that had a device: its process has ended, and the driver has not given its memory back yet. A worker is GONE only
when nothing of it is left: until then its memory counts.
"""

from enum import StrEnum

from huterox_wire.errors import Fault


class State(StrEnum):
    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"
    CLOSING = "closing"
    RETURNING = "returning"
    GONE = "gone"


class Step(StrEnum):
    """What can happen to a worker."""

    FORKED = "forked"  # the process exists
    LOADED = "loaded"  # the model has loaded and warmed up
    FAILED = "failed"  # the worker says that it cannot go on
    BROKEN = "broken"  # it wrote nonsense into its lane or control socket
    OVERDUE = "overdue"  # its time has passed: of the load, of a call and the grace after it, or of the memory's return
    CLOSE = "close"  # it was told to end
    EXITED = "exited"  # the process has ended, and may still hold memory on its device
    ENDED = "ended"  # the process has ended, or never came to be, and nothing of it is left


TRANSITIONS: dict[State, dict[Step, State]] = {
    State.STARTING: {
        Step.FORKED: State.LOADING,
        Step.OVERDUE: State.CLOSING,
        Step.CLOSE: State.CLOSING,
        Step.ENDED: State.GONE,
    },
    State.LOADING: {
        Step.LOADED: State.READY,
        Step.FAILED: State.CLOSING,
        Step.BROKEN: State.CLOSING,
        Step.OVERDUE: State.CLOSING,
        Step.CLOSE: State.CLOSING,
        Step.EXITED: State.RETURNING,
        Step.ENDED: State.GONE,
    },
    State.READY: {
        Step.FAILED: State.CLOSING,
        Step.BROKEN: State.CLOSING,
        Step.OVERDUE: State.CLOSING,
        Step.CLOSE: State.CLOSING,
        Step.EXITED: State.RETURNING,
        Step.ENDED: State.GONE,
    },
    State.CLOSING: {
        Step.FORKED: State.CLOSING,
        Step.LOADED: State.CLOSING,
        Step.FAILED: State.CLOSING,
        Step.BROKEN: State.CLOSING,
        Step.OVERDUE: State.CLOSING,
        Step.CLOSE: State.CLOSING,
        Step.EXITED: State.RETURNING,
        Step.ENDED: State.GONE,
    },
    State.RETURNING: {
        Step.CLOSE: State.RETURNING,
        Step.ENDED: State.GONE,
    },
    State.GONE: {},
}


class IllegalTransition(Fault):
    """A step that the table does not have: a bug of ours."""


def after(state: State, step: Step, subject: str, history: list[str]) -> State:
    """The state that follows. Raises IllegalTransition, with the last steps, where the table has no such entry."""
    following = TRANSITIONS[state].get(step)
    if following is None:
        raise IllegalTransition(
            f"{subject}: no step {step} from state {state} (last steps: {', '.join(history) or 'none'})",
            state=str(state),
            step=str(step),
            history=history,
        )
    return following
