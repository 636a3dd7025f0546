"""What the simulated platform is made of: plain records, changed by `world` and `lanes`."""

from dataclasses import dataclass, field


@dataclass
class Totals:
    """What one container did by lanes for one service since it started."""

    calls: int = 0
    errors: int = 0
    busy_us: int = 0
    last_s: float = 0.0


@dataclass
class SimContainer:
    id: int
    model: str
    version: str
    host_mb: int
    state: str = "creating"
    calls: set[tuple[bytes, int]] = field(default_factory=set)
    routed: int = 0  # calls taken, in all
    lanes: list["SimLane"] = field(default_factory=list)
    totals: dict[int, Totals] = field(default_factory=dict)  # of calls in lanes, by the service's handle


@dataclass
class SimKernel:
    """A kernel that does what it is told, in its own time."""

    name: str
    boot: str
    slots: int
    host_mb: int
    alive: bool = True
    reachable: bool = True
    registered: bool = False
    host_id: str = ""
    containers: dict[int, SimContainer] = field(default_factory=dict)

    @property
    def identity(self) -> bytes:
        return f"{self.name}:{self.boot}".encode()


@dataclass
class SimCall:
    caller: bytes
    request_id: int
    handle: int
    deadline_s: float
    ends: list[str] = field(default_factory=list)


@dataclass(eq=False)
class SimLane:
    """A lane that a caller has, until it has ended."""

    handle: int
    kernel: SimKernel
    container: SimContainer
    in_flight: int = 0
    ended: bool = False

    @property
    def open(self) -> bool:
        """Whether its caller may start calls."""
        return not self.ended and self.container.state == "ready"


@dataclass
class SimLease:
    """A LEASE that a caller has asked for."""

    handle: int
    host_id: str
    deadline_s: float
    ends: list[str] = field(default_factory=list)
