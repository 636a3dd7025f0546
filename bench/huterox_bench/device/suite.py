"""The suite: copies to and from a device; the host's end is in a lane, registered or not, or torch's own memory."""

from array import array
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any, Final

import numpy as np

from huterox_bench.device.cuda import Cuda
from huterox_bench.device.rows import CopyRow, rows_of_copies
from huterox_bench.errors import BenchError, WrongAnswer
from huterox_bench.loads import LARGE_NBYTES, Shape, Slice, SliceLimit
from huterox_bench.measure import Progress, interleave
from huterox_bench.options import Options
from huterox_kernel.worker.pinned import Pinned
from huterox_shm.lane import CallerEnd, ContainerEnd, LaneConfig, create_lane

SIZES: Final = (LARGE_NBYTES, 64 * 1024 * 1024)
HALF_NBYTES: Final = 64 * 1024 * 1024
"""A lane of two such halves is small enough to be pinned."""


@dataclass(slots=True)
class Copy:
    """A copy and the wait for it, over and over; what has arrived is compared once a slice."""

    name: str
    shape: Shape
    cuda: Any
    source: Any
    target: Any

    def run(self, limit: SliceLimit) -> Slice:
        """Measure one slice."""
        mark = int(self.source[0]) ^ 0x5A
        self.source.fill_(mark)
        latencies: array[int] = array("q")
        begun_ns = now_ns = perf_counter_ns()
        until_ns = begun_ns + int(limit.seconds * 1e9)
        while now_ns < until_ns and len(latencies) < limit.calls_max:
            self.target.copy_(self.source)
            self.cuda.wait()
            last_ns, now_ns = now_ns, perf_counter_ns()
            latencies.append(now_ns - last_ns)
        if int(self.target.min()) != mark or int(self.target.max()) != mark:
            raise WrongAnswer(f"{self.name}: what was copied has not arrived")
        return Slice(latencies, now_ns - begun_ns)


def open_copies(stack: ExitStack, cuda: Any) -> list[Copy]:
    """Every kind of copy in both directions, each in both sizes. Raises BenchError: a lane is not registered."""
    torch = cuda.torch
    registered = _lane(stack, torch)
    pinned = Pinned(cuda.cudart())
    if reason := pinned.pin(registered[0]):
        raise BenchError(f"the lane is not registered as pinned memory: {reason}")
    stack.callback(pinned.unpin, registered[0])
    hosts = {
        "pinned": cuda.pinned(HALF_NBYTES),
        "lane": registered[1],
        "pageable_lane": _lane(stack, torch)[1],
        "pageable": torch.zeros(HALF_NBYTES, dtype=torch.uint8),
    }
    device = cuda.on_device(HALF_NBYTES)
    copies = []
    for nbytes in SIZES:
        there = device[:nbytes]
        for kind, memory in hosts.items():
            here = memory[:nbytes]
            copies.append(Copy(f"to_device_{kind}", Shape(1, nbytes), cuda, here, there))
            copies.append(Copy(f"from_device_{kind}", Shape(1, nbytes), cuda, there, here))
    return copies


def _lane(stack: ExitStack, torch: Any) -> tuple[ContainerEnd, Any]:
    """The container's end of a lane, and the memory of its replies as a tensor."""
    descriptors = create_lane(LaneConfig(128, HALF_NBYTES, HALF_NBYTES), generation=1)
    caller, container = CallerEnd.attach(descriptors.duplicate()), ContainerEnd.attach(descriptors)
    stack.callback(caller.close)
    stack.callback(container.close)
    container.reserve_all()
    memory = np.frombuffer(container.writable, np.uint8)[container.layout.reply_half :][:HALF_NBYTES]
    return container, torch.from_numpy(memory)


def measure_device(options: Options, stack: ExitStack, progress: Progress, cuda: Any = None) -> Sequence[CopyRow]:
    """The rows. Raises BenchError: there is no device."""
    copies = open_copies(stack, cuda or Cuda())
    return rows_of_copies(interleave(copies, options.plan, progress))
