"""Calls through the SDK, as a user would write them."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

import huterox
from huterox_bench.errors import BenchError, WrongAnswer
from huterox_bench.loads import SMALL_NBYTES, Shape, Slice, SliceLimit, slide

Array = np.ndarray[Any, np.dtype[np.float32]]
LANE = "lane"
ROUTED = "routed"
LANE_TIMEOUT_S = 15.0
_TICK_S = 0.02


class Payloads:
    """Inputs for the calls in flight, all distinct, and what must be answered to each."""

    def __init__(self, inputs: Sequence[Array], expected: Sequence[Array]) -> None:
        self.inputs = inputs
        self._expected = expected
        self._expected_bytes = [array.tobytes() if array.nbytes <= SMALL_NBYTES else b"" for array in expected]
        self._last: tuple[Array, Array] | None = None

    def check(self, index: int, answer: Any) -> None:
        """Hot path. Compare a small answer in full, a large one in shape and at both ends."""
        index %= len(self.inputs)
        if data := self._expected_bytes[index]:
            right = answer.tobytes() == data
        else:
            expected = self._expected[index]
            right = answer.shape == expected.shape and answer[0] == expected[0] and answer[-1] == expected[-1]
            self._last = (answer, expected)
        if not right:
            raise WrongAnswer("a call has got the answer to another, or a wrong one")

    def check_last(self) -> None:
        """Compare the last large answer in full; the clock stands still meanwhile. Lets go of it."""
        if self._last is not None and not np.array_equal(*self._last):
            raise WrongAnswer("the model's answer is not its input plus one")
        self._last = None


class ServiceCalls:
    """Calls of one shape to a service: blocking calls where one is in flight, otherwise futures.

    Where calls travel through a lane, large inputs lie in it from the beginning (`service.empty`).

    Args:
        path: how calls must travel: before and after every slice `service.path` has to say so.
        name: of the row; empty: the path's.
        method: "predict" answers all of the input plus one, "peek" the first element of that.
    """

    def __init__(
        self, service: huterox.Service, path: str, shape: Shape, name: str = "", method: str = "predict"
    ) -> None:
        self.name = name or path
        self.shape = shape
        self._service = service
        self._path = path
        self._futures: deque[huterox.CallFuture] = deque()
        self._payloads = self._make_payloads(method)
        self._start: Callable[..., huterox.CallFuture] = service.submit
        self._run: Callable[..., dict[str, Any]] = service
        if method != "predict":
            self._start, self._run = partial(service.submit, method), partial(service.call, method)

    def run(self, limit: SliceLimit) -> Slice:
        """One slice."""
        self._check_path()
        if self.shape.window == 1:
            slice_ = slide(_nothing, self._call, 1, limit)
        else:
            slice_ = slide(self._submit, self._take, self.shape.window, limit)
        self._payloads.check_last()
        self._check_path()
        return slice_

    def _check_path(self) -> None:
        if (path := self._service.path) != self._path:
            raise BenchError(f"calls to {self._service.name} must be {self._path}, and are {path}")

    def _make_payloads(self, method: str) -> Payloads:
        count = self.shape.window + 1  # one more: an answer to the call before or after never looks right
        base = np.arange(self.shape.nbytes // 4, dtype=np.float32) % 1024
        arrays = [base + 2048 * index for index in range(count)]
        expected = [(array if method == "predict" else array[:1]) + 1 for array in arrays]
        if self._path == LANE and self.shape.nbytes > SMALL_NBYTES:
            arrays = [self._in_lane(array) for array in arrays]
        return Payloads(arrays, expected)

    def _in_lane(self, array: Array) -> Array:
        from huterox.lane_core import LaneMemory

        there: Array = self._service.empty(array.shape, array.dtype)
        there[...] = array
        base: Any = there
        while isinstance(base, np.ndarray) and not isinstance(base, LaneMemory):
            base = base.base
        if not isinstance(base, LaneMemory):
            raise BenchError(f"the lane of {self._service.name} has no room for {array.nbytes} bytes")
        return there

    def _call(self, index: int) -> None:
        """Hot path."""
        inputs = self._payloads.inputs
        self._payloads.check(index, self._run(x=inputs[index % len(inputs)])["result"])

    def _submit(self, index: int) -> None:
        """Hot path."""
        inputs = self._payloads.inputs
        self._futures.append(self._start(x=inputs[index % len(inputs)]))

    def _take(self, index: int) -> None:
        """Hot path."""
        self._payloads.check(index, self._futures.popleft().result()["result"])


def _nothing(index: int) -> None:
    """A blocking call is sent and answered when its answer is taken."""


def reach(service: huterox.Service, path: str) -> huterox.Service:
    """Call a service until its container is there and its calls travel as they must.

    Raises:
        BenchError: they do not.
    """
    until_s = time.monotonic() + LANE_TIMEOUT_S
    first = np.zeros(1, np.float32)
    while True:
        service(x=first)
        if service.path == path:
            return service
        if time.monotonic() > until_s:
            raise BenchError(
                f"calls to {service.name} are {service.path} after {LANE_TIMEOUT_S:.0f} s, and must be {path}: are the"
                " switchboard and its kernel on this host, and lanes not turned off (HUTEROX_LANES)?"
            )
        time.sleep(_TICK_S)
