"""Everything that the kernel's core can ask for. The shell performs effects in the order given."""

from dataclasses import dataclass

from huterox_wire.nodes import ContainerEvent, ModelSpec


@dataclass(slots=True, frozen=True)
class StartWorker:
    """Make a process for this model; comes back as `WorkerForked` or `StartFailed`."""

    container: int
    model: ModelSpec


@dataclass(slots=True, frozen=True)
class AdmitCalls:
    """Pass calls on to this container from now on."""

    container: int


@dataclass(slots=True, frozen=True)
class RefuseCalls:
    """Pass no new calls on to this container; those in its lane go on."""

    container: int


@dataclass(slots=True, frozen=True)
class AskToClose:
    """Tell the worker to finish what is in its lane and to end."""

    container: int


@dataclass(slots=True, frozen=True)
class KillWorker:
    """Kill the process; where none exists yet, give up its start. Comes back as `WorkerEnded` or `StartFailed`."""

    container: int


@dataclass(slots=True, frozen=True)
class Discard:
    """The worker has ended: send what it had answered, and give back all that was held for it."""

    container: int


@dataclass(slots=True, frozen=True)
class FailCalls:
    """End the calls that a discarded worker has left without an answer.

    Comes after the report that it is gone: a caller that tries again at once must not be sent to it once more.
    """

    container: int
    reason: str


@dataclass(slots=True, frozen=True)
class Report:
    """An EVENT to the switchboard."""

    event: ContainerEvent


@dataclass(slots=True, frozen=True)
class Register:
    """Tell the switchboard about this node and all its containers."""


@dataclass(slots=True, frozen=True)
class Note:
    """A line in the kernel's own log."""

    text: str


@dataclass(slots=True, frozen=True)
class Exit:
    """No worker is left and none may come: the kernel can end."""


Effect = (
    StartWorker
    | AdmitCalls
    | RefuseCalls
    | AskToClose
    | KillWorker
    | Discard
    | FailCalls
    | Report
    | Register
    | Note
    | Exit
)
