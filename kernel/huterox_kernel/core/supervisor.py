"""The kernel's core: which workers there are, what state each is in, and when one must be killed.

Deliberately dumb: it creates and closes when told and reports what it sees. All that it decides by itself is to refuse
what is out of date or out of bounds, to give up a load that takes too long, and to kill what does not end in its grace.
"""

from collections.abc import Callable
from math import inf
from typing import Any, Final

from huterox_kernel.core.effects import (
    AdmitCalls,
    AskToClose,
    AwaitMemory,
    Discard,
    DrainLanes,
    Effect,
    Exit,
    FailCalls,
    KillWorker,
    Note,
    PromiseLane,
    RefuseCalls,
    RefuseLane,
    Register,
    Report,
    StartWorker,
    TellCalls,
)
from huterox_kernel.core.events import (
    CloseOrdered,
    CreateOrdered,
    DrainOrdered,
    Event,
    FootprintMeasured,
    LaneBroke,
    LanesDrained,
    LeaseOrdered,
    LinkConnected,
    MemoryReturned,
    RegistrationAnswered,
    RegistrationRefused,
    ShutdownOrdered,
    StartFailed,
    Ticked,
    WorkerBroken,
    WorkerEnded,
    WorkerFailed,
    WorkerForked,
    WorkerHung,
    WorkerProgressed,
    WorkerReady,
)
from huterox_kernel.core.lifecycle import State, Step
from huterox_kernel.core.records import MIB, Cause, Record, text_of
from huterox_wire.errors import Unavailable
from huterox_wire.nodes import Capacity, CloseMeta, ContainerEvent, ContainerReport, CreateMeta, RegisteredMeta

GRACE_S_MAX: Final = 3600.0
HEARTBEAT_S_MIN: Final = 0.02
HEARTBEAT_S_MAX: Final = 60.0
REGISTER_AGAIN_S: Final = 1.0
"""A registration that has no answer is not repeated before that, however often the switchboard asks for it."""


class Supervisor:
    """Owns the records of all workers. `on` is the only way in.

    Args:
        close_grace_s: how long workers may take to end when the kernel itself is told to end.
        heartbeat_s: how often to report until the switchboard says.
        return_timeout_s: how long a device may take to give an ended worker's memory back.
    """

    def __init__(
        self, capacity: Capacity, *, close_grace_s: float, heartbeat_s: float, return_timeout_s: float = 5.0
    ) -> None:
        self._capacity = capacity
        self._close_grace_s = close_grace_s
        self._return_timeout_s = return_timeout_s
        self._records: dict[int, Record] = {}
        self._shutting_down = False
        self._younger_told = (0, 0)  # the switchboard that the log was told of
        self._registered_s = -inf  # when a registration without an answer was sent
        self.epoch = 0
        self.store = ""
        self.mark = 0
        self.heartbeat_s = heartbeat_s
        self._handlers: dict[type[Event], Callable[[Any, float], list[Effect]]] = {
            LinkConnected: self._on_connected,
            RegistrationAnswered: self._on_registration_answered,
            RegistrationRefused: self._on_registration_refused,
            CreateOrdered: self._on_create,
            CloseOrdered: self._on_close,
            DrainOrdered: self._on_drain,
            LeaseOrdered: self._on_lease,
            LanesDrained: self._on_lanes_drained,
            LaneBroke: self._on_lane_broke,
            WorkerForked: self._on_forked,
            StartFailed: self._on_start_failed,
            WorkerProgressed: self._on_progressed,
            WorkerReady: self._on_ready,
            WorkerFailed: self._on_failed,
            WorkerBroken: self._on_broken,
            WorkerHung: self._on_hung,
            WorkerEnded: self._on_ended,
            MemoryReturned: self._on_returned,
            FootprintMeasured: self._on_measured,
            ShutdownOrdered: self._on_shutdown,
            Ticked: self._on_ticked,
        }

    def on(self, event: Event, now_s: float) -> list[Effect]:
        """Take one event; return what the shell must do, in order."""
        return self._handlers[type(event)](event, now_s)

    def next_deadline_s(self) -> float | None:
        """When `Ticked` is due."""
        return min((r.deadline_s for r in self._records.values() if r.deadline_s is not None), default=None)

    def reports(self) -> list[ContainerReport]:
        """All containers as the switchboard is told of them, without the lanes' counters."""
        return [record.report() for record in self._records.values()]

    def charged_bytes(self) -> int:
        """Host memory of all containers: what is measured, and of those that are loading what is reserved."""
        return sum(
            record.host_bytes if record.is_measured else max(record.host_bytes, record.reserved_bytes)
            for record in self._records.values()
        )

    def is_loading(self) -> bool:
        """Is a worker being made, or loading its model?"""
        return any(record.state in (State.STARTING, State.LOADING) for record in self._records.values())

    def is_changing(self) -> bool:
        """Does any container come or go? What goes may make room for one that is not ordered yet."""
        return any(record.draining or record.state is not State.READY for record in self._records.values())

    def serving(self) -> list[int]:
        """Containers that take calls, or finish them."""
        return [record.container for record in self._records.values() if record.state is State.READY]

    def pids(self) -> dict[int, int]:
        """Container -> pid, of all that have a process."""
        return {record.container: record.pid for record in self._records.values() if record.pid}

    # Orders of the switchboard.

    def _on_connected(self, _: LinkConnected, now_s: float) -> list[Effect]:
        """Whoever is at the other end may not know this kernel, and calls and answers may be lost."""
        self._registered_s = now_s
        return [Register()]

    def _on_registration_answered(self, event: RegistrationAnswered, now_s: float) -> list[Effect]:
        meta = event.meta
        if meta.epoch < self.epoch or (meta.epoch == self.epoch and meta.mark and self.mark not in (0, meta.mark)):
            return self._on_younger(meta, now_s)
        is_new = meta.epoch > self.epoch
        self.epoch, self.store, self.mark = meta.epoch, meta.store, meta.mark
        self.heartbeat_s = min(max(meta.heartbeat_s, HEARTBEAT_S_MIN), HEARTBEAT_S_MAX)
        if not meta.again:
            self._registered_s = -inf
            return [TellCalls()]
        if is_new:
            self._registered_s = -inf  # what was told to an older one does not count
        return self._register_again(now_s)

    def _on_registration_refused(self, _: RegistrationRefused, now_s: float) -> list[Effect]:
        """None is on its way: when the switchboard asks, it is time."""
        self._registered_s = -inf
        return []

    def _register_again(self, now_s: float) -> list[Effect]:
        """Not while one is on its way: each heartbeat that comes before it makes the switchboard ask."""
        if now_s - self._registered_s < REGISTER_AGAIN_S:
            return []
        self._registered_s = now_s
        return [Register()]

    def _on_younger(self, meta: RegisteredMeta, now_s: float) -> list[Effect]:
        """A switchboard whose store has lost count is not obeyed, but told what was seen: it steps beyond that."""
        effects = self._register_again(now_s) if meta.again else []
        if self._younger_told == (meta.epoch, meta.mark):
            return effects
        self._younger_told = meta.epoch, meta.mark
        text = f"a switchboard of epoch {meta.epoch} is not obeyed: {self.epoch} was seen, and it must go beyond that"
        return [Note(text), *effects]

    def _on_create(self, event: CreateOrdered, now_s: float) -> list[Effect]:
        meta = event.meta
        if meta.epoch < self.epoch:
            return [Note(f"ignored CREATE {text_of(meta.container)} of old epoch {meta.epoch}: {self.epoch} was seen")]
        self.epoch = meta.epoch
        if (known := self._records.get(meta.container)) is not None:
            # An answer "gone" would deny a container that lives.
            return [Note(f"ignored CREATE {text_of(meta.container)}: it is here, {known.state}")]
        if refusal := self._refusal(meta):
            return [Report(ContainerEvent(container=meta.container, what="gone", cause="refused", reason=refusal))]
        limit_s = meta.load_timeout_s or meta.model.load_timeout_s
        self._records[meta.container] = Record(
            meta.container,
            meta.model,
            now_s + limit_s,
            limit_s,
            meta.service,
            meta.device,
            meta.revision,
            reserved_bytes=_need(meta),
        )
        return [StartWorker(meta.container, meta.model, meta.device)]

    def _refusal(self, meta: CreateMeta) -> str:
        if self._shutting_down:
            return "the kernel is shutting down"
        if (taken := len(self._records)) >= self._capacity.slots:
            return f"all {self._capacity.slots} slots are taken ({taken} containers)"
        need = _need(meta)
        if need > self._capacity.host_bytes:
            return f"needs {need // MIB} MiB of host memory; this node gives {self._capacity.host_bytes // MIB} in all"
        known = [device.id for device in self._capacity.devices]
        if meta.device and meta.device not in known:
            return f"there is no device {meta.device} here; there are {', '.join(known) or 'none'}"
        return ""

    def _on_close(self, event: CloseOrdered, now_s: float) -> list[Effect]:
        meta = event.meta
        if meta.epoch < self.epoch:
            return [Note(f"ignored CLOSE {text_of(meta.container)} of old epoch {meta.epoch}: {self.epoch} was seen")]
        self.epoch = meta.epoch
        if (record := self._records.get(meta.container)) is None:
            return [_not_here(meta.container)]
        return self._close(record, meta, now_s)

    def _close(self, record: Record, meta: CloseMeta, now_s: float) -> list[Effect]:
        """A worker that is loading has no call to finish, so it is killed at once; a ready one has its grace."""
        was_ready = record.state is State.READY
        was_closing = record.state is State.CLOSING
        grace_s = min(max(0.0, meta.grace_s), GRACE_S_MAX)
        record.take(Step.CLOSE)
        record.blame("closed", meta.reason or "closed")
        if record.state is State.RETURNING:
            return []
        if was_closing:
            if record.deadline_s is not None:
                record.deadline_s = min(record.deadline_s, now_s + grace_s)
            return []
        if not was_ready or grace_s <= 0:
            return [RefuseCalls(record.container), *self._kill(record)]
        record.deadline_s = now_s + grace_s
        return [RefuseCalls(record.container), AskToClose(record.container)]

    # Lanes of callers.

    def _on_drain(self, event: DrainOrdered, now_s: float) -> list[Effect]:
        """May come again, and is answered again, but for one service, which has no answer."""
        meta = event.meta
        if meta.epoch < self.epoch:
            return [Note(f"ignored DRAIN {text_of(meta.container)} of old epoch {meta.epoch}: {self.epoch} was seen")]
        self.epoch = meta.epoch
        if (record := self._records.get(meta.container)) is None:
            return [_not_here(meta.container)]
        if record.state is State.RETURNING:
            return [] if meta.service else [_drained(record)]
        if meta.service:
            return [DrainLanes(record.container, meta.service)]
        record.draining = True
        return [DrainLanes(record.container)]

    def _on_lease(self, event: LeaseOrdered, now_s: float) -> list[Effect]:
        meta = event.meta
        if meta.epoch < self.epoch:
            error = Unavailable(f"a LEASE of old epoch {meta.epoch}: {self.epoch} was seen", reason="absent")
            return [RefuseLane(event.asked, error)]
        self.epoch = meta.epoch
        return [PromiseLane(meta, event.asked)]

    def _on_lanes_drained(self, event: LanesDrained, now_s: float) -> list[Effect]:
        record = self._records.get(event.container)
        if record is None or not record.draining:  # a CLOSE drains too, and is answered by its end
            return []
        return [_drained(record)]

    def _on_lane_broke(self, event: LaneBroke, now_s: float) -> list[Effect]:
        if event.container not in self._records:
            return []
        return [Report(ContainerEvent(container=event.container, what="lane_broken", reason=event.reason))]

    def _kill(self, record: Record) -> list[Effect]:
        record.killed = True
        record.deadline_s = None
        return [KillWorker(record.container)]

    # What becomes of a worker. News of one whose process has ended come late and mean nothing.

    def _living(self, container: int) -> Record | None:
        record = self._records.get(container)
        return None if record is None or record.state is State.RETURNING else record

    def _on_forked(self, event: WorkerForked, now_s: float) -> list[Effect]:
        if (record := self._living(event.container)) is None:
            return []
        record.take(Step.FORKED)
        record.pid, record.pid_started = event.pid, event.pid_started
        record.stage = "import"
        if record.state is State.CLOSING:
            return self._kill(record)
        loading = ContainerEvent(
            container=record.container, what="loading", pid=record.pid, pid_started=record.pid_started
        )
        return [Report(loading)]

    def _on_progressed(self, event: WorkerProgressed, now_s: float) -> list[Effect]:
        if (record := self._living(event.container)) is not None:
            record.stage = event.stage
        return []

    def _on_ready(self, event: WorkerReady, now_s: float) -> list[Effect]:
        if (record := self._living(event.container)) is None:
            return []
        if record.state is State.READY:
            return self._break(record, "reported ready twice")
        record.take(Step.LOADED)
        record.host_bytes, record.device_bytes = event.host_bytes, event.device_bytes
        record.is_measured = event.host_bytes > 0
        if record.state is State.CLOSING:
            return []
        record.deadline_s = None
        ready = ContainerEvent(
            container=record.container,
            what="ready",
            pid=record.pid,
            pid_started=record.pid_started,
            host_bytes=event.host_bytes,
            device_bytes=event.device_bytes,
            timings_s=event.timings_s,
        )
        drain: list[Effect] = [DrainLanes(record.container)] if record.draining else []
        return [AdmitCalls(record.container), Report(ready), *drain]

    def _on_failed(self, event: WorkerFailed, now_s: float) -> list[Effect]:
        if (record := self._living(event.container)) is None:
            return []
        cause: Cause = "crashed" if record.state is State.READY else "load_failed"
        return self._end(record, Step.FAILED, cause, event.reason, event.traceback, now_s)

    def _on_broken(self, event: WorkerBroken, now_s: float) -> list[Effect]:
        if (record := self._living(event.container)) is None:
            return []
        return self._break(record, event.reason)

    def _break(self, record: Record, reason: str) -> list[Effect]:
        record.take(Step.BROKEN)
        record.blame("crashed", reason)
        return [RefuseCalls(record.container), *self._kill(record)]

    def _on_hung(self, event: WorkerHung, now_s: float) -> list[Effect]:
        record = self._living(event.container)
        if record is None or record.state is not State.READY:
            return []  # it is on its way out, and is killed in the end
        record.take(Step.OVERDUE)
        record.blame("hung", event.reason)
        return [RefuseCalls(record.container), *self._kill(record)]

    def _end(self, record: Record, step: Step, cause: Cause, reason: str, traceback: str, now_s: float) -> list[Effect]:
        """The worker is about to end by itself: give it the grace, then kill it."""
        was_closing = record.state is State.CLOSING
        record.take(step)
        record.blame(cause, reason, traceback)
        if was_closing:
            return []
        record.deadline_s = now_s + self._close_grace_s
        return [RefuseCalls(record.container)]

    def _on_start_failed(self, event: StartFailed, now_s: float) -> list[Effect]:
        if (record := self._living(event.container)) is None:
            return []
        # No code of the model has run. Only an interpreter of its own may be to blame, and else the node.
        of_model = record.model.interpreter and not event.is_nodes_fault
        record.blame("load_failed" if of_model else "refused", event.reason, event.traceback)
        record.take(Step.ENDED)
        ended = FailCalls(record.container, record.reason)
        return [Discard(record.container), self._gone(record), ended, *self._exit_if_last()]

    def _on_ended(self, event: WorkerEnded, now_s: float) -> list[Effect]:
        if (record := self._living(event.container)) is None:
            return []
        if record.cause == "closed" and not record.killed and event.how != "exited with code 0":
            record.reason = f"{record.reason} ({event.how})"
        record.blame("crashed", event.how if record.state is State.READY else f"{event.how} in stage {record.stage}")
        discard, ended = Discard(record.container), FailCalls(record.container, record.reason)
        if record.device:
            record.take(Step.EXITED)
            record.deadline_s = now_s + self._return_timeout_s
            return [discard, _drained(record), ended, AwaitMemory(record.container, record.device, record.pid)]
        record.take(Step.ENDED)
        return [discard, self._gone(record), ended, *self._exit_if_last()]

    def _on_returned(self, event: MemoryReturned, now_s: float) -> list[Effect]:
        record = self._records.get(event.container)
        if record is None or record.state is not State.RETURNING:
            return []
        return self._end_return(record)

    def _end_return(self, record: Record) -> list[Effect]:
        record.take(Step.ENDED)
        return [self._gone(record), *self._exit_if_last()]

    def _gone(self, record: Record) -> Effect:
        del self._records[record.container]
        gone = ContainerEvent(
            container=record.container,
            what="gone",
            pid=record.pid,
            pid_started=record.pid_started,
            cause=record.cause,
            reason=record.reason,
            traceback=record.traceback,
        )
        return Report(gone)

    def _on_measured(self, event: FootprintMeasured, now_s: float) -> list[Effect]:
        record = self._living(event.container)
        if record is not None and record.state is not State.STARTING:
            record.host_bytes, record.device_bytes = event.host_bytes, event.device_bytes
        return []

    # Time, and the kernel's own end.

    def _on_ticked(self, event: Ticked, now_s: float) -> list[Effect]:
        due = [r for r in self._records.values() if r.deadline_s is not None and r.deadline_s <= now_s]
        return [effect for record in due for effect in self._overdue(record)]

    def _overdue(self, record: Record) -> list[Effect]:
        if record.state is State.RETURNING:
            waited = f"the memory of its device was not back after {self._return_timeout_s:g} s"
            record.reason = f"{record.reason} ({waited})"
            return self._end_return(record)
        if record.state is not State.CLOSING:
            limit_s, of_file_s = record.load_timeout_s, record.model.load_timeout_s
            why = f" ({of_file_s:g} s by its file, the rest for its size)" if limit_s > of_file_s else ""
            record.blame("load_timeout", f"not ready after {limit_s:g} s{why}, in stage {record.stage}")
        elif record.cause == "closed":
            record.cause = "closed" if self._shutting_down else "hung"
            record.reason = f"{record.reason} (killed: it did not end within its grace)"
        record.take(Step.OVERDUE)
        return self._kill(record)

    def _on_shutdown(self, event: ShutdownOrdered, now_s: float) -> list[Effect]:
        if self._shutting_down:
            return [effect for record in list(self._records.values()) for effect in self._end_now(record)]
        self._shutting_down = True
        effects: list[Effect] = []
        for record in self._records.values():
            meta = CloseMeta(self.epoch, record.container, event.reason, self._close_grace_s)
            effects += self._close(record, meta, now_s)
        return effects + self._exit_if_last()

    def _end_now(self, record: Record) -> list[Effect]:
        if record.state is State.RETURNING:
            return self._end_return(record)
        return [] if record.killed else self._kill(record)

    def _exit_if_last(self) -> list[Effect]:
        return [Exit()] if self._shutting_down and not self._records else []


def _need(meta: CreateMeta) -> int:
    return meta.host_bytes or meta.model.resources.host_mb * MIB


def _drained(record: Record) -> Report:
    return Report(ContainerEvent(container=record.container, what="drained"))


def _not_here(container: int) -> Report:
    return Report(ContainerEvent(container=container, what="gone", cause="closed", reason="it is not here"))
