"""Several processes that call through lanes at the same time, measured as one load."""

import json
import subprocess
from array import array
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from huterox_bench.errors import BenchError
from huterox_bench.loads import Shape, Slice, SliceLimit
from huterox_bench.processes import Child, python_child

CALLER = "huterox_bench.lane.caller"


class Crowd:
    """One caller process for each name in `services`, with its share of the calls in flight.

    Args:
        shape: of all callers together.
    """

    def __init__(self, name: str, endpoint: str, services: Sequence[str], shape: Shape, stack: ExitStack) -> None:
        self.name = name
        self.shape = shape
        window, rest = divmod(shape.window, len(services))
        if rest or not window:
            raise BenchError(f"{shape.window} calls in flight cannot be shared by {len(services)} callers")
        self._callers = [
            stack.enter_context(
                python_child(
                    f"the caller of {service}",
                    *(CALLER, endpoint, service, str(window), str(shape.nbytes)),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
            )
            for service in services
        ]
        for caller in self._callers:
            _answer(caller)

    def run(self, limit: SliceLimit) -> Slice:
        """One slice of all, from the first call to the last answer of any."""
        for caller in self._callers:
            caller.send(json.dumps([limit.seconds, limit.calls_max]).encode() + b"\n")
        slices = [_slice_of(caller) for caller in self._callers]
        latencies: array[int] = array("q")
        for _, _, own in slices:
            latencies.extend(own)
        started = min(started for started, _, _ in slices)
        ended = max(started + elapsed for started, elapsed, _ in slices)
        return Slice(latencies, ended - started, shares([len(own) / elapsed for _, elapsed, own in slices]))


def shares(rates: Sequence[float]) -> tuple[float, ...]:
    """Each caller's rate in parts of what it would be, were all the same."""
    fair = sum(rates) / len(rates)
    return tuple(rate / fair for rate in rates)


def _answer(caller: Child) -> Any:
    """The next line that a caller says. Raises BenchError: what it has to complain of, or that it has ended."""
    line = caller.read_line()
    answer = json.loads(line) if line.endswith(b"\n") else {}
    if not answer:
        caller.wait()
        caller.check_alive()
    if said := answer.get("error"):
        raise BenchError(f"{caller.name}: {said}")
    return answer


def _slice_of(caller: Child) -> tuple[int, int, "array[int]"]:
    answer = _answer(caller)
    latencies: array[int] = array("q")
    latencies.frombytes(caller.read(answer["calls"] * latencies.itemsize))
    return answer["started_ns"], answer["elapsed_ns"], latencies
