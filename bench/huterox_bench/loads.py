"""Loads: what runs calls in slices, and checks the answers."""

from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter_ns
from typing import NamedTuple, Protocol

SMALL_NBYTES = 1024
LARGE_NBYTES = 4_915_200
"""A float32 image of 1 x 3 x 640 x 640."""


class Shape(NamedTuple):
    """So many calls in flight, of so many bytes each way."""

    window: int
    nbytes: int


SHAPES = (Shape(1, SMALL_NBYTES), Shape(64, SMALL_NBYTES), Shape(1, LARGE_NBYTES), Shape(4, LARGE_NBYTES))
"""What every way of calling is measured with."""


@dataclass(frozen=True, slots=True)
class SliceLimit:
    """When a slice ends: by whichever comes first."""

    seconds: float
    calls_max: int = 200_000


@dataclass(frozen=True, slots=True)
class Slice:
    """What one slice has seen: the latency of each call, and the time from the first send to the last answer.

    `shares`: where several callers have called at the same time, the rate of each over that of the average one.
    """

    latencies_ns: "array[int]"
    elapsed_ns: int
    shares: tuple[float, ...] = ()


class Load(Protocol):
    """Something that can be called. `run` may be called again and again; it leaves nothing in flight."""

    @property
    def name(self) -> str:
        """How its row is called."""

    @property
    def shape(self) -> Shape:
        """Calls in flight, and bytes each way."""

    def run(self, limit: SliceLimit) -> Slice:
        """Measure one slice. Raises BenchError where that cannot be, WrongAnswer for an answer that is wrong."""


def slide(submit: Callable[[int], None], take: Callable[[int], None], window: int, limit: SliceLimit) -> Slice:
    """Hot path. Keep `window` calls in flight until the limit is reached, then take what is left.

    Args:
        submit: sends the call of that number, counted from 0, and does not wait.
        take: waits for the answer to the oldest call in flight and checks it; is given the call's number.
    """
    clock = perf_counter_ns
    latencies: array[int] = array("q")
    calls_max = limit.calls_max
    sent = taken = 0
    started = clock()
    stop = started + int(limit.seconds * 1e9)
    in_flight: deque[int] = deque()
    now = started
    while sent < window and sent < calls_max:
        in_flight.append(now)
        submit(sent)
        sent += 1
        now = clock()
    while in_flight:
        take(taken)
        now = clock()
        latencies.append(now - in_flight.popleft())
        taken += 1
        if now < stop and sent < calls_max:
            in_flight.append(now)
            submit(sent)
            sent += 1
    return Slice(latencies, now - started)
