"""Everything that the switchboard's core can ask for. The shell performs effects in the order given."""

from dataclasses import dataclass
from typing import Any

from msgspec import Struct

from huterox_wire.errors import HuteroxError
from huterox_wire.kinds import Kind


@dataclass(slots=True, frozen=True)
class Forward:
    """Send a waiting call to its container. `budget_us` is what is left of its time."""

    kernel: bytes
    route: bytes
    frames: list[Any]
    budget_us: int


@dataclass(slots=True, frozen=True)
class Answer:
    """REPLY to a caller's OPEN or ADMIN."""

    caller: bytes
    request_id: int
    meta: Struct
    handle: int = 0


@dataclass(slots=True, frozen=True)
class Refuse:
    """ERROR to a caller."""

    caller: bytes
    request_id: int
    error: HuteroxError


@dataclass(slots=True, frozen=True)
class Command:
    """A control message to a kernel."""

    kernel: bytes
    kind: Kind
    meta: Struct | None


@dataclass(slots=True, frozen=True)
class CancelCall:
    """CANCEL to the kernel that has the call."""

    kernel: bytes
    route: bytes
    request_id: int


@dataclass(slots=True, frozen=True)
class AskKernel:
    """Pass an ADMIN verb or a LEASE on to a kernel, which answers the caller."""

    kernel: bytes
    route: bytes
    request_id: int
    kind: Kind
    meta: Struct
    handle: int = 0
    budget_us: int = 0


@dataclass(slots=True, frozen=True)
class Write:
    """One record of the store: `value` None deletes it."""

    key: str
    value: bytes | None


@dataclass(slots=True, frozen=True)
class Commit:
    """Write desired state, all or nothing; comes back as `Committed` or `CommitFailed`."""

    ticket: int
    writes: tuple[Write, ...]


@dataclass(slots=True, frozen=True)
class Keep:
    """Write what was measured: nobody waits for it to be on disk."""

    writes: tuple[Write, ...]


@dataclass(slots=True, frozen=True)
class Journalled:
    """An event for the operator's eyes: kept, shown, but nobody waits for it to be on disk."""

    seq: int
    at: float
    kind: str
    subject: str
    reason: str
    details: dict[str, Any]


Effect = Forward | Answer | Refuse | Command | CancelCall | AskKernel | Commit | Keep | Journalled
