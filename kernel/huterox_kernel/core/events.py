"""Everything that can happen to a kernel. The time is not in them: it is given beside."""

from dataclasses import dataclass
from typing import NamedTuple

from huterox_wire.leases import DrainMeta, LeaseOrderMeta
from huterox_wire.nodes import CloseMeta, CreateMeta, RegisteredMeta


class Asked(NamedTuple):
    """A question that came by a route: what its answer needs."""

    route: bytes
    request_id: int
    handle: int


@dataclass(slots=True, frozen=True)
class RegistrationRefused:
    """The switchboard has answered that it does not take this kernel in, for now."""


@dataclass(slots=True, frozen=True)
class LinkConnected:
    """There is a new connection to the switchboard, perhaps to another one than before."""


@dataclass(slots=True, frozen=True)
class RegistrationAnswered:
    """The switchboard knows this kernel, or asks it to register."""

    meta: RegisteredMeta


@dataclass(slots=True, frozen=True)
class CreateOrdered:
    meta: CreateMeta


@dataclass(slots=True, frozen=True)
class CloseOrdered:
    meta: CloseMeta


@dataclass(slots=True, frozen=True)
class DrainOrdered:
    meta: DrainMeta


@dataclass(slots=True, frozen=True)
class LeaseOrdered:
    """A caller asks for a lane; the switchboard has nothing against it."""

    meta: LeaseOrderMeta
    asked: Asked


@dataclass(slots=True, frozen=True)
class LanesDrained:
    """No caller has a lane to this container any more, and none will get one."""

    container: int


@dataclass(slots=True, frozen=True)
class LaneBroke:
    """A caller wrote nonsense into its lane, which has been ended."""

    container: int
    reason: str


@dataclass(slots=True, frozen=True)
class WorkerForked:
    container: int
    pid: int
    pid_started: int = 0  # clock ticks since the boot; 0: it had ended before it could be asked


@dataclass(slots=True, frozen=True)
class StartFailed:
    """No process came to be."""

    container: int
    reason: str
    traceback: str = ""
    is_nodes_fault: bool = False  # whatever interpreter the model names


@dataclass(slots=True, frozen=True)
class WorkerProgressed:
    """The worker has begun a stage of its load: import, load or warmup."""

    container: int
    stage: str


@dataclass(slots=True, frozen=True)
class WorkerReady:
    container: int
    timings_s: dict[str, float]
    host_bytes: int
    device_bytes: int = 0


@dataclass(slots=True, frozen=True)
class WorkerFailed:
    """The worker reports why it cannot load its model; it ends by itself."""

    container: int
    reason: str
    traceback: str


@dataclass(slots=True, frozen=True)
class WorkerBroken:
    """The worker wrote what a worker never writes."""

    container: int
    reason: str


@dataclass(slots=True, frozen=True)
class WorkerHung:
    """The worker does not come back (see `hangs`)."""

    container: int
    reason: str


@dataclass(slots=True, frozen=True)
class WorkerEnded:
    """The process has ended. `how` is for people: "killed by SIGKILL", "exited with code 3"."""

    container: int
    how: str


@dataclass(slots=True, frozen=True)
class MemoryReturned:
    """Nothing of an ended worker is left on its device."""

    container: int


@dataclass(slots=True, frozen=True)
class FootprintMeasured:
    container: int
    host_bytes: int
    device_bytes: int = 0


@dataclass(slots=True, frozen=True)
class ShutdownOrdered:
    """The kernel is to end. Ordered twice: at once."""

    reason: str


@dataclass(slots=True, frozen=True)
class Ticked:
    """Time has passed: `Supervisor.next_deadline_s` was reached."""


Event = (
    LinkConnected
    | RegistrationRefused
    | RegistrationAnswered
    | CreateOrdered
    | CloseOrdered
    | DrainOrdered
    | LeaseOrdered
    | LanesDrained
    | LaneBroke
    | WorkerForked
    | StartFailed
    | WorkerProgressed
    | WorkerReady
    | WorkerFailed
    | WorkerBroken
    | WorkerHung
    | WorkerEnded
    | MemoryReturned
    | FootprintMeasured
    | ShutdownOrdered
    | Ticked
)
