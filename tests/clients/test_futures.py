"""Futures, streams and callbacks against a switchboard double; and everything at once."""

import gc
import random
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed, wait
from contextlib import suppress

import numpy as np
import pytest
from tests.rounds import seeds

import huterox
from huterox.client import Client
from huterox.core import Limits
from huterox_wire.kinds import Kind

WAIT_S = 10.0


def test_submitted_inputs_may_change_at_once(client, double):
    service = client.service("echo")
    array = np.zeros(200_000, np.uint8)
    futures = []
    for index in range(20):
        array[:] = index
        futures.append(service.submit(x=array))
    for index, future in enumerate(futures):
        assert set(future.result(WAIT_S)["x"].tolist()) == {index}


def test_two_threads_may_wait_for_one_future(service):
    future = service.submit("later", seconds=0.1)
    with ThreadPoolExecutor(3) as pool:
        results = [pool.submit(future.result, WAIT_S) for _ in range(3)]
        assert [result.result(WAIT_S) for result in results] == [{"seconds": 0.1}] * 3


def test_futures_finish_by_themselves_when_nobody_waits_in_result(service):
    done = threading.Event()
    future = service.submit("later", seconds=0.05)
    future.add_done_callback(lambda _: done.set())
    assert done.wait(WAIT_S)
    assert future.result(0) == {"seconds": 0.05}


def test_futures_work_with_the_standard_wait_and_as_completed(service):
    futures = [service.submit("later", seconds=index / 100, index=index) for index in range(10)]
    assert [future.result()["index"] for future in as_completed(futures, WAIT_S)] == list(range(10))
    done, pending = wait([service.submit(x=1) for _ in range(10)], WAIT_S)
    assert (len(done), len(pending)) == (10, 0)


def test_a_callback_may_call_wait_and_submit(service):
    results: list[object] = []
    done = threading.Event()

    def second(future) -> None:
        results.append(service(x=2))
        results.append(service.submit(x=3).result(WAIT_S))
        service.submit(x=4).add_done_callback(third)

    def third(future) -> None:
        results.append(future.result())
        done.set()

    service.submit(x=1).add_done_callback(second)
    assert done.wait(WAIT_S)
    assert results == [{"x": 2}, {"x": 3}, {"x": 4}]


def test_a_chain_of_callbacks_does_not_deepen_the_stack(service):
    done = threading.Event()
    left = [3000]

    def again(future) -> None:
        left[0] -= 1
        if left[0]:
            service.submit(x=left[0]).add_done_callback(again)
        else:
            done.set()

    again(None)
    assert done.wait(60)


def test_a_callback_may_wait_for_a_future_that_came_with_its_own(service):
    order: list[int] = []
    futures = [service.submit("gather", count=8, index=index) for index in range(7)]
    for index, future in enumerate(futures):
        partner = futures[(index + 1) % 7]
        future.add_done_callback(lambda _, partner=partner: order.append(partner.result(WAIT_S)["index"]))
    service.call("gather", count=8, index=7)
    wait(futures, WAIT_S)
    assert sorted(order) == list(range(7))


def test_a_raising_callback_harms_nobody(service, caplog):
    future = service.submit(x=1)
    future.add_done_callback(lambda _: 1 / 0)
    assert future.result(WAIT_S) == {"x": 1}
    assert service(x=2) == {"x": 2}
    assert "ZeroDivisionError" in caplog.text


def test_an_unattended_future_ends_at_its_deadline_too(service, double):
    done = threading.Event()
    future = service.submit("silent", timeout=0.2)
    future.add_done_callback(lambda _: done.set())
    assert done.wait(WAIT_S)
    assert isinstance(future.exception(0), huterox.DeadlineExceeded)
    double.expect(Kind.CANCEL)


def test_waiting_for_a_result_with_a_timeout_leaves_the_call_alone(service, double):
    future = service.submit("held", key=1)
    with pytest.raises(TimeoutError):
        future.result(0.01)
    with pytest.raises(TimeoutError):
        future.exception(0)
    double.go.set()
    assert future.result(WAIT_S) == {"key": 1}


def test_a_cancelled_future_tells_the_switchboard(service, double):
    future = service.submit("silent")
    call = double.expect(Kind.CALL)
    assert future.cancel()
    assert future.cancelled()
    assert double.expect(Kind.CANCEL).header.request_id == call.header.request_id
    with pytest.raises(CancelledError):
        future.result(WAIT_S)
    assert wait([future], WAIT_S).done == {future}


def test_cancelling_wakes_the_thread_that_waits(service, double):
    future = service.submit("silent")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(future.exception)
        double.expect(Kind.CALL)
        assert future.cancel()
        assert isinstance(waiting.exception(WAIT_S), CancelledError)


def test_a_finished_future_cannot_be_cancelled(service):
    future = service.submit(x=1)
    future.result(WAIT_S)
    assert not future.cancel()
    assert not future.cancelled()


def test_parts_of_a_stream_come_in_order(service):
    assert [part["index"] for part in service.stream("parts", count=100)] == list(range(100))
    big = {"each": {"text": "x" * 1000}}
    assert sum(len(part["text"]) for part in service.stream("parts", count=50, **big)) == 50_000


def test_the_value_of_a_method_that_does_not_stream_is_the_only_part(service):
    assert list(service.stream(x=5)) == [{"x": 5}]
    assert list(service.stream("parts", count=1, last={"sum": 3})) == [{"index": 0}, {"sum": 3}]


def test_an_error_in_the_middle_of_a_stream_comes_after_its_parts(service):
    stream = service.stream("parts", count=2, fail=True)
    assert next(stream) == {"index": 0}
    assert next(stream) == {"index": 1}
    with pytest.raises(huterox.ModelError, match="in the middle"):
        next(stream)
    with pytest.raises(StopIteration):
        next(stream)


def test_a_closed_stream_is_cancelled(service, double):
    with service.stream("hang") as stream:
        assert next(stream) == {"index": 0}
    double.expect(Kind.CANCEL)
    with pytest.raises(StopIteration):
        next(stream)


def test_a_dropped_stream_is_cancelled(service, double):
    stream = service.stream("hang")
    assert next(stream) == {"index": 0}
    del stream
    gc.collect()
    double.expect(Kind.CANCEL)


def test_a_silent_stream_ends_at_its_deadline(service):
    stream = service.stream("hang", timeout=0.2)
    assert next(stream) == {"index": 0}
    with pytest.raises(huterox.DeadlineExceeded):
        next(stream)


def test_a_stream_that_nobody_reads_is_bounded(double):
    with Client(double.endpoint, limits=Limits(stream_parts_max=10)) as client:
        stream = client.service("echo").stream("parts", count=100)
        double.expect(Kind.CANCEL)
        with pytest.raises(huterox.Busy, match="too slow"):
            list(stream)


def test_a_stream_and_calls_of_the_same_thread_interleave(service):
    for part in service.stream("parts", count=10):
        assert service(x=part["index"]) == {"x": part["index"]}


@pytest.mark.parametrize("seed", seeds(1, 50))
def test_a_storm_of_everything_at_once_leaves_no_call_without_its_end(double, seed):
    with Client(double.endpoint, timeout=WAIT_S, limits=Limits(in_flight_max=200)) as client:
        service = client.service("echo")

        def call(key: str) -> None:
            assert service(key=key) == {"key": key}

        def slow_call(key: str) -> None:
            assert service.call("later", seconds=0.01, key=key)["key"] == key

        def late_call(key: str) -> None:
            with pytest.raises(huterox.DeadlineExceeded):
                service.call("silent", timeout=0.02)

        def submit(key: str) -> None:
            assert service.submit(key=key).result(WAIT_S) == {"key": key}

        def submit_unwatched(key: str) -> None:
            done = threading.Event()
            service.submit(key=key).add_done_callback(lambda _: done.set())
            assert done.wait(WAIT_S)

        def cancel(key: str) -> None:
            future = service.submit("later", seconds=0.05, key=key)
            assert future.cancel() or future.result(WAIT_S)["key"] == key  # on a slow machine it is there already

        def impatient(key: str) -> None:
            future = service.submit("later", seconds=0.03, key=key)
            with suppress(TimeoutError):
                assert future.result(0.001)["key"] == key
            assert future.result(WAIT_S)["key"] == key

        def stream(key: str) -> None:
            assert len(list(service.stream("parts", count=20))) == 20

        def left_stream(key: str) -> None:
            with service.stream("hang") as parts:
                assert next(parts) == {"index": 0}

        def nested(key: str) -> None:
            done = threading.Event()
            service.submit(key=key).add_done_callback(lambda _: (call(key), done.set()))
            assert done.wait(WAIT_S)

        deeds = [call, call, call, slow_call, late_call, submit, submit_unwatched, cancel, impatient, stream]
        deeds += [left_stream, nested]

        def work(worker: int) -> None:
            chance = random.Random(seed * 100 + worker)
            for index in range(60):
                chance.choice(deeds)(f"{worker}/{index}")

        with ThreadPoolExecutor(10) as pool:
            for future in [pool.submit(work, worker) for worker in range(10)]:
                future.result(60)
        assert client._connection.core.in_flight_count == 0
        assert not client._connection._followers
