"""Everything that the kernel's core can ask for. The shell performs effects in the order given."""

from dataclasses import dataclass

from huterox_kernel.core.events import Asked
from huterox_wire.errors import HuteroxError
from huterox_wire.leases import LeaseOrderMeta
from huterox_wire.nodes import ContainerEvent, ModelSpec


@dataclass(slots=True, frozen=True)
class StartWorker:
    """Make a process for this model, on this device; comes back as `WorkerForked` or `StartFailed`."""

    container: int
    model: ModelSpec
    device: str = ""  # empty: none


@dataclass(slots=True, frozen=True)
class AdmitCalls:
    """Pass calls on to this container from now on, and let callers have lanes to it."""

    container: int


@dataclass(slots=True, frozen=True)
class RefuseCalls:
    """Pass no new calls on to this container, and grant no lanes; calls in its lanes go on."""

    container: int


@dataclass(slots=True, frozen=True)
class PromiseLane:
    """Answer with a token for a lane, or why there is none."""

    meta: LeaseOrderMeta
    asked: Asked


@dataclass(slots=True, frozen=True)
class RefuseLane:
    """Answer that there is no lane."""

    asked: Asked
    error: HuteroxError


@dataclass(slots=True, frozen=True)
class DrainLanes:
    """End the lanes of the container's callers, and grant none; comes back as `LanesDrained`.

    With a `service`: its lanes alone, and nothing comes back.
    """

    container: int
    service: int = 0


@dataclass(slots=True, frozen=True)
class AskToClose:
    """Drain the callers' lanes, and tell the worker to finish what is in its lanes and to end."""

    container: int


@dataclass(slots=True, frozen=True)
class KillWorker:
    """Kill the process; where none exists yet, give up its start. Comes back as `WorkerEnded` or `StartFailed`."""

    container: int


@dataclass(slots=True, frozen=True)
class AwaitMemory:
    """The process has ended: look until its device has its memory back; comes back as `MemoryReturned`."""

    container: int
    device: str
    pid: int


@dataclass(slots=True, frozen=True)
class Discard:
    """The worker has ended: send what it had answered, count what it did, and give back all that was held for it."""

    container: int


@dataclass(slots=True, frozen=True)
class FailCalls:
    """End the calls that a discarded worker has left without an answer, and the lanes that its callers had.

    Comes after a report that it is gone, or that it takes none any more: a caller that tries again at once must not be
    sent to it once more.
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
class TellCalls:
    """A heartbeat that tells which of the switchboard's calls are here."""


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
    | PromiseLane
    | RefuseLane
    | DrainLanes
    | AskToClose
    | KillWorker
    | AwaitMemory
    | Discard
    | FailCalls
    | Report
    | Register
    | TellCalls
    | Note
    | Exit
)
