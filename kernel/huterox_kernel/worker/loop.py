"""The worker's main program: load the model, then serve its lanes until told to end."""

import itertools
import os
import select
import socket
import sys
import time
from typing import Final

from huterox_kernel.worker import control, runtimes
from huterox_kernel.worker.calls import Calls
from huterox_kernel.worker.control import Close, ControlError, Decoder, Failed, Progress, Ready, Start, StartSent
from huterox_kernel.worker.inputs import Expected
from huterox_kernel.worker.runtimes.base import Announce, LoadError, Model
from huterox_kernel.worker.tracebacks import reason_of, traceback_of
from huterox_shm.errors import LaneDead, PeerProtocolError
from huterox_shm.lane import ContainerEnd, LaneDescriptors
from huterox_wire.nodes import ModelSpec

IDLE_S: Final = 5.0
"""After so long without a call, memory that the lanes do not use goes back to the system."""

KEPT_LOOK_S: Final = 0.2
"""How often an idle worker tells its callers about inputs that the model has let go of meanwhile."""

DESCRIPTORS: Final = 4  # the start file, and a lane's three

_DECODE: Final = Decoder(control.ToWorker)


def serve(control_descriptor: int, fork_s: float) -> int:
    """Be a worker. Returns the process's exit code."""
    sock = socket.socket(fileno=control_descriptor)
    received = control.receive(sock, _DECODE)
    if received is None:
        return 0
    start, lane = _begin(*received)
    try:
        expected = Expected(start.model.inputs)
        model, timings_s = _load(start, sock)
    except BaseException as exc:  # noqa: BLE001 - whatever it is, the kernel must learn why there is no model
        _report_failure(sock, exc)
        return 1
    loop = Loop(sock, [Calls(lane, model, expected)])
    lane.set_ready()
    control.send(sock, Ready({"fork": fork_s, **timings_s}))
    return loop.run()


def _begin(message: StartSent | Close, descriptors: list[int]) -> tuple[Start, ContainerEnd]:
    if not isinstance(message, StartSent) or len(descriptors) != DESCRIPTORS:
        raise ControlError(f"expected a start with {DESCRIPTORS} descriptors, got {message} with {len(descriptors)}")
    start_file, *lane = descriptors
    return control.read_start(start_file), ContainerEnd.attach(LaneDescriptors(*lane))


def _load(start: Start, sock: socket.socket) -> tuple[Model, dict[str, float]]:
    """The model, and how long each stage of its load took."""
    spec = start.model
    if os.path.isdir(spec.source_dir):  # noqa: PTH112 - no Path for a text that may be empty
        os.chdir(spec.source_dir)
    marks: list[tuple[str, float]] = []

    def announce(stage: str) -> None:
        marks.append((stage, time.monotonic()))
        control.send(sock, Progress(stage))
        if stage != "import":
            _limit_torch_threads(start.torch_threads)

    _limit_torch_threads(start.torch_threads)
    model = _runtime_of(spec, announce)
    marks.append(("", time.monotonic()))
    return model, {stage: after - at for (stage, at), (_, after) in itertools.pairwise(marks)}


def _runtime_of(spec: ModelSpec, announce: Announce) -> Model:
    load = runtimes.RUNTIMES.get(spec.runtime)
    if load is None:
        raise LoadError(f"unknown runtime {spec.runtime!r} (known: {', '.join(runtimes.RUNTIMES)})")
    return load(spec, announce)


def _limit_torch_threads(count: int) -> None:
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "set_num_threads"):
        torch.set_num_threads(count)


def _report_failure(sock: socket.socket, exc: BaseException) -> None:
    text = traceback_of(exc)
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - the container's log
    reason = str(exc) if isinstance(exc, LoadError) else reason_of(exc)
    control.send(sock, Failed(reason[: control.REASON_NBYTES_MAX], text))


class Loop:
    """Waits for calls and orders; gives each lane its turn."""

    def __init__(self, sock: socket.socket, lanes: list[Calls]) -> None:
        self._sock = sock
        self._lanes = lanes
        self._closing = False
        self._idle = False
        self._control = sock.fileno()
        self._poller = select.poll()
        self._poller.register(self._control, select.POLLIN)
        for calls in lanes:
            self._poller.register(calls.lane.fileno(), select.POLLIN)

    def run(self) -> int:
        """Hot path. Until told to close, and every call that had come by then is answered. Returns the exit code."""
        lanes = self._lanes
        try:
            while True:
                more = False
                for calls in lanes:
                    if calls.step():
                        more = True
                if more:
                    continue
                if not self._closing:
                    self._wait()
                elif not any(calls.look() for calls in lanes):
                    return 0
        except (LaneDead, PeerProtocolError) as exc:
            print(f"the lane has ended: {exc}", file=sys.stderr)  # noqa: T201 - the container's log
            return 1

    def _wait(self) -> None:
        """Hot path. Until a doorbell rings or the kernel has an order."""
        patience_ms = None if self._idle else IDLE_S * 1000.0
        for calls in self._lanes:
            if calls.lane.releases_pending:
                calls.lane.flush_releases()
            if calls.kept or calls.lane.releases_pending:
                patience_ms = KEPT_LOOK_S * 1000.0
        ready = self._poller.poll(patience_ms)
        for descriptor, _ in ready:
            if descriptor == self._control:
                self._obey()
        if ready:
            self._idle = False
        elif patience_ms != KEPT_LOOK_S * 1000.0:
            self._on_idle()

    def _on_idle(self) -> None:
        """What only an idle worker has time for; once, until something happens."""
        self._idle = True
        for calls in self._lanes:
            calls.lane.trim()

    def _obey(self) -> None:
        received = control.receive(self._sock, _DECODE)
        if received is not None:
            control.close_all(received[1])
        self._closing = True  # Close, or the kernel has gone
