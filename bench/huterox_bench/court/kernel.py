"""A simulated kernel: it does what it is told, in the time that the trace says, and reports it.

A load takes the model's load time however many run beside it; a container serves one call at a time, in the order in
which they came; one that is closed takes a fixed time to give its memory back. It has no lanes, so DRAIN is answered at
once. Nothing crashes, and what it measures is what the trace says.
"""

from collections import deque
from collections.abc import Callable
from enum import Enum

from huterox_bench.court.agenda import Agenda
from huterox_bench.court.traces import Cost
from huterox_connector.core.events import ContainerReported, Event
from huterox_connector.core.vectors import MIB
from huterox_wire.leases import DrainMeta
from huterox_wire.nodes import CloseMeta, ContainerEvent, ContainerReport, CreateMeta, HeartbeatMeta


class Way(Enum):
    """How a call came to its container."""

    HIT = "hit"
    WAITING = "waiting"
    MISS = "miss"
    JOINED = "joined"


class ReplayedCall:
    """One request on its way. A plain slots class: there are millions of them."""

    __slots__ = (
        "arrived_s",
        "caller",
        "deadline_s",
        "ended",
        "model",
        "request_id",
        "route",
        "service_s",
        "started_s",
        "way",
    )

    def __init__(
        self, request_id: int, caller: bytes, model: str, service_s: float, arrived_s: float, deadline_s: float
    ) -> None:
        self.request_id = request_id
        self.caller = caller
        self.model = model
        self.service_s = service_s
        self.arrived_s = arrived_s
        self.deadline_s = deadline_s
        self.started_s = arrived_s
        self.way = Way.HIT
        self.ended = False
        self.route = b""  # by which it was forwarded


class SimWorker:
    """One container."""

    __slots__ = ("closing", "cost", "id", "idle", "queue", "report", "unclaimed")

    def __init__(self, order: CreateMeta, cost: Cost) -> None:
        self.id = order.container
        self.cost = cost
        self.report = ContainerReport(order.container, order.model.name, order.model.version, "creating")
        self.queue: deque[ReplayedCall] = deque()
        self.idle = True
        self.closing = False
        self.unclaimed = False  # it has just been loaded, and no call has been forwarded for it yet


class SimKernel:
    """The kernel of one node.

    Args:
        deliver: takes an event to the switchboard.
        served: takes a call that its container has worked off.
    """

    def __init__(
        self,
        name: str,
        models: dict[str, Cost],
        unload_s: float,
        agenda: Agenda,
        deliver: Callable[[Event], None],
        served: Callable[[bytes, ReplayedCall], None],
    ) -> None:
        self.name = name
        self.identity = f"{name}:replay".encode()
        self.workers: dict[int, SimWorker] = {}
        self.loads = 0
        self.load_seconds = 0.0
        self._models = models
        self._unload_s = unload_s
        self._agenda = agenda
        self._deliver = deliver
        self._served = served

    def command(self, meta: object) -> None:
        """An order of the switchboard. Orders that are repeated are carried out once."""
        match meta:
            case CreateMeta():
                self._create(meta)
            case DrainMeta():
                self._agenda.after(0.0, self._report, ContainerEvent(meta.container, "drained"))
            case CloseMeta():
                worker = self.workers.get(meta.container)
                if worker is not None and not worker.closing:
                    worker.closing = True
                    worker.report.state = "draining"
                    self._agenda.after(self._unload_s, self._gone, worker)

    def heartbeat(self) -> HeartbeatMeta:
        """What it tells of itself now and then. Footprints were told when containers became ready, and stay."""
        return HeartbeatMeta(self.name, "replay", containers=[worker.report for worker in self.workers.values()])

    def forward(self, container_id: int, call: ReplayedCall) -> None:
        """A call arrived for one of its containers."""
        worker = self.workers[container_id]
        worker.queue.append(call)
        if worker.idle:
            self._start_next(worker)

    def _create(self, meta: CreateMeta) -> None:
        cost = self._models[meta.model.name]
        worker = self.workers[meta.container] = SimWorker(meta, cost)
        self.loads += 1
        self.load_seconds += cost.load_s
        self._agenda.after(cost.load_s, self._ready, worker)

    def _ready(self, worker: SimWorker) -> None:
        if worker.closing:
            return
        worker.unclaimed = True
        worker.report.state = "ready"
        nbytes = max(1, round(worker.cost.size_mb * MIB))
        timings_s = {"load": worker.cost.load_s}
        self._report(ContainerEvent(worker.id, "ready", pid=1, host_bytes=nbytes, timings_s=timings_s))
        worker.unclaimed = False

    def _gone(self, worker: SimWorker) -> None:
        del self.workers[worker.id]
        self._report(ContainerEvent(worker.id, "gone", cause="closed", reason="closed"))

    def _report(self, event: ContainerEvent) -> None:
        self._deliver(ContainerReported(self.identity, event))

    def _start_next(self, worker: SimWorker) -> None:
        """Hot path. Calls that were given up while they queued are left out: a worker leaves out what is too late."""
        queue = worker.queue
        while queue:
            call = queue.popleft()
            if not call.ended:
                worker.idle = False
                call.started_s = self._agenda.now_s
                self._agenda.after(call.service_s, self._finish, worker, call)
                return
        worker.idle = True

    def _finish(self, worker: SimWorker, call: ReplayedCall) -> None:
        """Hot path."""
        self._served(self.identity, call)
        self._start_next(worker)
