"""How a lane ends, and what becomes of its calls: drained, its container dead, its kernel dead, its peer gone mad."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from tests.clients.containers import WAIT_S, ContainerDouble
from tests.clients.lanes import calls_under_way, eventually
from tests.rounds import seeds

import huterox
from huterox.core import Limits
from huterox.futures import CallFuture, Stream
from huterox.lane import LaneConnection
from huterox.lease import LaneGone
from huterox_shm.errors import PeerProtocolError
from huterox_wire.meta import decode_call
from huterox_wire.payload import join_values


class Elsewhere:
    """Takes up what a lane gives back: remembers it, and answers with what was asked."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, dict[str, Any], float]] = []
        self.error: huterox.HuteroxError | None = None
        self.pending: list[CallFuture] = []
        self.slow = False

    def _take(self, meta: bytes, tensors: Sequence[Any], deadline_s: float) -> dict[str, Any]:
        if self.error is not None:
            raise self.error
        asked = decode_call(meta)
        values = join_values(dict(asked.params), asked.tensors, tensors)
        self.taken.append((asked.method, values, deadline_s))
        return values

    def submit_again(self, meta: bytes, tensors: Sequence[Any], deadline_s: float) -> Any:
        values = self._take(meta, tensors, deadline_s)
        future = CallFuture()
        if self.slow:
            self.pending.append(future)
        else:
            future.set_result(values)
        return future

    def stream_again(self, meta: bytes, tensors: Sequence[Any], deadline_s: float) -> Stream:
        values = self._take(meta, tensors, deadline_s)
        return Listed([{"part": 1}, values])


class Listed(Stream):
    def __init__(self, parts: list[dict[str, Any]]) -> None:
        self._parts = iter(parts)
        self.closed = False

    def __next__(self) -> dict[str, Any]:
        return next(self._parts)

    def close(self) -> None:
        self.closed = True


class Bench:
    """A lane, the container behind it, and what is told of its end."""

    def __init__(self, limits: Limits | None = None, **options: Any) -> None:
        self.container = ContainerDouble(**options)
        self.model = self.container.model
        self.ended: list[LaneConnection] = []
        self.elsewhere = Elsewhere()
        self.lane = LaneConnection(self.container.end, self.container.liveness, limits or Limits(), self.ended.append)

    def submit(self, method: str = "predict", /, **inputs: Any) -> Any:
        return self.lane.submit(method, inputs, WAIT_S, self.elsewhere)

    def stream(self, method: str = "parts", /, **inputs: Any) -> Any:
        return self.lane.stream(method, inputs, WAIT_S, self.elsewhere)

    def call(self, method: str = "predict", /, **inputs: Any) -> Any:
        return self.lane.call(method, inputs, WAIT_S)

    def hold(self) -> Any:
        """A call that the container is in the middle of."""
        future = self.submit("hold", key="held")
        assert self.model.held.wait(WAIT_S)
        return future


@pytest.fixture
def make_bench() -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make_bench(*arguments: Any, **options: Any) -> Bench:
        made.append(Bench(*arguments, **options))
        return made[-1]

    yield make_bench
    for bench in made:
        bench.model.go.set()
        bench.lane.close()
        bench.container.close()


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()


# --- the container ends -----------------------------------------------------------------------------------------------


def test_calls_that_a_dead_container_had_not_begun_are_given_back_and_the_begun_one_is_lost(bench):
    held = bench.hold()
    queued = [bench.submit(x=index) for index in range(5)]
    with ThreadPoolExecutor(3) as pool:
        blocked = [pool.submit(bench.call, x=index) for index in range(2)]
        eventually(lambda: calls_under_way(bench.lane) == 8)
        bench.container.die()
        assert isinstance(held.exception(WAIT_S), huterox.WorkerLost)
        assert held.exception().details == {"executed": "maybe"}
        for future in blocked:
            gone = future.exception(WAIT_S)
            assert isinstance(gone, LaneGone)
            assert 0 < gone.left_s(2 * WAIT_S, time.monotonic()) <= WAIT_S
    assert [future.result(WAIT_S) for future in queued] == [{"x": index} for index in range(5)]
    assert [values["x"] for _, values, _ in bench.elsewhere.taken] == list(range(5))
    assert bench.ended == [bench.lane]
    assert not bench.lane.open


def test_what_is_given_back_is_what_was_submitted_whatever_it_is_made_of(bench):
    bench.hold()
    inside = bench.lane.empty(500, "int32")
    inside[:] = 3
    outside = np.arange(1000)
    asked: list[dict[str, Any]] = [
        {"x": outside},
        {"x": outside.T[::2], "y": outside[:3]},
        {"x": inside},
        {"x": inside, "y": outside, "blob": b"b" * 300, "n": 1},
        {"blob": b"c" * 5000},
        {"text": "ä", "list": [1, 2], "y": outside},
        {"n": 1, "t": None},
        {},
        {"x": np.zeros((0, 3))},
    ]
    futures = [bench.submit("note", **inputs) for inputs in asked]
    expected = [
        {name: np.array(value) if isinstance(value, np.ndarray) else value for name, value in inputs.items()}
        for inputs in asked
    ]
    outside[:] = 0
    bench.container.die()
    for future in futures:
        future.result(WAIT_S)
    assert len(bench.elsewhere.taken) == len(asked)
    for (method, values, deadline_s), inputs in zip(bench.elsewhere.taken, expected, strict=True):
        assert method == "note"
        assert deadline_s - time.monotonic() <= WAIT_S
        assert set(values) == set(inputs)
        for name, value in inputs.items():
            np.testing.assert_array_equal(values[name], value)


def test_a_future_that_is_given_back_serves_all_who_wait_for_it(bench):
    bench.hold()
    bench.elsewhere.slow = True
    future = bench.submit(x=1)
    told: list[Any] = []
    future.add_done_callback(lambda future: told.append(future.result()))
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(future.result, WAIT_S), pool.submit(future.exception, WAIT_S)]
        bench.container.die()
        bench.lane.hang_up()
        eventually(lambda: bench.elsewhere.pending)
        assert not future.done()
        with pytest.raises(TimeoutError):
            future.result(0.01)
        bench.elsewhere.pending[0].set_result({"x": "elsewhere"})
        assert [thread.result(WAIT_S) for thread in waiting] == [{"x": "elsewhere"}, None]
    assert told == [{"x": "elsewhere"}]
    assert future.done()


def test_a_future_that_nobody_has_touched_is_given_back_too(bench):
    bench.hold()
    futures = [bench.submit(x=index) for index in range(3)]
    bench.container.die()
    bench.lane.hang_up()
    eventually(lambda: len(bench.elsewhere.taken) == 3)
    assert futures[2].result(WAIT_S) == {"x": 2}


def test_a_future_that_is_given_back_can_be_cancelled_elsewhere(bench):
    bench.hold()
    bench.elsewhere.slow = True
    future = bench.submit(x=1)
    bench.container.die()
    bench.lane.hang_up()
    eventually(lambda: bench.elsewhere.pending)
    assert future.cancel()
    assert bench.elsewhere.pending[0].cancelled()
    assert future.cancelled()


def test_a_future_that_nobody_takes_up_ends_with_the_reason(bench):
    bench.hold()
    bench.elsewhere.error = huterox.DeadlineExceeded("no time is left")
    future = bench.submit(x=1)
    parts = bench.stream(count=3)
    bench.container.die()
    assert isinstance(future.exception(WAIT_S), huterox.DeadlineExceeded)
    with pytest.raises(huterox.DeadlineExceeded):
        next(parts)


def test_a_stream_that_was_not_begun_goes_on_elsewhere_and_a_begun_one_is_lost(bench):
    begun = bench.stream("endless")
    next(begun)
    waiting = bench.stream("note", key=7)
    bench.container.die()
    assert list(waiting) == [{"part": 1}, {"key": 7}]
    with pytest.raises(huterox.WorkerLost):
        list(begun)


def test_answers_that_came_before_the_end_are_good(bench):
    futures = [bench.submit(x=index) for index in range(20)]
    eventually(lambda: bench.container.lane._calls_taken >= 20 and not bench.container.lane.open_count)
    held = bench.hold()
    bench.container.die()
    assert [future.result(WAIT_S) for future in futures] == [{"x": index} for index in range(20)]
    assert isinstance(held.exception(WAIT_S), huterox.WorkerLost)


def test_answers_that_came_before_the_end_reach_threads_that_follow(bench):
    """The watcher's thread takes them in, while those who wait for them sleep."""
    held = bench.hold()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(held.result, WAIT_S)
        eventually(lambda: bench.lane._polled_for is not None)
        bench.model.go.set()
        bench.container.die()
        bench.lane.hang_up()
        outcome = waiting.exception(WAIT_S)
    assert outcome is None or isinstance(outcome, huterox.WorkerLost)


def test_a_call_after_the_end_is_for_another_way(bench):
    bench.container.die()
    assert_gone(bench)
    bench.lane.hang_up()
    bench.lane.hang_up()
    assert bench.ended == [bench.lane]
    bench.lane.close()  # by the thread that looks after lanes, while a call is on its way into this one
    assert_gone(bench)


def assert_gone(bench: Bench) -> None:
    attempts: list[Callable[[], object]] = [
        lambda: bench.call(x=1),
        lambda: bench.submit(x=1),
        lambda: bench.stream(count=1),
        lambda: bench.lane.empty(5, "int8"),
    ]
    for attempt in attempts:
        with pytest.raises(LaneGone):
            attempt()


@pytest.mark.parametrize("container_dies", [True, False])
def test_a_call_that_cannot_be_shown_any_more_goes_one_way_only(make_bench, container_dies):
    """It is in the ring, and the doorbell has been tampered with. Whether it was begun is known of the dead alone."""

    bench = make_bench(paused=not container_dies)  # or it may answer before it is told that the lane is over

    def fail() -> None:
        del bench.lane.core.flush
        if container_dies:
            bench.container.die()
        raise PeerProtocolError("the doorbell was tampered with")

    bench.lane.core.flush = fail
    future = bench.submit(x=1)
    bench.lane.hang_up()
    if container_dies:
        assert future.result(WAIT_S) == {"x": 1}
        assert len(bench.elsewhere.taken) == 1
    else:
        assert isinstance(future.exception(WAIT_S), huterox.WorkerLost)
        assert bench.elsewhere.taken == []


def test_who_waits_for_room_learns_of_the_end(make_bench):
    bench = make_bench(ring_entries=128, paused=True)
    futures = []
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: [futures.append(bench.submit(x=index)) for index in range(200)])
        time.sleep(0.1)
        assert not waiting.done()
        bench.container.die()
        assert isinstance(waiting.exception(WAIT_S), LaneGone)
    assert [future.result(WAIT_S)["x"] for future in futures] == list(range(len(futures)))


# --- the lane drains --------------------------------------------------------------------------------------------------


def test_a_draining_lane_ends_when_its_last_call_has(bench):
    held = bench.hold()
    queued = bench.submit(x=1)
    bench.container.drain()
    assert not bench.lane.open
    with pytest.raises(LaneGone):
        bench.call(x=2)
    assert bench.ended == []
    bench.model.go.set()
    assert held.result(WAIT_S) == {"key": "held"}
    assert queued.result(WAIT_S) == {"x": 1}
    eventually(lambda: bench.ended == [bench.lane])


def test_an_idle_lane_that_drains_ends_with_the_kernels_hanging_up(bench):
    assert bench.call(x=1) == {"x": 1}
    bench.container.drain()
    bench.container.die()
    bench.lane.hang_up()
    assert bench.ended == [bench.lane]


def test_a_call_that_comes_too_late_for_a_draining_container_is_given_back(make_bench):
    bench = make_bench(paused=True)
    future = bench.submit(x=1)
    bench.container.drain()
    bench.container.die()  # it has not looked any more
    assert future.result(WAIT_S) == {"x": 1}
    assert len(bench.elsewhere.taken) == 1


# --- the lane is left ------------------------------------------------------------------------------------------------


def test_a_lane_that_is_left_ends_when_its_last_call_has(bench):
    held = bench.hold()
    queued = bench.submit(x=1)
    bench.lane.leave()
    for attempt in (lambda: bench.call(x=2), lambda: bench.submit(x=2), lambda: bench.stream(count=1)):
        with pytest.raises(LaneGone):
            attempt()
    assert bench.ended == []
    bench.model.go.set()
    assert held.result(WAIT_S) == {"key": "held"}
    assert queued.result(WAIT_S) == {"x": 1}
    eventually(lambda: bench.ended == [bench.lane])
    assert bench.elsewhere.taken == []


def test_an_idle_lane_that_is_left_ends_at_once(bench):
    assert bench.call(x=1) == {"x": 1}
    bench.lane.leave()
    bench.lane.leave()
    assert bench.ended == [bench.lane]
    bench.lane.close()
    bench.lane.leave()
    assert bench.ended == [bench.lane]


# --- the kernel ends --------------------------------------------------------------------------------------------------


def test_all_calls_are_lost_with_the_kernel(bench):
    held = bench.hold()
    queued = [bench.submit(x=index) for index in range(3)]
    parts = bench.stream(count=1)
    with ThreadPoolExecutor(1) as pool:
        blocked = pool.submit(bench.call, x=9)
        eventually(lambda: calls_under_way(bench.lane) == 6)
        bench.container.lose_kernel()
        for future in [held, *queued, blocked]:
            lost = future.exception(WAIT_S)
            assert isinstance(lost, huterox.WorkerLost)
            assert lost.details == {"executed": "maybe"}
    with pytest.raises(huterox.WorkerLost):
        next(parts)
    assert bench.elsewhere.taken == []
    assert bench.ended == [bench.lane]
    with pytest.raises(LaneGone):
        bench.call(x=1)


def test_futures_that_nobody_waits_for_learn_of_the_kernels_end(bench):
    told = threading.Event()
    future = bench.hold()
    future.add_done_callback(lambda _: told.set())
    bench.container.lose_kernel()
    assert told.wait(WAIT_S)
    assert isinstance(future.exception(0), huterox.WorkerLost)


# --- the other side goes mad ------------------------------------------------------------------------------------------


def test_nonsense_in_the_ring_ends_the_lane_and_no_call_stays_without_its_end(bench):
    held = bench.hold()
    queued = bench.submit(x=1)
    bench.container._stopped = True
    os.eventfd_write(bench.lane._end.fileno(), 100_000)
    for future in (held, queued):
        assert isinstance(future.exception(WAIT_S), huterox.WorkerLost)
    assert bench.ended == [bench.lane]
    with pytest.raises(LaneGone):
        bench.call(x=1)


@pytest.mark.parametrize("seed", seeds(20, 100))
def test_whatever_the_other_side_writes_every_call_ends_and_nothing_else_breaks(make_bench, seed):
    """The container's half of the memory is filled with noise while calls are in flight."""
    chance = np.random.default_rng(seed)
    bench = make_bench(half_nbytes=1 << 20)
    bench.call(x=np.zeros(10))
    futures = [bench.submit("slow", seconds=0.001, x=np.zeros(5000)) for _ in range(10)]
    layout = bench.lane._end.layout
    view = bench.container.lane.writable
    for _ in range(30):
        low = layout.reply_ring if seed % 2 else layout.reply_half
        at = low + int(chance.integers(0, 64 * 128 if seed % 2 else 200_000))
        view[at : at + 64] = chance.bytes(64)
        time.sleep(0.0005)
    for future in futures:
        error = future.exception(2 * WAIT_S)
        assert error is None or isinstance(error, huterox.HuteroxError)
    del view


# --- fork -------------------------------------------------------------------------------------------------------------


def test_a_forked_child_is_told_and_the_parent_goes_on(bench):
    held = bench.hold()
    array = bench.lane.empty(10, "int64")
    result = bench.submit("array", n=10_000)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            bench.lane.forget()
            told = 0
            for forbidden in (lambda: bench.call(x=1), held.result, lambda: bench.lane.wait(held)):
                try:
                    forbidden()
                except (huterox.InvalidInput, LaneGone):
                    told += 1
            held.done()
            held.add_done_callback(lambda _: None)
            bench.lane.close()
            del array
            status = 0 if told == 3 else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    bench.model.go.set()
    assert held.result(WAIT_S) == {"key": "held"}
    assert result.result(WAIT_S)["x"][-1] == 9_999
    array[:] = 1
    assert bench.call(x=array)["x"].sum() == 10
