"""Which way a service's calls go, and when it seeks a lane: the sync client against doubles of everything else."""

import gc
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tests.clients.lanes import WAIT_S, LaneDouble, descriptor_count, eventually, grants, packed, refuses

import huterox
from huterox.client import Client
from huterox.core import Limits
from huterox.lease import LaneGone, LaneOptions
from huterox_shm.layout import DEAD
from huterox_wire.errors import Busy, ModelError
from huterox_wire.kinds import Kind
from huterox_wire.leases import LeasedMeta, LeaseMeta, decode_lease

BY_LANE = {"by": "lane"}


@pytest.fixture
def service(double: Any, kernel: Any, lane_double: Any, client: Any) -> huterox.Service:
    """A service with a lane."""
    double.lease = grants(kernel)
    service = client.service("echo")
    assert service.path == "lane"
    return service


@pytest.fixture
def lane(service: Any, lane_double: Any) -> LaneDouble:
    return lane_double.made[-1]


# --- opening ----------------------------------------------------------------------------------------------------------


def test_a_service_of_a_resident_container_has_a_lane_at_once(service, lane, double, kernel):
    assert (double.leases, kernel.hellos) == (1, 1)
    assert service(x=1) == BY_LANE
    assert service.call("sum", x=1, timeout=2.0) == BY_LANE
    assert lane.asked == [("call", "predict", {"x": 1}, WAIT_S), ("call", "sum", {"x": 1}, 2.0)]


def test_a_lease_tells_this_host_this_process_and_the_wished_size(double, kernel, lane_double):
    double.lease = grants(kernel)
    with huterox.connect(double.endpoint, lane_mb=64, when_full="busy") as client:
        client.service("echo")
    lease = decode_lease(double.expect(Kind.LEASE).meta)
    assert (lease.pid, lease.half_mb) == (os.getpid(), 64)
    assert len(lease.host_id) == 36
    assert not lane_double.made[-1].limits.lane_waits


def test_opening_an_absent_service_is_no_error(double, client, lane_double):
    service = client.service("echo")
    assert service.path == "routed"
    assert service(x=1) == {"x": 1}


def test_the_first_routed_success_after_absent_finds_the_container_that_it_has_brought(
    double, kernel, client, lane_double
):
    service = client.service("echo")
    double.lease = grants(kernel)
    assert service(x=1) == {"x": 1}
    assert service.path == "lane"
    assert service(x=1) == BY_LANE


def test_opening_waits_no_longer_than_a_second_for_a_silent_kernel(double, kernel, client, lane_double):
    double.lease = grants(kernel)
    kernel.answer = lambda peer: None
    started_s = time.monotonic()
    service = client.service("echo")
    assert time.monotonic() - started_s < 5.0
    assert service(x=1) == {"x": 1}


def test_a_switchboard_that_knows_no_leases_serves_routed_calls(double, client, lane_double):
    double.lease = lambda lease: LeasedMeta("", b"", 0)
    service = client.service("echo")
    assert service(x=1) == {"x": 1}
    assert service.path == "routed"


def test_a_switchboard_on_another_host_is_not_asked_at_the_opening(double, kernel, lane_double, monkeypatch):
    monkeypatch.setattr("huterox.leases.is_local", lambda endpoint: False)
    double.lease = grants(kernel)
    with huterox.connect(double.endpoint) as client:
        service = client.service("echo")
        assert double.leases == 0
        assert service(x=1) == {"x": 1}
        assert service(x=1) == BY_LANE


# --- seeking ----------------------------------------------------------------------------------------------------------


def test_a_refusal_is_followed_by_a_pause(double, client, lane_double):
    double.lease = refuses("draining")
    service = client.service("echo")
    for _ in range(20):
        assert service(x=1) == {"x": 1}
    assert double.leases == 1


def test_a_pause_that_is_over_is_followed_by_an_attempt(double, kernel, client, lane_double):
    double.lease = refuses("draining")
    service = client.service("echo")
    double.lease = grants(kernel)
    end_s = time.monotonic() + WAIT_S
    while service(x=1) != BY_LANE:
        assert time.monotonic() < end_s
        time.sleep(0.02)
    assert double.leases == 2


def test_a_failed_call_seeks_no_lane(double, client, lane_double):
    service = client.service("echo")
    with pytest.raises(ModelError):
        service.call("fail")
    assert isinstance(service.submit("fail").exception(WAIT_S), ModelError)
    assert double.leases == 1


def test_another_host_is_never_asked_again_for_any_service_of_the_client(double, client, lane_double):
    double.handles["other"] = 1 << 32 | 2
    double.lease = refuses("other_host", retryable=False)
    service = client.service("echo")
    other = client.service("other")
    for _ in range(3):
        assert service(x=1) == {"x": 1}
        assert other(x=1) == {"x": 1}
    assert double.leases == 1


def test_submit_waits_for_no_lane_but_its_answer_has_one_sought(double, kernel, client, lane_double):
    service = client.service("echo")
    double.lease = grants(kernel)
    assert service.submit(x=1).result(WAIT_S) == {"x": 1}
    eventually(lambda: service.path == "lane")
    assert service.submit(x=1).result(WAIT_S) == BY_LANE


def test_a_stream_waits_for_no_lane_but_its_end_has_one_sought(double, kernel, client, lane_double):
    service = client.service("echo")
    double.lease = grants(kernel)
    assert [part["index"] for part in service.stream("parts", count=2)] == [0, 1]
    eventually(lambda: service.path == "lane")
    assert list(service.stream("parts", count=2)) == [BY_LANE, BY_LANE]


def test_a_blocking_call_returns_soon_while_a_kernel_is_silent(double, kernel, client, lane_double):
    service = client.service("echo")
    double.lease = grants(kernel)
    kernel.answer = lambda peer: None
    assert service(x=1) == {"x": 1}
    assert double.leases == 2
    assert service(x=2) == {"x": 2}


def test_an_attempt_inside_a_callback_ends_well(double, kernel, client, lane_double):
    service = client.service("echo")
    double.lease = grants(kernel)
    results: list[Any] = []
    done = threading.Event()
    service.submit("later", seconds=0.05).add_done_callback(lambda _: (results.append(service(x=1)), done.set()))
    assert done.wait(WAIT_S)
    assert results == [{"x": 1}]
    eventually(lambda: service.path == "lane")


def test_many_threads_make_one_attempt(double, kernel, client, lane_double):
    service = client.service("echo")
    double.lease = grants(kernel)
    threads = [threading.Thread(target=lambda: [service(x=1) for _ in range(20)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert (double.leases, len(lane_double.made)) == (2, 1)


# --- one lane for all -------------------------------------------------------------------------------------------------


def test_services_of_one_name_share_a_lane(service, client, double, lane_double):
    again = client.service("echo")
    assert again.path == "lane"
    assert again(x=1) == BY_LANE
    assert (double.leases, len(lane_double.made)) == (1, 1)


def test_services_of_two_names_have_a_lane_each(service, client, double, lane_double):
    double.handles["other"] = 1 << 32 | 2
    assert client.service("other")(x=1) == BY_LANE
    assert len(lane_double.made) == 2


def test_one_lane_more_than_a_client_may_hold_stays_routed(double, kernel, lane_double):
    double.lease = grants(kernel)
    double.handles["other"] = 1 << 32 | 2
    with Client(double.endpoint, limits=Limits(lanes_max=1)) as client:
        assert client.service("echo").path == "lane"
        other = client.service("other")
        assert other.path == "routed"
        assert other(x=1) == {"x": 1}
        assert double.leases == 1


def test_a_service_that_was_created_again_lets_go_of_the_old_ones_lane(service, lane, double, client, lane_double):
    double.handles["echo"] += 1
    again = client.service("echo")
    assert again(x=1) in (BY_LANE, {"x": 1})
    eventually(lambda: lane.closed)
    assert not service._lease.lane or service._lease.lane is not lane


# --- leaving the lane -------------------------------------------------------------------------------------------------


def test_a_draining_lane_takes_no_new_calls_and_they_go_routed_at_once(service, lane, double):
    double.lease = refuses("draining")
    lane.drain()
    assert service.path == "routed"
    assert service(x=1) == {"x": 1}
    assert service.submit(x=2).result(WAIT_S) == {"x": 2}
    assert [part["index"] for part in service.stream("parts", count=2)] == [0, 1]
    assert len(lane.asked) == 1
    assert not lane.closed  # calls may still be in flight in it


def test_a_lane_that_has_ended_is_closed_and_the_next_routed_success_finds_its_successor(service, lane, double):
    lane.end_now()
    assert service.path == "routed"
    eventually(lambda: lane.closed)
    assert service(x=1) == {"x": 1}
    assert double.leases == 2
    assert service(x=1) == BY_LANE


def test_an_idle_lane_whose_kernel_has_gone_is_let_go(service, lane, kernel, double):
    double.lease = refuses("absent")
    kernel.die()
    eventually(lambda: lane.closed)
    assert service.path == "routed"
    assert service(x=1) == {"x": 1}


def test_a_call_that_was_not_begun_is_sent_again_with_the_time_it_has_left(service, lane, double):
    lane.gone = LaneGone(deadline_s=time.monotonic() + 3.0)
    assert service.call("predict", timeout=8.0, x=1) == {"x": 1}
    budget_s = double.expect(Kind.CALL).header.budget_us / 1e6
    assert 0.0 < budget_s <= 3.0


def test_a_call_that_was_not_begun_and_has_no_time_left_is_too_late(service, lane, double):
    lane.gone = LaneGone(deadline_s=time.monotonic() - 0.01)
    with pytest.raises(huterox.DeadlineExceeded):
        service(x=1)
    assert double.received.qsize() == sum(kind is not Kind.CALL for kind, _ in list(double.received.queue))


def test_a_call_that_does_not_fit_a_lane_goes_routed_and_the_lane_stays(service, lane):
    lane.gone = LaneGone("too large")
    assert service(x=1) == {"x": 1}
    assert service.path == "lane"
    assert service(x=1) == BY_LANE


def test_a_future_that_a_lane_gives_back_is_sent_routed(service):
    array = np.arange(100_000)
    meta, buffers = packed({"x": array, "n": 3})
    future = service._routed.submit_again(meta, buffers, time.monotonic() + 5.0)
    array[:] = 0
    result = future.result(WAIT_S)
    assert (result["x"][-1], result["n"]) == (99_999, 3)
    with pytest.raises(huterox.DeadlineExceeded):
        service._routed.submit_again(meta, buffers, time.monotonic() - 1.0)


def test_a_stream_that_a_lane_gives_back_is_sent_routed(service):
    meta, buffers = packed({"x": 3})
    assert list(service._routed.stream_again(meta, buffers, time.monotonic() + 5.0)) == [{"x": 3}]


def test_memory_is_the_lanes_where_it_has_some(service, lane, double):
    assert (service.empty((2, 2), "float32") == 7).all()
    for refusal in (LaneGone(), Busy("full")):
        lane.gone = refusal  # type: ignore[assignment]
        array = service.empty((2, 2), "float32")
        assert array.shape == (2, 2)
    lane.end_now()
    assert service.empty(3).shape == (3,)


# --- options ----------------------------------------------------------------------------------------------------------


def test_a_client_without_lanes_seeks_none(double, kernel, monkeypatch):
    double.lease = grants(kernel)
    with huterox.connect(double.endpoint, lanes=False) as client:
        service = client.service("echo")
        assert service(x=1) == {"x": 1}
        assert service.path == "routed"
    monkeypatch.setenv("HUTEROX_LANES", "0")
    with huterox.connect(double.endpoint) as client:
        assert client.service("echo")(x=1) == {"x": 1}
    assert double.leases == 0


def test_options_that_cannot_be_are_refused_before_anything_is_connected(tmp_path):
    for options in ({"lane_mb": 0}, {"lane_mb": "many"}, {"when_full": "never"}):
        with pytest.raises(huterox.InvalidInput):
            huterox.connect(f"ipc://{tmp_path}/none.ipc", **options)


def test_a_single_call_from_the_command_line_seeks_no_lane(double, kernel, monkeypatch, capsys):
    from huterox.cli import main

    double.lease = grants(kernel)
    monkeypatch.setenv("HUTEROX_ENDPOINT", double.endpoint)
    assert main.main(["call", "echo", "-i", "x=1", "-o", "json"]) == 0
    assert capsys.readouterr().out
    assert double.leases == 0


# --- the end ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def counted() -> Iterator[None]:
    """No descriptor and no thread more afterwards than before."""
    gc.collect()  # what other tests have left
    before, threads = descriptor_count(), threading.active_count()
    yield
    eventually(lambda: threading.active_count() <= threads)
    assert descriptor_count() == before


def test_closing_the_client_closes_its_lanes(double, kernel, lane_double, counted):
    double.lease = grants(kernel)
    client = huterox.connect(double.endpoint)
    service = client.service("echo")
    client.close()
    assert lane_double.made[-1].closed
    assert service.path == "routed"
    with pytest.raises(huterox.Unavailable, match="closed"):
        service(x=1)
    client.close()
    kernel.die()
    kernel.lanes.pop().close()


def test_closing_the_client_in_the_middle_of_a_hand_over_leaves_nothing_behind(double, kernel, lane_double, counted):
    double.lease = grants(kernel)
    here, go = threading.Event(), threading.Event()
    kernel.answer = lambda peer: (here.set(), go.wait(WAIT_S), kernel.grant(peer))
    client = huterox.connect(double.endpoint)
    opening = threading.Thread(target=client.service, args=("echo",))
    opening.start()
    assert here.wait(WAIT_S)
    closing = threading.Thread(target=client.close)
    closing.start()
    go.set()
    for thread in (opening, closing):
        thread.join(WAIT_S)
    eventually(lambda: all(lane.closed for lane in lane_double.made))
    kernel.die()
    eventually(lambda: kernel.lanes)
    kernel.lanes.pop().close()


def test_the_thread_ends_when_there_is_nothing_to_do(double, client, lane_double):
    client.service("echo")
    eventually(lambda: not any(thread.name == "huterox-lease" for thread in threading.enumerate()))


@pytest.mark.parametrize("name", ["os.eventfd", "threading.Thread.start"])
def test_a_process_that_is_out_of_descriptors_or_threads_calls_on(double, kernel, client, monkeypatch, name):
    double.lease = grants(kernel)
    with monkeypatch.context() as patch:
        patch.setattr(name, lambda *_: (_ for _ in ()).throw(OSError(24, "too many")))
        service = client.service("echo")
        assert service(x=1) == {"x": 1}
    assert double.leases == 0


def test_an_attempt_that_breaks_us_costs_a_lane_and_nothing_else(double, kernel, client, monkeypatch, caplog):
    double.lease = grants(kernel)
    monkeypatch.setattr("huterox.leases.encode_lease", lambda *_: 1 / 0)
    service = client.service("echo")
    assert service(x=1) == {"x": 1}
    assert "ZeroDivisionError" in caplog.text


def test_a_forked_child_has_no_lanes_and_is_refused(service, lane, client):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            try:
                service(x=1)
            except huterox.InvalidInput as error:
                status = 0 if "fork" in str(error) else 2
            if service.path != "routed" or lane.end.state != DEAD:
                status = 3
            client.close()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert service(x=1) == BY_LANE


def test_a_lease_needs_no_more_than_its_options(double, kernel, lane_double):
    seen: list[LeaseMeta] = []
    double.lease = lambda lease: (seen.append(lease), kernel.leased())[1]
    with Client(double.endpoint, lanes=LaneOptions(half_mb=8)) as client:
        client.service("echo")
    assert [lease.half_mb for lease in seen] == [8]
