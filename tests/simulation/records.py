"""What the simulated platform is made of: plain records, changed by those who play its parts. Sizes are in MiB."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class Totals:
    """What one container did by lanes for one service since it started."""

    calls: int = 0
    errors: int = 0
    busy_us: int = 0
    last_s: float = 0.0


@dataclass(slots=True)
class Size:
    """Memory of one container, and of what device."""

    host_mb: int
    device_mb: int = 0


@dataclass(eq=False)
class SimZygote:
    """What workers are forked from, and share memory with: it holds that once, however many they are."""

    base_mb: int
    grown_mb: int = 0  # of that, what nobody knew of when it came


@dataclass(eq=False)
class SimContainer:
    """A worker. `charged` is what the switchboard has been told, or has reserved: what it must count."""

    id: int
    model: str
    version: str
    service: int
    device: str
    size: Size
    charged: Size
    started_s: float
    load_s: float
    revision: str  # as CREATE named it
    deployment: int  # which one it runs, as the world counts them
    made_for: str  # the creation of the service that it is dedicated to; empty: shared
    zygote: "SimZygote | None" = None
    state: str = "creating"
    hangs: bool = False  # it answers nothing any more, whatever it is told
    pid: int = 0
    calls: set[tuple[bytes, int]] = field(default_factory=set)  # routed ones: route, request id
    routed: int = 0  # calls taken, in all
    lanes: list["SimLane"] = field(default_factory=list)
    totals: dict[int, Totals] = field(default_factory=dict)  # of calls in lanes, by the service's handle

    def held(self, now_s: float) -> Size:
        """What it holds now: a load takes its memory bit by bit."""
        if self.state != "creating":
            return self.size
        share = min(1.0, (now_s - self.started_s) / self.load_s)
        return Size(int(self.size.host_mb * share), int(self.size.device_mb * share))


@dataclass(eq=False)
class SimKernel:
    """A kernel that does what it is told, in its own time.

    It offers `slots`, `host_mb` and `devices` to containers; its machine has `spare_mb` more, and others use some of it
    all. `credit` is what may still be reserved by what the switchboard was told: None, it has not been told.
    `zygotes`: the one that forks now, and before it those that have workers left. `told_base_mb` is what the
    switchboard was told last. What may be charged beyond what is offered: `grown_mb`, of containers that have come to
    take more than was known, `told_grown_mb`, of zygotes, and `found_mb`, what it was overdrawn by when it registered.
    """

    name: str
    boot: str
    slots: int
    host_mb: int
    devices: dict[str, int]
    spare_mb: int
    host_id: str
    alive: bool = True
    reachable: bool = True
    registered: bool = False
    epoch: int = 0  # the newest that it was commanded in, and by whom
    store: str = ""
    mark: int = 0
    counts_calls: bool = False  # it has connected anew, and will tell which calls it has
    returning: set[tuple[bytes, int]] = field(default_factory=set)  # calls that it is about to hand back
    sick: bool = False
    zygotes: list[SimZygote] = field(default_factory=list)
    told_base_mb: int = 0
    told_grown_mb: int = 0
    grown_mb: Counter[int] = field(default_factory=Counter)
    found_mb: int = 0
    foreign_mb: int = 0
    foreign_device_mb: dict[str, int] = field(default_factory=dict)
    credit: dict[str, int] | None = None  # by device, "" is host memory
    unheard: dict[int, tuple[str, Size]] = field(default_factory=dict)  # what went, or never came, since it last told
    containers: dict[int, SimContainer] = field(default_factory=dict)

    @property
    def identity(self) -> bytes:
        return f"{self.name}:{self.boot}".encode()

    @property
    def held_base_mb(self) -> int:
        """What zygotes hold."""
        return sum(zygote.base_mb for zygote in self.zygotes)

    def overdrawn_mb(self, charged: Iterable[int]) -> int:
        """By so much may it be overdrawn, while these containers are charged."""
        return self.found_mb + self.told_grown_mb + sum(self.grown_mb[container] for container in charged)

    def base_told(self) -> None:
        """The switchboard knows what the base is now."""
        self.told_base_mb = self.base_mb()
        self.told_grown_mb = sum(zygote.grown_mb for zygote in self.zygotes)

    def base_mb(self) -> int:
        """What is charged to the node, once."""
        return self.held_base_mb

    def charge_mb(self, container: SimContainer, now_s: float) -> int:
        """What is charged to a container of host memory: what would be free if it ended."""
        return container.held(now_s).host_mb

    def end_zygotes(self) -> None:
        """Those that fork no more end with their last worker."""
        used = {container.zygote for container in self.containers.values()}
        self.zygotes = [zygote for zygote in self.zygotes[:-1] if zygote in used] + self.zygotes[-1:]

    def free(self, now_s: float) -> dict[str, int]:
        """What is free of its machine, by device; "" is host memory. Less than nothing: it has begun to swap."""
        held = [(container.device, container.held(now_s)) for container in self.containers.values()]
        taken_mb = self.foreign_mb + self.held_base_mb + sum(size.host_mb for _, size in held)
        host_mb = self.host_mb + self.spare_mb - taken_mb
        free = {"": host_mb}
        for device, mb in self.devices.items():
            used_mb = sum(size.device_mb for used, size in held if used == device)
            free[device] = mb - self.foreign_device_mb.get(device, 0) - used_mb
        return free


@dataclass
class SimCall:
    """A call that a caller waits for."""

    caller: bytes
    request_id: int
    handle: int
    deadline_s: float


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
