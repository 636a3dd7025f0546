"""The worker processes of a kernel: their control sockets, pidfds and ends."""

import os
import socket
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct

from huterox_kernel import marks
from huterox_kernel.core.events import (
    Event,
    StartFailed,
    WorkerBroken,
    WorkerEnded,
    WorkerFailed,
    WorkerForked,
    WorkerProgressed,
)
from huterox_kernel.core.records import text_of
from huterox_kernel.shell import processes
from huterox_kernel.shell.cpus import usable_cpus
from huterox_kernel.shell.logs import Logs
from huterox_kernel.shell.mailbox import Mailbox
from huterox_kernel.shell.probes import oom_kill_count
from huterox_kernel.shell.processes import Identity
from huterox_kernel.shell.resident import Tree
from huterox_kernel.shell.strays import sweep
from huterox_kernel.shell.zygote import Order
from huterox_kernel.shell.zygotes import Zygotes
from huterox_kernel.worker import control
from huterox_kernel.worker.control import (
    Close,
    ControlError,
    Decoder,
    Failed,
    Imported,
    LaneBroken,
    LaneDropped,
    Progress,
    Ready,
    Start,
    StartSent,
)
from huterox_shm.lane import LaneDescriptors
from huterox_wire.nodes import ModelSpec

_DECODE: Final = Decoder(control.FromWorker)
SAID_NBYTES_MAX: Final = 500  # of what a worker wrote last that ended while it loaded
SWEEP_S: Final = 0.02
SWEEP_S_MAX: Final = 5.0
"""How long what a worker leaves behind is killed, again and again, before its end is told all the same."""

_MESSAGES_MAX: Final = 64  # of one worker in one turn of the loop


class Worker:
    """One worker process, as the kernel holds it."""

    __slots__ = (
        "container",
        "control",
        "exit_timer",
        "has_loaded",
        "identity",
        "interpreter",
        "killed",
        "mailbox",
        "mark",
        "pid",
        "pidfd",
        "status",
        "swept_until_s",
    )

    def __init__(self, container: int, interpreter: str, sock: socket.socket, mailbox: Mailbox, mark: int) -> None:
        self.container = container
        self.interpreter = interpreter
        self.control = sock
        self.mailbox = mailbox
        self.mark = mark
        self.swept_until_s = 0.0  # so long what it has left behind is waited for; 0: it has not ended
        self.pid = 0
        self.pidfd = -1
        self.identity: Identity | None = None
        self.killed = False
        self.has_loaded = False
        self.status: int | None = None
        self.exit_timer: TimerHandle | None = None


class Workers:
    """Starts, watches and ends worker processes; turns what it sees into events for the core.

    Args:
        feed: takes events.
        on_ready: takes a worker that has loaded, when its making began, and how long each stage took since; the event
            follows once it has been measured.
        on_imported: takes what a load of a model with this interpreter has imported.
        on_exit: called at once when a process has ended, before it is known how.
        on_lane: takes what a worker says of a caller's lane. May raise ControlError.
    """

    def __init__(
        self,
        loop: AbstractEventLoop,
        logs: Logs,
        torch_threads: int,
        spin_us: int,
        exit_report_timeout_s: float,
        feed: Callable[[Event], None],
        on_ready: Callable[[Worker, float, dict[str, float]], None],
        on_imported: Callable[[str, Imported], None],
        on_exit: Callable[[int], None],
        on_lane: Callable[[int, LaneBroken | LaneDropped], None],
    ) -> None:
        self._loop = loop
        self._logs = logs
        self._torch_threads = torch_threads
        self._spin_us = spin_us
        self._exit_report_timeout_s = exit_report_timeout_s
        self._feed = feed
        self._on_ready = on_ready
        self._on_imported = on_imported
        self._on_exit = on_exit
        self._on_lane = on_lane
        self._workers: dict[int, Worker] = {}
        self._number = 0  # of the worker that was started last
        self._oom_kills = oom_kill_count()

    def start(
        self, container: int, model: ModelSpec, device: str, lane: LaneDescriptors, ledger: int, zygotes: Zygotes
    ) -> None:
        """Order a process and leave in its socket what it is to serve. `lane` and `ledger` stay the giver's."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._number += 1
        mark = marks.for_worker(self._number)
        worker = Worker(container, model.interpreter, ours, Mailbox(self._loop, ours), mark)
        self._workers[container] = worker
        cpus = usable_cpus()
        with theirs:
            start_file = control.write_start(
                Start(container, model, self._torch_threads or cpus, self._spin_us, device, cpus)
            )
            try:
                control.send(worker.control, StartSent(), [start_file, *lane, ledger])
            finally:
                os.close(start_file)
            log = self._logs.open(text_of(container))
            order = Order(container, model.name, model.version, log, theirs.detach(), mark)
        zygotes.order(model.interpreter, order)

    def ask_to_close(self, container: int) -> None:
        """Tell a worker to finish and end."""
        self._workers[container].mailbox.post(Close())

    def post(self, container: int, message: Struct, descriptors: Sequence[int]) -> None:
        """Send a packet to a worker, now or later; the descriptors stay the giver's.

        Raises:
            OSError: there is no such worker, or no descriptor to keep.
        """
        worker = self._workers.get(container)
        if worker is None:
            raise ProcessLookupError(f"container {text_of(container)} has no process")
        worker.mailbox.post(message, descriptors)

    def kill(self, container: int, zygotes: Zygotes) -> None:
        """Kill a worker, or take back the order for it."""
        worker = self._workers.get(container)
        if worker is None:
            return
        worker.killed = True
        if worker.pidfd >= 0:
            processes.kill_by_pidfd(worker.pidfd)
        elif zygotes.withdraw(container):
            self._feed(StartFailed(container, "given up before it had a process"))

    def trees(self) -> list[Tree]:
        """The processes of each container that has any."""
        return [Tree(w.container, w.identity, w.mark) for w in self._workers.values() if w.identity is not None]

    def marks(self) -> set[int]:
        """Of all workers that are not gone: what wears them may live."""
        return {worker.mark for worker in self._workers.values()}

    def pids(self) -> set[int]:
        return {worker.pid for worker in self._workers.values() if worker.pid}

    def discard(self, container: int) -> None:
        """Let go of all that was held for a worker that has ended."""
        worker = self._workers.pop(container, None)
        if worker is None:
            return
        self._logs.release(text_of(container))
        self._stop_listening(worker)
        worker.mailbox.close()
        worker.control.close()
        if worker.pidfd >= 0:
            os.close(worker.pidfd)
        if worker.exit_timer is not None:
            worker.exit_timer.cancel()

    # What zygotes say.

    def on_forked(self, container: int, pid: int, pidfd: int) -> None:
        worker = self._workers.get(container)
        if worker is None or worker.pidfd >= 0:
            processes.kill_by_pidfd(pidfd)
            os.close(pidfd)
            return
        worker.pid, worker.pidfd = pid, pidfd
        try:
            worker.identity = processes.identity_of(pid)
        except ProcessLookupError:  # it has ended and been reaped; the pidfd will tell
            worker.identity = None
        self._loop.add_reader(pidfd, self._on_pidfd, worker)
        self._loop.add_reader(worker.control.fileno(), self._on_control, worker)
        started = worker.identity.start_ticks if worker.identity is not None else 0
        self._feed(WorkerForked(container, pid, started))

    def on_fork_failed(self, container: int, reason: str, traceback: str) -> None:
        self._feed(StartFailed(container, reason, traceback))

    def on_reaped(self, container: int, status: int) -> None:
        worker = self._workers.get(container)
        if worker is None:
            return
        worker.status = status
        if worker.exit_timer is not None:
            self._ended(worker)

    # What workers say, and how they end.

    def _on_control(self, worker: Worker) -> None:
        try:
            for _ in range(_MESSAGES_MAX):
                packet = control.receive(worker.control, _DECODE)
                if packet is None:
                    self._loop.remove_reader(worker.control.fileno())
                    return
                message, descriptors = packet
                control.close_all(descriptors)
                self._dispatch(worker, message)
        except BlockingIOError:
            return
        except (ControlError, OSError) as exc:
            self._loop.remove_reader(worker.control.fileno())
            self._feed(WorkerBroken(worker.container, f"its control socket: {exc}"))

    def _dispatch(self, worker: Worker, message: control.FromWorker) -> None:
        match message:
            case Progress(stage=stage):
                self._feed(WorkerProgressed(worker.container, stage))
            case Ready(taken_s=taken_s, timings_s=timings_s):
                worker.has_loaded = True
                self._on_ready(worker, taken_s, timings_s)
            case Imported():
                self._on_imported(worker.interpreter, message)
            case Failed(reason=reason, traceback=traceback):
                worker.has_loaded = True  # it has said why it has not
                self._feed(WorkerFailed(worker.container, reason, traceback))
            case LaneBroken() | LaneDropped():
                self._on_lane(worker.container, message)

    def _on_pidfd(self, worker: Worker) -> None:
        """The process has ended. Its last words and its status may still be on their way."""
        self._loop.remove_reader(worker.pidfd)
        self._on_control(worker)
        processes.kill_group(worker.pid)
        self._on_exit(worker.container)
        if worker.status is None:
            worker.status = processes.reap_by_pidfd(worker.pidfd)  # ours, if its zygote has ended
        if worker.status is not None:
            self._ended(worker)
        else:
            worker.exit_timer = self._loop.call_later(self._exit_report_timeout_s, self._ended, worker)

    def _ended(self, worker: Worker) -> None:
        """It is gone once all that came of it is."""
        if worker.exit_timer is not None:
            worker.exit_timer.cancel()
        if worker.status is None:
            worker.status = processes.reap_by_pidfd(worker.pidfd)
        now_s = self._loop.time()
        worker.swept_until_s = worker.swept_until_s or now_s + SWEEP_S_MAX
        stays = bool(worker.mark) and sweep(worker.mark, worker.pid)
        if stays and now_s < worker.swept_until_s:
            worker.exit_timer = self._loop.call_later(SWEEP_S, self._ended, worker)
            return
        how = self._how(worker)
        self._feed(WorkerEnded(worker.container, f"{how}; what it has started does not end" if stays else how))

    def _how(self, worker: Worker) -> str:
        if worker.status is None:
            return "ended together with its zygote"
        how = processes.how_it_ended(worker.status)
        if worker.status == control.EXIT_DESCRIPTORS << 8:
            return "the model closed descriptors that its worker needs"
        if os.WIFEXITED(worker.status) and not worker.has_loaded and (said := self._said(worker)):
            how += f"; it said last: {said}"
        kills = oom_kill_count()
        if kills > self._oom_kills and how == "killed by SIGKILL" and not worker.killed:
            how += " (the system was out of memory)"
        self._oom_kills = kills
        return how

    def _said(self, worker: Worker) -> str:
        lines = self._logs.tail(text_of(worker.container), SAID_NBYTES_MAX).strip().splitlines()
        return lines[-1] if lines else ""

    def _stop_listening(self, worker: Worker) -> None:
        if worker.pidfd >= 0:
            self._loop.remove_reader(worker.pidfd)
        self._loop.remove_reader(worker.control.fileno())
