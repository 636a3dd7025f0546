"""A start in a fresh interpreter: the bench is the kernel of one worker."""

import os
import select
import socket
import subprocess
import sys
import time
from contextlib import ExitStack

from huterox_bench.cold.rows import Start
from huterox_bench.errors import BenchError
from huterox_kernel.shell.processes import identity_of, pss_bytes
from huterox_kernel.worker import control
from huterox_kernel.worker.control import Close, Decoder, Failed, Ready, StartSent
from huterox_shm.lane import LaneConfig, create_lane
from huterox_shm.ledger import create_ledger
from huterox_wire.nodes import ModelSpec

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 10.0
_LANE = LaneConfig(1024, 1 << 20, 1 << 20)
_THREADS = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # as a kernel's zygotes have
_DECODE = Decoder(control.FromWorker)


def start_fresh(model: ModelSpec) -> Start:
    """Start the model once, and end it. Raises BenchError: it does not come up."""
    with ExitStack() as stack:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stack.callback(ours.close)
        with theirs:
            _leave_orders(ours, model)
            begun_s = time.monotonic()
            process = subprocess.Popen(
                [sys.executable, "-m", "huterox_bench.cold.fresh_worker", str(theirs.fileno()), repr(begun_s)],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **_THREADS},
                start_new_session=True,
            )
        stack.callback(_end, process)
        timings_s = _await_ready(ours, model.name)
        total_s = time.monotonic() - begun_s
        pss = pss_bytes(identity_of(process.pid))
        control.send(ours, Close())
        return Start(total_s, timings_s, pss)


def _leave_orders(ours: socket.socket, model: ModelSpec) -> None:
    """What the worker is to serve waits for it in its socket."""
    with ExitStack() as given:
        lane = create_lane(_LANE, generation=1)
        given.callback(lane.close)
        ledger = create_ledger(1)
        given.callback(os.close, ledger)
        start = control.write_start(control.Start(1, model))
        given.callback(os.close, start)
        control.send(ours, StartSent(), [start, *lane, ledger])


def _await_ready(ours: socket.socket, name: str) -> dict[str, float]:
    poller = select.poll()
    poller.register(ours, select.POLLIN)
    until_s = time.monotonic() + START_TIMEOUT_S
    while (left_s := until_s - time.monotonic()) > 0 and poller.poll(left_s * 1000):
        packet = control.receive(ours, _DECODE)
        if packet is None:
            raise BenchError(f"{name} has ended in a fresh interpreter before it was ready")
        message, descriptors = packet
        control.close_all(descriptors)
        match message:
            case Ready(timings_s=timings_s):
                return dict(timings_s)
            case Failed(reason=reason):
                raise BenchError(f"{name} cannot be loaded in a fresh interpreter: {reason}")
    raise BenchError(f"{name} was not ready in a fresh interpreter within {START_TIMEOUT_S:g} s")


def _end(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        pass
    finally:
        process.kill()
        process.wait()
