"""The sync shell against a switchboard double: real sockets, real threads."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import huterox
from huterox.client import Client
from huterox.core import Limits
from huterox_wire.endpoints import hidden_path
from huterox_wire.kinds import Kind

WAIT_S = 10.0


def test_a_call_brings_back_arrays_and_values(service):
    array = np.arange(12, dtype="float32").reshape(3, 4)
    result = service(x=array, name="ä", flag=True, blob=b"b" * 1000, nothing=None)
    np.testing.assert_array_equal(result["x"], array)
    assert result["x"].dtype == np.float32
    assert (result["name"], result["flag"], result["blob"], result["nothing"]) == ("ä", True, b"b" * 1000, None)


@pytest.mark.parametrize("nbytes", [0, 1, 60_000, 70_000, 5_000_000])
def test_arrays_of_any_size_come_back_read_only_and_equal(service, nbytes):
    array = np.random.default_rng(1).integers(0, 255, nbytes, np.uint8)
    for result in (service(x=array), service.submit(x=array).result(WAIT_S)):
        np.testing.assert_array_equal(result["x"], array)
        assert not result["x"].flags.writeable


def test_inputs_may_have_the_names_of_our_own_parameters(service):
    assert service(self=1, timeout=2, method="m") == {"self": 1, "timeout": 2, "method": "m"}


def test_many_threads_never_get_each_others_answers(service):
    def work(worker: int) -> None:
        for index in range(150):
            payload = np.full(50, worker * 1000 + index)
            np.testing.assert_array_equal(service(x=payload)["x"], payload)

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(work, worker) for worker in range(8)]:
            future.result(60)


def test_blocking_calls_and_futures_of_many_threads_share_one_connection(service):
    def work(worker: int) -> None:
        futures = []
        for index in range(100):
            futures.append((worker, index, service.submit(x=[worker, index])))
            if index % 3 == 0:
                assert service(x=(worker, index)) == {"x": [worker, index]}
        for *expected, future in futures:
            assert future.result(WAIT_S) == {"x": expected}

    with ThreadPoolExecutor(6) as pool:
        for future in [pool.submit(work, worker) for worker in range(6)]:
            future.result(60)


def test_answers_in_reverse_order_find_their_calls(service):
    futures = [service.submit("gather", count=64, index=index) for index in range(64)]
    assert [future.result(WAIT_S)["index"] for future in futures] == list(range(64))


def test_threads_whose_answers_come_in_reverse_order_all_wake(service):
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda index: service.call("gather", count=16, index=index)["index"], range(16)))
    assert results == list(range(16))


def test_a_thread_waits_for_its_own_call_while_another_ones_takes_longer(service, double):
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(service.call, "held", key=1)
        assert service(x=1) == {"x": 1}
        assert not slow.done()
        assert service(x=2) == {"x": 2}
        double.go.set()
        assert slow.result(WAIT_S) == {"key": 1}


def test_a_models_error_comes_with_its_traceback(service):
    with pytest.raises(huterox.ModelError, match="no such luck") as caught:
        service.call("fail")
    assert "Traceback" in caught.value.details["traceback"]
    assert isinstance(service.submit("fail").exception(WAIT_S), huterox.ModelError)
    with pytest.raises(huterox.Busy) as refused:
        service.call("refuse")
    assert refused.value.retryable
    assert refused.value.details == {"retry_after_s": 0.5}


def test_a_silent_switchboard_ends_in_deadline_exceeded_and_a_cancel(service, double):
    with pytest.raises(huterox.DeadlineExceeded, match=r"within 0\.2 s"):
        service.call("silent", timeout=0.2)
    call = double.expect(Kind.CALL)
    assert double.expect(Kind.CANCEL).header.request_id == call.header.request_id


def test_a_short_deadline_holds_while_another_thread_waits_longer(service, double):
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(service.call, "held")
        with pytest.raises(huterox.DeadlineExceeded):
            service.call("silent", timeout=0.1)
        assert not slow.done()
        double.go.set()
        slow.result(WAIT_S)


def test_a_late_answer_disturbs_nobody(service):
    with pytest.raises(huterox.DeadlineExceeded):
        service.call("later", seconds=0.5, timeout=0.05)
    assert service.call("later", seconds=0.6) == {"seconds": 0.6}
    assert service(x=1) == {"x": 1}


def test_garbage_between_answers_is_ignored(service, client):
    assert service.call("garbage", x=1) == {"x": 1}
    assert client._connection.core.strays == 7


@pytest.mark.parametrize("error", [False, True])
def test_a_malformed_answer_fails_its_call_alone(service, error):
    with pytest.raises(huterox.Fault, match="malformed"):
        service.call("malformed", error=error)
    assert service(x=1) == {"x": 1}


def test_bad_inputs_are_refused_before_anything_is_sent(service, client):
    for bad in (object(), np.array([object()]), {1: 2}, [np.zeros(3)], np.zeros((1,) * 9)):
        with pytest.raises(huterox.InvalidInput):
            service(x=bad)
    with pytest.raises(huterox.InvalidInput, match="given by its name"):
        service.call(np.zeros(3))
    with pytest.raises(huterox.InvalidInput, match="timeout"):
        service.call(timeout=0)
    with pytest.raises(huterox.TooLarge):
        service(x=["a" * 1000] * 2000)
    assert client._connection.core.in_flight_count == 0
    assert service(x=1) == {"x": 1}


def test_one_call_more_than_fits_is_busy_at_once(double):
    with Client(double.endpoint, limits=Limits(in_flight_max=4)) as client:
        service = client.service("echo")
        futures = [service.submit("silent", timeout=0.3) for _ in range(4)]
        with pytest.raises(huterox.Busy, match="4 calls"):
            service(x=1)
        for future in futures:
            assert isinstance(future.exception(WAIT_S), huterox.DeadlineExceeded)
        assert service(x=1) == {"x": 1}


def test_closing_ends_what_is_under_way(double):
    client = huterox.connect(double.endpoint)
    service = client.service("echo")
    futures = [service.submit("silent") for _ in range(5)]
    with ThreadPoolExecutor(3) as pool:
        blocked = [pool.submit(service.call, "silent") for _ in range(3)]
        for _ in range(8):
            double.expect(Kind.CALL)
        client.close()
        for future in blocked:
            assert isinstance(future.exception(WAIT_S), huterox.Cancelled)
    for future in futures:
        assert isinstance(future.exception(WAIT_S), huterox.Cancelled)
    for _ in range(8):
        double.expect(Kind.CANCEL)
    with pytest.raises(huterox.Unavailable, match="closed"):
        service(x=1)
    client.close()


def test_nothing_stays_open_after_clients_come_and_go(double):
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    with huterox.connect(double.endpoint) as client:
        client.service("echo").submit(x=1).result(WAIT_S)
    before = open_files(), threading.active_count()
    for _ in range(10):
        with huterox.connect(double.endpoint) as client:
            client.service("echo").submit(x=1).result(WAIT_S)
    # The double may still hold the last connection's end.
    assert open_files() <= before[0] + 2
    assert threading.active_count() == before[1]


def test_the_switchboard_may_come_back(tmp_path, make_double):
    endpoint = f"ipc://{tmp_path}/d.ipc"
    first = make_double(endpoint)
    with huterox.connect(endpoint) as client:
        service = client.service("echo")
        assert service(x=1) == {"x": 1}
        first.close()
        with pytest.raises(huterox.DeadlineExceeded):
            service.call(timeout=0.2, x=2)
        second = make_double(endpoint)
        try:
            assert service(x=3) == {"x": 3}
        finally:
            second.close()


def test_a_connection_to_nobody_tells_what_was_tried_and_what_to_start(tmp_path, monkeypatch):
    monkeypatch.setenv("HUTEROX_ENDPOINT", f"ipc://{tmp_path}/none.ipc")
    started_s = time.monotonic()
    with pytest.raises(huterox.Unavailable, match=r"none\.ipc.*huterox up") as caught:
        huterox.connect()
    assert caught.value.retryable
    assert time.monotonic() - started_s < WAIT_S


def test_a_silent_switchboard_is_told_from_an_answering_one(double):
    double.mute = True
    with pytest.raises(huterox.Unavailable, match=r"silent for 0\.2 s.*huterox up"):
        huterox.connect(double.endpoint, timeout=0.2)


def test_a_stale_handle_is_renewed_once(service, double):
    double.handles["echo"] += 1
    assert service(x=1) == {"x": 1}
    double.handles["echo"] += 1
    assert service.submit(x=np.arange(100_000)).result(WAIT_S)["x"][-1] == 99_999
    double.handles["echo"] += 1
    assert [part["index"] for part in service.stream("parts", count=2)] == [0, 1]


def test_calls_that_were_in_flight_when_the_handle_changed_all_succeed(service, double):
    double.handles["echo"] += 1
    futures = [service.submit(x=index) for index in range(20)]
    assert [future.result(WAIT_S)["x"] for future in futures] == list(range(20))


def test_a_stale_handle_of_a_deleted_service_is_not_found(service, double):
    double.handles.clear()
    with pytest.raises(huterox.NotFound, match="no service 'echo'"):
        service(x=1)
    assert isinstance(service.submit(x=1).exception(WAIT_S), huterox.NotFound)
    with pytest.raises(huterox.NotFound):
        list(service.stream("parts", count=2))


def test_an_unknown_service_is_not_found(client):
    with pytest.raises(huterox.NotFound, match="'nobody'"):
        client.service("nobody")


def test_the_tenant_of_the_client_goes_with_every_opening(double):
    with huterox.connect(double.endpoint, tenant="acme") as client:
        assert client.service("echo").tenant == "acme"
        assert client.service("echo", tenant="other").tenant == "other"


def test_memory_from_empty_is_aligned_and_travels(service):
    array = service.empty((3, 5), "bfloat16")
    assert array.shape == (3, 5)
    assert array.ctypes.data % 64 == 0
    array[:] = 1.5
    assert service(x=array)["x"].dtype == array.dtype
    assert service.empty(7, np.int64).shape == (7,)
    assert service.empty((), "bool").shape == ()
    for bad in (("float99", 3), ("O", 3), ("float32", (-1, 2))):
        with pytest.raises(huterox.InvalidInput):
            service.empty(bad[1], bad[0])


def test_calls_are_routed_for_now(service):
    assert service.path == "routed"


def test_a_switchboard_that_lets_nobody_new_in_is_waited_for_and_says_so(double):
    path = Path(double.endpoint.removeprefix("ipc://"))
    path.rename(hidden_path(path))
    with pytest.raises(huterox.Unavailable, match="lets nobody new in") as refused:
        huterox.connect(double.endpoint, timeout=0.3)
    assert refused.value.retryable
    with ThreadPoolExecutor(1) as other:
        waiting = other.submit(huterox.connect, double.endpoint, timeout=WAIT_S)
        with pytest.raises(TimeoutError):
            waiting.result(0.3)
        hidden_path(path).rename(path)
        with waiting.result(WAIT_S) as client:
            assert client.service("echo")(x=1) == {"x": 1}


def test_a_forked_child_waits_for_no_thread_of_its_parent(service, client):
    """Another one had the lock at the moment of the fork."""
    parts = service.stream("parts", count=5)
    next(parts)
    future = service.submit("silent")
    has, goes = threading.Event(), threading.Event()

    def hold():
        with client._connection._section:
            has.set()
            assert goes.wait(WAIT_S)

    with ThreadPoolExecutor(1) as other:
        held = other.submit(hold)
        assert has.wait(WAIT_S)
        parts._call.parts.append(parts._call.parts)  # the child must not get as far as to take it
        child = os.fork()
        if child == 0:
            status = 1
            try:
                signal.alarm(20)
                with pytest.raises(huterox.InvalidInput, match="fork"):
                    next(parts)
                assert not future.cancel()
                parts.close()
                client.close()
                status = 0
            finally:
                os._exit(status)
        parts._call.parts.pop()
        goes.set()
        held.result(WAIT_S)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [part["index"] for part in parts] == [1, 2, 3, 4]


def test_a_forked_child_is_told_and_the_parent_goes_on(service, client):
    reading, writing = os.pipe()
    future = service.submit("silent")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            told = 0
            for forbidden in (lambda: service(x=1), lambda: service.submit(x=1), future.result, client.status):
                try:
                    forbidden()
                except huterox.InvalidInput as error:
                    told += "fork" in str(error)
            client.close()
            os.write(writing, b"%d" % told)
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert os.read(reading, 10) == b"4"
    os.close(reading)
    os.close(writing)
    assert service(x=1) == {"x": 1}
    future.cancel()


def test_an_interrupted_call_is_cancelled_and_the_client_stays_usable(service, double):
    main = threading.main_thread().ident
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        waker = threading.Thread(target=lambda: (double.expect(Kind.CALL), signal.pthread_kill(main, signal.SIGINT)))
        waker.start()
        with pytest.raises(KeyboardInterrupt):
            service.call("silent")
        waker.join(WAIT_S)
    finally:
        signal.signal(signal.SIGINT, previous)
    double.expect(Kind.CANCEL)
    assert service(x=1) == {"x": 1}
