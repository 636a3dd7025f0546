"""Calls through the SDK, as a user would write them."""

from collections import deque
from typing import Any

import numpy as np

import huterox
from huterox_bench.errors import WrongAnswer
from huterox_bench.loads import SMALL_NBYTES, Shape, Slice, SliceLimit, slide

Array = np.ndarray[Any, np.dtype[np.float32]]


class Payloads:
    """Inputs for the calls in flight, all distinct, and what a model that adds one must answer."""

    def __init__(self, shape: Shape) -> None:
        base = np.arange(shape.nbytes // 4, dtype=np.float32) % 1024
        # One more than the window: an answer to the call before or after never looks right.
        self.inputs: list[Array] = [base + 2048 * index for index in range(shape.window + 1)]
        self._expected: list[Array] = [array + 1 for array in self.inputs]
        small = shape.nbytes <= SMALL_NBYTES
        self._expected_bytes = [array.tobytes() if small else b"" for array in self._expected]
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


class RoutedCalls:
    """Calls of one shape to a service: blocking calls where one is in flight, otherwise futures."""

    name = "routed"

    def __init__(self, service: huterox.Service, shape: Shape) -> None:
        self.shape = shape
        self._service = service
        self._payloads = Payloads(shape)
        self._futures: deque[huterox.CallFuture] = deque()

    def run(self, limit: SliceLimit) -> Slice:
        """One slice."""
        if self.shape.window == 1:
            slice_ = slide(_nothing, self._call, 1, limit)
        else:
            slice_ = slide(self._submit, self._take, self.shape.window, limit)
        self._payloads.check_last()
        return slice_

    def _call(self, index: int) -> None:
        """Hot path."""
        inputs = self._payloads.inputs
        self._payloads.check(index, self._service(x=inputs[index % len(inputs)])["result"])

    def _submit(self, index: int) -> None:
        """Hot path."""
        inputs = self._payloads.inputs
        self._futures.append(self._service.submit(x=inputs[index % len(inputs)]))

    def _take(self, index: int) -> None:
        """Hot path."""
        self._payloads.check(index, self._futures.popleft().result()["result"])


def _nothing(index: int) -> None:
    """A blocking call is sent and answered when its answer is taken."""
