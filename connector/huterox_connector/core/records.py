"""What the switchboard knows: models, services, containers, nodes. Plain records, changed by the core alone."""

import struct
from collections import deque
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final

from huterox_connector.core.ids import ContainerId, ServiceId, text_of
from huterox_connector.core.lifecycle import State, Step, after
from huterox_connector.core.replacer.base import Replacer
from huterox_wire.nodes import ModelSpec

MIB: Final = 1024 * 1024
ROUTE_PREFIX: Final = struct.Struct("<Q")
"""What stands before the caller's identity in the route frame between switchboard and kernel: the container's id."""


@dataclass(slots=True, frozen=True)
class Demand:
    """What a container takes from its node, or a node has."""

    slots: int
    host_bytes: int

    def __add__(self, other: "Demand") -> "Demand":
        return Demand(self.slots + other.slots, self.host_bytes + other.host_bytes)

    def __sub__(self, other: "Demand") -> "Demand":
        return Demand(self.slots - other.slots, self.host_bytes - other.host_bytes)

    def fits(self, room: "Demand") -> bool:
        return self.slots <= room.slots and self.host_bytes <= room.host_bytes

    def facts(self) -> dict[str, int]:
        return {"slots": self.slots, "host_mb": self.host_bytes // MIB}


NOTHING: Final = Demand(0, 0)


@dataclass(slots=True)
class Model:
    """A program on disk, as it was deployed."""

    spec: ModelSpec
    deployed_at: float
    services: dict[ServiceId, "Service"] = field(default_factory=dict)
    containers: dict[ContainerId, "Container"] = field(default_factory=dict)
    load_s: float = 0.0  # how long the last load took

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def demand(self) -> Demand:
        return Demand(1, self.spec.resources.host_mb * MIB)


@dataclass(slots=True)
class WaitingCall:
    """A call whose model is not resident. It holds its frames until it can be forwarded or ends."""

    caller: bytes
    request_id: int
    service: "Service"
    deadline_s: float
    arrived_s: float
    frames: list[Any]
    nbytes: int


@dataclass(slots=True)
class Group:
    """Services that share containers: all `shared` and `pinned` ones of a model, or one `dedicated` one.

    `failures` counts loads that failed in a row; until `retry_at_s` calls are answered with `last_error`.
    """

    key: tuple[str, ServiceId]
    model: Model
    services: dict[ServiceId, "Service"] = field(default_factory=dict)
    container: "Container | None" = None
    waiting: deque[WaitingCall] = field(default_factory=deque)
    failures: int = 0
    retry_at_s: float = 0.0
    last_error: Exception | None = None

    @property
    def pinned(self) -> bool:
        return any(service.tier == "pinned" for service in self.services.values())

    @property
    def dedicated(self) -> bool:
        return self.key[1] != 0


@dataclass(slots=True, eq=False)
class Service:
    """A virtual container: one tenant's service. `container` is set while a call can be forwarded."""

    id: ServiceId
    name: str
    tenant: str
    tier: str
    created_at: float
    model: Model
    group: Group
    container: "Container | None" = None
    hits: int = 0
    errors: int = 0
    busy_s: float = 0.0
    last_hit_s: float = 0.0

    @property
    def title(self) -> str:
        return f"{self.tenant}/{self.name}"


@dataclass(slots=True, eq=False)
class Container:
    """One model worker process, from its plan to its end."""

    id: ContainerId
    model: Model
    spec: ModelSpec  # as it was when the container was planned; the model may have been deployed anew since
    group: Group
    node: "Node"
    demand: Demand
    created_at: float
    created_s: float
    reason: str
    state: State = State.PLANNED
    route_prefix: bytes = b""
    pid: int = 0
    in_flight: int = 0  # routed calls
    lanes: int = 0  # of callers, as its kernel last reported
    lane_calls: int = 0  # that its worker has taken out of them and not answered yet
    lanes_ended: bool = False  # no lane is left and none will be: its kernel has answered DRAIN
    breaks_untold: int = 0  # lanes whose caller wrote nonsense, since the journal told of one
    break_told_s: float = -inf
    told_s: float = 0.0  # when its kernel was last told to drain or close it
    hits: int = 0
    errors: int = 0
    last_hit_s: float = 0.0
    ready_s: float = 0.0
    load_s: float = 0.0
    measured_host_bytes: int = 0
    timings_s: dict[str, float] = field(default_factory=dict)
    history: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.route_prefix = ROUTE_PREFIX.pack(self.id)

    @property
    def title(self) -> str:
        return text_of("c", self.id)

    @property
    def calls_now(self) -> int:
        """Calls in flight, routed ones and those in lanes; the latter as of the last heartbeat."""
        return self.in_flight + self.lane_calls

    def step(self, step: Step, now_s: float) -> None:
        """Move along the life cycle's table."""
        self.state = after(self.state, step, f"container {self.title} ({', '.join(self.history)})")
        self.history.append(f"{step} at {now_s:.3f}")


@dataclass(slots=True, eq=False)
class Node:
    """One kernel, as it last reported itself. `identity` is its socket's."""

    name: str
    identity: bytes
    boot: str
    host: str
    pid: int
    version: str
    capacity: Demand
    replacer: Replacer
    registered_at: float
    last_heartbeat_s: float
    host_id: str = ""  # the machine; empty: it gives no lanes
    containers: dict[ContainerId, Container] = field(default_factory=dict)
    host_bytes_free: int = 0
