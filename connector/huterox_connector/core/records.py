"""What the switchboard knows: models, services, groups, containers, nodes. Plain records, changed by the core alone."""

from dataclasses import dataclass, field
from math import inf
from typing import Any

from huterox_connector.core.footprints import Footprints
from huterox_connector.core.ghosts import Ghosts
from huterox_connector.core.hotness import Hotness
from huterox_connector.core.ids import ContainerId, ServiceId
from huterox_connector.core.lifecycle import State, Step, after
from huterox_connector.core.line import Line
from huterox_connector.core.replacer.base import Replacer
from huterox_connector.core.vectors import Amounts, Charge
from huterox_wire.ids import text_of
from huterox_wire.nodes import ModelSpec

GroupKey = tuple[str, ServiceId]
"""The model's name, and the service that the group is dedicated to; 0: it is shared."""


@dataclass(slots=True, eq=False)
class Model:
    """A program on disk, as it was deployed."""

    spec: ModelSpec
    deployed_at: float
    services: dict[ServiceId, "Service"] = field(default_factory=dict)
    containers: dict[ContainerId, "Container"] = field(default_factory=dict)
    lenders: dict[ServiceId, "Service"] = field(default_factory=dict)  # whose containers others may use
    footprints: Footprints = field(default_factory=Footprints)

    @property
    def name(self) -> str:
        return self.spec.name


@dataclass(slots=True, eq=False)
class WaitingCall:
    """A call that no container can take yet. It holds its frames until it can be forwarded or ends."""

    caller: bytes
    request_id: int
    service: "Service"
    deadline_s: float
    arrived_s: float
    frames: list[Any]
    nbytes: int


@dataclass(slots=True, eq=False)
class Group:
    """Services that share containers: all `shared` and `pinned` ones of a model, or one `dedicated` one.

    `ready` is the page table's entry: who takes calls now, in the order in which they became ready. `failures` counts
    loads that failed in a row; until `retry_at_s` calls are answered with `last_error`.
    """

    key: GroupKey
    model: Model
    hotness: Hotness
    services: dict[ServiceId, "Service"] = field(default_factory=dict)
    ready: list["Container"] = field(default_factory=list)
    coming: dict[ContainerId, "Container"] = field(default_factory=dict)  # planned or loading
    accessed: dict[ServiceId, "Service"] = field(default_factory=dict)  # called in this window
    recent: dict[ServiceId, "Service"] = field(default_factory=dict)  # called in the last one
    users: int = 0  # services that are in either: they use its containers now
    holders: list[ServiceId] = field(default_factory=list)  # who used it last, and pays for its memory
    host_byte_s: float = 0.0  # memory held times seconds, not charged to anybody yet
    device_byte_s: float = 0.0
    waiting: Line = field(default_factory=Line)  # no container is ready, or those that are have enough to do
    depth: int = 0  # calls that a container is given while several callers use its node; 0: not known yet
    calls: int = 0  # asked of it, resident or not
    pins: int = 0  # of its services that are pinned
    pressed_since_s: float | None = None  # since when calls have queued at its containers
    relaxed_since_s: float | None = None  # since when it has had more containers than it needs
    replica_refused_s: float = -inf  # when the journal was last told that another one does not fit
    looks: int = 0  # for room on many nodes: each sees others
    failed_on: dict[str, float] = field(default_factory=dict)  # nodes that come last since its load failed, until
    gave_way: bool = False  # its last load was broken off, since nobody waited for it and others needed the room
    failures: int = 0
    retry_at_s: float = 0.0
    last_error: Exception | None = None

    def loads_well(self, node: str) -> None:
        """A load has gone well on `node`."""
        self.failures, self.last_error, self.gave_way = 0, None, False
        self.failed_on.pop(node, None)

    def failed_lately(self, node: str, now_s: float) -> bool:
        """Whether its load failed there, so that others are tried first."""
        return bool(self.failed_on) and now_s < self.failed_on.get(node, 0.0)

    @property
    def pinned(self) -> bool:
        return self.pins > 0

    @property
    def dedicated(self) -> bool:
        return self.key[1] != 0

    @property
    def firm(self) -> bool:
        """Whether its containers may never leave to make room."""
        return self.pins > 0 or self.key[1] != 0

    @property
    def is_wanted(self) -> bool:
        """Whether anybody waits for its load, or it is to be there in any case."""
        return bool(self.waiting) or self.firm

    @property
    def resident(self) -> bool:
        """Whether it has a container that is ready or on its way."""
        return bool(self.ready or self.coming)


@dataclass(slots=True, eq=False)
class Usage:
    """What was used, in all. `byte_s` is memory held times seconds."""

    calls: int = 0
    errors: int = 0
    busy_s: float = 0.0
    host_byte_s: float = 0.0
    device_byte_s: float = 0.0
    faults: int = 0  # calls that found no container
    refused: int = 0  # of these, the ones that ended in a ResourceInterrupt

    def add(self, other: "Usage") -> None:
        self.calls += other.calls
        self.errors += other.errors
        self.busy_s += other.busy_s
        self.host_byte_s += other.host_byte_s
        self.device_byte_s += other.device_byte_s
        self.faults += other.faults
        self.refused += other.refused


@dataclass(slots=True, eq=False)
class Service:
    """A virtual container: one tenant's service.

    `in_flight_max` is its quota, 0 for none: so many of its calls may be in flight, routed ones; it gets no lanes then.
    `lend`, of a dedicated one: others of its model may use its container while it is idle. `accessed` is the bit of the
    page table: set by a call, cleared by the sweep.
    """

    id: ServiceId
    name: str
    tenant: str
    tier: str
    created_at: float
    model: Model
    group: Group
    in_flight_max: int = 0
    lend: bool = False
    info: dict[str, str] = field(default_factory=dict)
    created_s: float = 0.0
    in_flight: int = 0
    accessed: bool = False
    hits: int = 0
    errors: int = 0
    busy_s: float = 0.0
    last_hit_s: float = 0.0
    host_byte_s: float = 0.0
    device_byte_s: float = 0.0
    faults: int = 0
    refused: int = 0

    @property
    def title(self) -> str:
        return f"{self.tenant}/{self.name}"

    def usage(self) -> Usage:
        """What it has used until now."""
        return Usage(
            self.hits, self.errors, self.busy_s, self.host_byte_s, self.device_byte_s, self.faults, self.refused
        )


@dataclass(slots=True, eq=False)
class Container:
    """One model worker process, from its plan to its end."""

    id: ContainerId
    model: Model
    spec: ModelSpec  # as it was when the container was planned; the model may have been deployed anew since
    group: Group
    node: "Node"
    charge: Charge  # what admission counts for it now
    reserved: Charge  # what was reserved before it was measured
    created_at: float
    created_s: float
    reason: str
    state: State = State.PLANNED
    pid: int = 0
    pid_started: int = 0
    in_flight: int = 0  # routed calls
    requests_seen: int = 0  # as its kernel last reported them, calls in lanes too
    busy_us_seen: int = 0
    borrowed: int = 0  # of these, calls of services that it does not belong to
    lent_told: bool = False  # the journal knows that it is lent
    lane_services: tuple[ServiceId, ...] = ()  # whose callers have called by lanes lately
    lanes: int = 0  # of callers, as its kernel last reported
    lane_calls: int = 0  # that its worker has taken out of them and not answered yet
    lanes_ended: bool = False  # no lane is left and none will be: its kernel has answered DRAIN
    breaks_untold: int = 0  # lanes whose caller wrote nonsense, since the journal told of one
    break_told_s: float = -inf
    strangers_told_s: float = -inf  # when its kernel was last told to end the lanes of services that it does not serve
    told_s: float = 0.0  # when its kernel was last told to drain or close it
    seen_s: float = 0.0  # when its kernel last told of it, or was told to create it
    hits: int = 0
    errors: int = 0
    last_hit_s: float = 0.0
    ready_s: float = 0.0
    load_s: float = 0.0
    counted_s: float = 0.0  # until when the memory that it holds has been charged to services
    measured_host_bytes: int = 0
    measured_device_bytes: int = 0
    timings_s: dict[str, float] = field(default_factory=dict)
    history: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        return text_of("c", self.id)

    @property
    def calls_now(self) -> int:
        """Calls in flight, routed ones and those in lanes; the latter as of the last heartbeat."""
        return self.in_flight + self.lane_calls

    @property
    def used_s(self) -> float:
        """When it was last called, or became ready."""
        return max(self.last_hit_s, self.ready_s)

    @property
    def is_filling(self) -> bool:
        """Whether it may hold less than it is charged for: it is loading, or was told to close while it was."""
        return self.state in (State.CREATING, State.CLOSING) and not self.ready_s

    def step(self, step: Step, now_s: float) -> None:
        """Move along the life cycle's table. For `Books` alone, which keeps the sums."""
        self.state = after(self.state, step, f"container {self.title} ({', '.join(self.history)})")
        self.history.append(f"{step} at {now_s:.3f}")


@dataclass(slots=True, eq=False)
class Node:
    """One kernel, as it last reported itself. `identity` is its socket's.

    Room is counted twice. `present` is what holds memory now: a container that is draining or closing still does, until
    the kernel says that its memory is back. `staying` is what will be left once those have gone, with every plan
    carried out. A plan is made against what stays, and carried out when what is present leaves room.
    """

    name: str
    identity: bytes
    boot: str
    host: str
    pid: int
    version: str
    offered: Amounts  # what its kernel may give away
    capacity: Amounts  # the same, less the base: what containers may have
    limit: Amounts  # the same, less what others have taken of it
    replacer: Replacer
    policy: str
    registered_at: float
    last_heartbeat_s: float
    caller: bytes = b""  # who called here last
    shared_s: float = -inf  # when that was last somebody else than before
    counted_before: int | None = None  # it was asked for its calls; of those before this number none is on its way
    host_id: str = ""  # the machine; empty: it gives no lanes
    note: str = ""  # what its operator should know
    registered_told_s: float = -inf  # when the journal was told that it has registered
    registrations_untold: int = 0
    devices: dict[str, str] = field(default_factory=dict)  # their names, by id
    containers: dict[ContainerId, Container] = field(default_factory=dict)
    present: Amounts = field(default_factory=Amounts)
    staying: Amounts = field(default_factory=Amounts)
    ghosts: Ghosts = field(default_factory=Ghosts)
    base_bytes: int = 0  # host memory that containers share: charged once, to the node
    host_bytes_free: int = 0
    device_bytes_free: dict[str, int] = field(default_factory=dict)
    drained: bool = False  # by an operator: nothing is loaded here, and what is here moves away
    claim: Group | None = None  # for whom everything else waits here
    claimed_s: float = 0.0
    refusals: int = 0  # loads that it refused since one went well
    failures: dict[str, tuple[str, str]] = field(default_factory=dict)  # as many that failed: model -> cause and tenant
    sick_until_s: float = -inf
    sick_because: str = ""

    @property
    def room(self) -> Amounts:
        """What is left once all that leaves has left, every plan carried out."""
        return self.limit.less(self.staying)
