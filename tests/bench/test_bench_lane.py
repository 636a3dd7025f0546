"""What a call through a lane costs in one process, without the wake-ups: the caller's half, the worker's, and both."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from huterox.core import Limits
from huterox.lane_core import LaneCall, LaneCore
from huterox_bench.sdk.services import MODEL_FILE
from huterox_kernel.worker.calls import Calls
from huterox_kernel.worker.inputs import Expected
from huterox_kernel.worker.runtimes import RUNTIMES
from huterox_shm.lane import CallerEnd, ContainerEnd, LaneConfig, create_lane
from huterox_wire.nodes import ModelSpec

pytestmark = pytest.mark.bench

X = np.arange(256, dtype=np.float32)  # 1 KiB
ROUNDS = 1000
COUNTS = pytest.mark.parametrize("count", [1, 64])


class Lane:
    """Both ends of one lane, and the bench's model behind it."""

    def __init__(self) -> None:
        descriptors = create_lane(LaneConfig(), generation=1)
        self.core = LaneCore(CallerEnd.attach(descriptors.duplicate()), Limits())
        spec = ModelSpec(name="model", source_dir=str(MODEL_FILE.parent), entry=f"{MODEL_FILE}:PlusOne")
        self.calls = Calls(ContainerEnd.attach(descriptors), RUNTIMES["python"](spec, print), Expected({}))
        self.check(self.round_trip(64))  # from now on the form is known, and blocks are free

    def close(self) -> None:
        self.core.end.close()
        self.calls.close()

    def send(self, count: int) -> list[LaneCall]:
        """The caller's way out."""
        core = self.core
        calls = []
        for _ in range(count):
            call = LaneCall()
            core.publish(call, "predict", {"x": X}, 60.0, 1e6)
            calls.append(call)
        core.flush()
        return calls

    def work(self) -> None:
        """The worker's half."""
        while self.calls.step(64) or self.calls.look():
            pass

    def receive(self, calls: list[LaneCall]) -> list[dict[str, Any]]:
        """The caller's way in."""
        core = self.core
        core.take()
        core.news.clear()
        return [core.outcome(call) for call in calls]

    def round_trip(self, count: int) -> list[dict[str, Any]]:
        calls = self.send(count)
        self.work()
        return self.receive(calls)

    def check(self, results: list[dict[str, Any]]) -> None:
        assert results
        assert all(np.array_equal(result["result"], X + 1) for result in results)


@pytest.fixture
def lane() -> Iterator[Lane]:
    made = Lane()
    yield made
    made.close()


@COUNTS
def test_calls_through_both_halves(lane: Lane, benchmark: Any, count: int) -> None:
    lane.check(benchmark(lane.round_trip, count))


@COUNTS
def test_the_callers_way_out(lane: Lane, benchmark: Any, count: int) -> None:
    sent: list[LaneCall] = []

    def answer() -> None:
        lane.work()
        if sent:
            lane.check(lane.receive(sent))
            sent.clear()

    benchmark.pedantic(lambda: sent.extend(lane.send(count)), setup=answer, rounds=ROUNDS)
    assert len(sent) == count


@COUNTS
def test_the_workers_half(lane: Lane, benchmark: Any, count: int) -> None:
    sent: list[LaneCall] = []

    def send() -> None:
        if sent:
            lane.check(lane.receive(sent))
        sent[:] = lane.send(count)

    benchmark.pedantic(lane.work, setup=send, rounds=ROUNDS)
    lane.check(lane.receive(sent))


@COUNTS
def test_the_callers_way_in(lane: Lane, benchmark: Any, count: int) -> None:
    def answer() -> tuple[tuple[list[LaneCall]], dict[str, Any]]:
        sent = lane.send(count)
        lane.work()
        return (sent,), {}

    lane.check(benchmark.pedantic(lane.receive, setup=answer, rounds=ROUNDS))
