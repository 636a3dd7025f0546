"""Everything that can happen to the switchboard. The time is not in them: it is given beside."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from huterox_wire.leases import LeaseMeta
from huterox_wire.meta import AdminMeta, OpenMeta
from huterox_wire.nodes import ContainerEvent, HeartbeatMeta, RegisterMeta


@dataclass(slots=True, frozen=True)
class CallMissed:
    """A call that could not be forwarded at once. `frames` are opaque here; `nbytes` is their size."""

    caller: bytes
    request_id: int
    handle: int
    budget_us: int
    frames: list[Any]
    nbytes: int


@dataclass(slots=True, frozen=True)
class CallCancelled:
    caller: bytes
    request_id: int


@dataclass(slots=True, frozen=True)
class CallersGone:
    """The connections of these callers have ended. Nobody waits for their calls any more."""

    callers: frozenset[bytes]


@dataclass(slots=True, frozen=True)
class CallerStalled:
    """The caller does not read: part of a reply was not sent."""

    caller: bytes
    request_id: int


class Undelivered(NamedTuple):
    """A call that could not be sent to its kernel."""

    caller: bytes
    request_id: int
    frames: list[Any]
    nbytes: int


@dataclass(slots=True, frozen=True)
class CallsUndeliverable:
    """Calls could not be sent to their kernels: those have gone, or take nothing more.

    All that one event has sent in vain come together: what is lost with a kernel must not be taken for what never left.
    """

    calls: tuple[Undelivered, ...]
    kernel_gone: bool


@dataclass(slots=True, frozen=True)
class CallReturned:
    """A kernel hands back a call that no container has started: its container has ended, or is ending."""

    kernel: bytes
    route: bytes
    request_id: int
    frames: list[Any]
    nbytes: int


@dataclass(slots=True, frozen=True)
class OpenRequested:
    caller: bytes
    request_id: int
    meta: OpenMeta


@dataclass(slots=True, frozen=True)
class LeaseRequested:
    """A caller asks for a lane to the container behind a handle."""

    caller: bytes
    request_id: int
    handle: int
    budget_us: int
    meta: LeaseMeta


@dataclass(slots=True, frozen=True)
class AdminRequested:
    caller: bytes
    request_id: int
    meta: AdminMeta


@dataclass(slots=True, frozen=True)
class KernelRegistered:
    identity: bytes
    meta: RegisterMeta


@dataclass(slots=True, frozen=True)
class KernelBeat:
    identity: bytes
    meta: HeartbeatMeta


@dataclass(slots=True, frozen=True)
class KernelUnreachable:
    identity: bytes


@dataclass(slots=True, frozen=True)
class ContainerReported:
    identity: bytes
    event: ContainerEvent


@dataclass(slots=True, frozen=True)
class ContainerFreed:
    """A call of a container has ended for which others wait."""

    container: int


@dataclass(slots=True, frozen=True)
class ContainerDrained:
    """The last call in flight of a draining container has ended. Its lanes are told by `ContainerReported`."""

    container: int


@dataclass(slots=True, frozen=True)
class Committed:
    """What `Commit` asked for is on disk."""

    ticket: int


@dataclass(slots=True, frozen=True)
class CommitFailed:
    ticket: int
    reason: str


@dataclass(slots=True, frozen=True)
class Ticked:
    """Time has passed; comes a few times a second.

    `clock_offset_s`: what makes seconds since the epoch out of the core's time now; somebody may have set the clock.
    """

    clock_offset_s: float | None = None


Event = (
    CallMissed
    | CallCancelled
    | CallersGone
    | CallerStalled
    | CallsUndeliverable
    | CallReturned
    | OpenRequested
    | LeaseRequested
    | AdminRequested
    | KernelRegistered
    | KernelBeat
    | KernelUnreachable
    | ContainerReported
    | ContainerFreed
    | ContainerDrained
    | Committed
    | CommitFailed
    | Ticked
)
