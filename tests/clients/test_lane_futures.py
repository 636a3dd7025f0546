"""Futures and streams of calls through a lane, and everything at once."""

import gc
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed, wait
from typing import Any

import numpy as np
import pytest
from tests.clients.containers import MIB, WAIT_S
from tests.clients.lanes import eventually
from tests.rounds import seeds

import huterox
from huterox.core import Limits
from huterox.lane import LaneConnection


def submit(lane: LaneConnection, method: str = "predict", /, timeout_s: float = WAIT_S, **inputs: Any) -> Any:
    return lane.submit(method, inputs, timeout_s, None)  # type: ignore[arg-type]


def stream(lane: LaneConnection, method: str = "parts", /, timeout_s: float = WAIT_S, **inputs: Any) -> Any:
    return lane.stream(method, inputs, timeout_s, None)  # type: ignore[arg-type]


# --- futures ----------------------------------------------------------------------------------------------------------


def test_submitted_inputs_may_change_at_once(lane):
    array = np.zeros(20_000, np.uint8)
    futures = []
    for index in range(20):
        array[:] = index
        futures.append(submit(lane, x=array))
    for index, future in enumerate(futures):
        assert set(future.result(WAIT_S)["x"].tolist()) == {index}


def test_a_future_is_a_future(lane):
    future = submit(lane, x=1)
    assert isinstance(future, huterox.CallFuture)
    assert future.result(WAIT_S) == {"x": 1}
    assert future.exception(0) is None
    assert (future.done(), future.running(), future.cancelled()) == (True, False, False)
    assert "finished" in repr(future)
    failed = submit(lane, "fail")
    assert isinstance(failed.exception(WAIT_S), huterox.ModelError)
    with pytest.raises(huterox.ModelError):
        failed.result(0)
    assert failed.done()


def test_a_future_that_is_asked_in_any_order_of_its_methods_answers_the_same(lane):
    asks: list[Callable[[Any], Any]] = [
        lambda future: future.result(WAIT_S),
        lambda future: future.exception(WAIT_S),
        lambda future: future.done(),
        lambda future: future.add_done_callback(lambda _: None),
        lambda future: wait([future], WAIT_S),
        lambda future: repr(future),
        lambda future: future.cancelled(),
    ]
    chance = random.Random(1)
    for index in range(200):
        future = submit(lane, x=index)
        for ask in chance.sample(asks, 4):
            ask(future)
        assert future.result(WAIT_S) == {"x": index}


def test_two_threads_may_wait_for_one_future(open_lane):
    lane, container = open_lane()
    future = submit(lane, "hold", key=1)
    with ThreadPoolExecutor(4) as pool:
        results = [pool.submit(future.result, WAIT_S) for _ in range(2)]
        results += [pool.submit(lambda: (future.exception(WAIT_S), future.result())[1]) for _ in range(2)]
        container.model.go.set()
        assert [result.result(WAIT_S) for result in results] == [{"key": 1}] * 4


def test_futures_finish_by_themselves_when_nobody_waits_in_result(open_lane):
    lane, container = open_lane()
    done = threading.Event()
    future = submit(lane, "hold", key=1)
    future.add_done_callback(lambda _: done.set())
    container.model.go.set()
    assert done.wait(WAIT_S)
    assert future.result(0) == {"key": 1}


def test_futures_work_with_the_standard_wait_and_as_completed(lane):
    futures = [submit(lane, "slow", seconds=0.01, index=index) for index in range(10)]
    assert [future.result()["index"] for future in as_completed(futures, WAIT_S)] == list(range(10))
    done, pending = wait([submit(lane, x=1) for _ in range(100)], WAIT_S)
    assert (len(done), len(pending)) == (100, 0)


def test_a_callback_comes_once_whenever_it_is_added(lane):
    told: list[int] = []
    futures = []
    for index in range(300):
        future = submit(lane, x=index)
        if index % 3 == 0:
            future.result(WAIT_S)
        future.add_done_callback(lambda future: told.append(future.result()["x"]))
        futures.append(future)
    wait(futures, WAIT_S)
    eventually(lambda: len(told) == 300)
    assert sorted(told) == list(range(300))


def test_a_callback_may_call_wait_and_submit(lane):
    results: list[object] = []
    done = threading.Event()

    def second(future: Any) -> None:
        results.append(lane.call("predict", {"x": 2}, WAIT_S))
        results.append(submit(lane, x=3).result(WAIT_S))
        submit(lane, x=4).add_done_callback(third)

    def third(future: Any) -> None:
        results.append(future.result())
        done.set()

    submit(lane, x=1).add_done_callback(second)
    assert done.wait(WAIT_S)
    assert results == [{"x": 2}, {"x": 3}, {"x": 4}]


def test_a_chain_of_callbacks_does_not_deepen_the_stack(lane):
    done = threading.Event()
    left = [3000]

    def again(future: Any) -> None:
        left[0] -= 1
        if left[0]:
            submit(lane, x=left[0]).add_done_callback(again)
        else:
            done.set()

    again(None)
    assert done.wait(60)


def test_a_raising_callback_harms_nobody(lane, caplog):
    future = submit(lane, x=1)
    future.add_done_callback(lambda _: 1 / 0)
    assert future.result(WAIT_S) == {"x": 1}
    assert submit(lane, x=2).result(WAIT_S) == {"x": 2}
    eventually(lambda: "ZeroDivisionError" in caplog.text)


def test_an_unattended_future_ends_at_its_deadline_too(open_lane):
    lane, _ = open_lane()
    done = threading.Event()
    future = submit(lane, "hold", timeout_s=0.2)
    future.add_done_callback(lambda _: done.set())
    assert done.wait(WAIT_S)
    assert isinstance(future.exception(0), huterox.DeadlineExceeded)


def test_waiting_for_a_result_with_a_timeout_leaves_the_call_alone(open_lane):
    lane, container = open_lane()
    future = submit(lane, "hold", key=1)
    for ask in (future.result, future.exception):
        with pytest.raises(TimeoutError):
            ask(0.01)
    container.model.go.set()
    assert future.result(WAIT_S) == {"key": 1}


def test_a_cancelled_future_tells_the_container(open_lane):
    lane, container = open_lane()
    holding = submit(lane, "hold")
    assert container.model.held.wait(WAIT_S)
    future = submit(lane, "note", key=1)
    assert future.cancel()
    assert future.cancelled()
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result(WAIT_S)
    assert wait([future], WAIT_S).done == {future}
    container.model.go.set()
    holding.result(WAIT_S)
    assert lane.call("predict", {"x": 1}, WAIT_S) == {"x": 1}
    assert container.model.seen == []
    eventually(lambda: lane.call("predict", {"x": 1}, WAIT_S) and not lane._end.calls)


def test_cancelling_wakes_the_thread_that_waits(open_lane):
    lane, container = open_lane()
    future = submit(lane, "hold")
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(future.exception), pool.submit(future.result)]
        assert container.model.held.wait(WAIT_S)
        assert future.cancel()
        for thread in waiting:
            assert isinstance(thread.exception(WAIT_S), CancelledError)


def test_a_finished_future_cannot_be_cancelled(lane):
    future = submit(lane, x=1)
    future.result(WAIT_S)
    assert not future.cancel()
    assert not future.cancelled()
    assert future.result(0) == {"x": 1}


def test_a_dropped_future_leaves_nothing(lane):
    for index in range(100):
        submit(lane, x=np.full(5000, index))
    gc.collect()
    eventually(lambda: lane.call("predict", {"x": 1}, WAIT_S) and not lane._end.calls)
    gc.collect()
    assert not lane.core.held


# --- streams ----------------------------------------------------------------------------------------------------------


def test_parts_of_a_stream_come_in_order(lane):
    for _ in range(2):
        assert [part["index"] for part in stream(lane, count=300)] == list(range(300))
    arrays = [part["x"] for part in stream(lane, "large_parts", count=20, n=5000)]
    assert [int(array[0]) for array in arrays] == list(range(20))


def test_the_value_of_a_method_that_does_not_stream_is_the_only_part(lane):
    assert list(stream(lane, "predict", x=5)) == [{"x": 5}]
    parts = list(stream(lane, "predict", x=np.arange(3)))
    assert parts[0]["x"].tolist() == [0, 1, 2]


def test_an_error_in_the_middle_of_a_stream_comes_after_its_parts(lane):
    parts = stream(lane, count=2, fail=True)
    assert isinstance(parts, huterox.Stream)
    assert [next(parts)["index"], next(parts)["index"]] == [0, 1]
    with pytest.raises(huterox.ModelError, match="in the middle"):
        next(parts)
    with pytest.raises(StopIteration):
        next(parts)


def test_a_closed_stream_stops_the_model(open_lane):
    lane, container = open_lane()
    with stream(lane, "endless") as parts:
        assert "x" in next(parts)
    eventually(lambda: container.model.seen == ["stopped"])
    with pytest.raises(StopIteration):
        next(parts)
    parts.close()


def test_a_dropped_stream_stops_the_model(open_lane):
    lane, container = open_lane()
    parts = stream(lane, "endless")
    next(parts)
    del parts
    gc.collect()
    eventually(lambda: container.model.seen == ["stopped"])


def test_a_silent_stream_ends_at_its_deadline(lane):
    with pytest.raises(huterox.DeadlineExceeded):
        list(stream(lane, "hold", timeout_s=0.2))


def test_a_stream_that_nobody_reads_is_bounded(open_lane):
    lane, container = open_lane(Limits(stream_parts_max=50))
    parts = stream(lane, "endless")
    eventually(lambda: container.model.seen == ["stopped"])
    with pytest.raises(huterox.Busy, match="too slow"):
        list(parts)


def test_a_stream_of_large_parts_that_are_kept_comes_to_its_end(open_lane):
    lane, _ = open_lane(half_nbytes=4 * MIB)
    parts = [part["x"] for part in stream(lane, "large_parts", count=30, n=100_000)]
    assert [int(part[-1]) for part in parts] == list(range(30))


def test_a_stream_and_calls_of_the_same_thread_interleave(lane):
    for part in stream(lane, count=10):
        assert lane.call("predict", {"x": part["index"]}, WAIT_S) == {"x": part["index"]}


def test_a_stream_for_which_there_is_no_room_waits_for_it(open_lane):
    lane, container = open_lane(ring_entries=128, paused=True)
    futures = [submit(lane, x=index) for index in range(60)]
    with ThreadPoolExecutor(1) as pool:
        later = pool.submit(lambda: [part["index"] for part in stream(lane, count=20)])
        time.sleep(0.05)
        container.running.set()
        assert later.result(WAIT_S) == list(range(20))
    assert [future.result(WAIT_S)["x"] for future in futures] == list(range(60))


# --- everything at once -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", seeds(3, 50))
def test_a_storm_of_everything_at_once_leaves_no_call_without_its_end(open_lane, seed):
    lane, container = open_lane(half_nbytes=4 * MIB, ring_entries=256)

    def call(key: str) -> None:
        assert lane.call("predict", {"key": key}, WAIT_S) == {"key": key}

    def arrays(key: str) -> None:
        size = 1 + hash(key) % 40_000
        assert lane.call("predict", {"x": np.full(size, size)}, WAIT_S)["x"][-1] == size

    def inside(key: str) -> None:
        try:
            array = lane.empty(1000, "int64")
        except huterox.Busy:
            return
        array[:] = 5
        assert submit(lane, x=array).result(WAIT_S)["x"].sum() == 5000

    def late_call(key: str) -> None:
        with pytest.raises(huterox.DeadlineExceeded):
            lane.call("slow", {"seconds": 0.03}, 0.02)
            raise huterox.DeadlineExceeded("it was quick after all")

    def many(key: str) -> None:
        for index, future in enumerate([submit(lane, key=key, index=index) for index in range(10)]):
            assert future.result(WAIT_S) == {"key": key, "index": index}

    def submit_unwatched(key: str) -> None:
        done = threading.Event()
        submit(lane, key=key).add_done_callback(lambda _: done.set())
        assert done.wait(WAIT_S)

    def cancel(key: str) -> None:
        submit(lane, "slow", seconds=0.005).cancel()

    def impatient(key: str) -> None:
        future = submit(lane, "slow", seconds=0.005, key=key)
        try:
            future.result(0.001)
        except TimeoutError:
            assert future.result(WAIT_S)["key"] == key

    def parts(key: str) -> None:
        assert len(list(stream(lane, count=20))) == 20

    def left_stream(key: str) -> None:
        with stream(lane, count=1000) as left:
            assert next(left) == {"index": 0}

    def nested(key: str) -> None:
        done = threading.Event()
        submit(lane, key=key).add_done_callback(lambda _: (call(key), done.set()))
        assert done.wait(WAIT_S)

    deeds = [call, call, call, arrays, arrays, inside, late_call, many, submit_unwatched, cancel, impatient, parts]
    deeds += [left_stream, nested]

    def work(worker: int) -> None:
        chance = random.Random(seed * 100 + worker)
        for index in range(40):
            chance.choice(deeds)(f"{worker}/{index}")

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(work, worker) for worker in range(8)]:
            future.result(60)
    eventually(lambda: lane.call("predict", {"x": 1}, WAIT_S) and not lane._end.calls)
    assert not lane._followers
    assert container.error is None
