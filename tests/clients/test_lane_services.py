"""Services whose calls travel through real lanes: both clients, a switchboard double, containers that come and go."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from tests.clients.containers import MIB, WAIT_S
from tests.clients.lanes import calls_under_way, eventually, refuses

import huterox


@pytest.fixture
def service(containers: Any, client: Any) -> huterox.Service:
    service = client.service("echo")
    assert service.path == "lane"
    return service


def routed_count(double: Any) -> int:
    """How many calls the switchboard double was asked for."""
    return sum(kind.name == "CALL" for kind, _ in list(double.received.queue))


# --- sync -------------------------------------------------------------------------------------------------------------


def test_calls_of_every_kind_travel_through_the_lane(service, double):
    array = service.empty((3, 4), "float32")
    array[:] = 5
    assert service(x=array)["x"].sum() == 60
    assert service.call("describe", x=np.zeros(3), n=1, timeout=5) == {"x": "float64 [3]", "n": "int"}
    assert service.submit(x=1).result(WAIT_S) == {"x": 1}
    assert [part["index"] for part in service.stream("parts", count=3)] == [0, 1, 2]
    with pytest.raises(huterox.ModelError):
        service.call("fail")
    assert routed_count(double) == 0


def test_a_call_that_is_too_large_for_the_lane_goes_routed(service, double):
    array = np.zeros(8 * MIB, np.uint8)
    assert service(x=array)["x"].nbytes == 8 * MIB
    assert service.submit(x=array).result(WAIT_S)["x"].nbytes == 8 * MIB
    assert service.empty(8 * MIB, "uint8").nbytes == 8 * MIB
    assert service.path == "lane"
    assert routed_count(double) == 2


def test_nobody_sees_that_a_container_has_gone_but_whose_call_it_had_begun(service, containers, double):
    container = containers[0]
    held = service.submit("hold", key=1)
    assert container.model.held.wait(WAIT_S)
    array = np.arange(1000)
    futures = [service.submit(x=array, n=index) for index in range(10)]
    stream = service.stream("parts", count=2)
    with ThreadPoolExecutor(4) as pool:
        blocked = [pool.submit(service, x=index) for index in range(4)]
        eventually(lambda: calls_under_way(service._lease.lane) == 16)
        array[:] = 0
        container.die()
        assert isinstance(held.exception(WAIT_S), huterox.WorkerLost)
        for index, future in enumerate(futures):
            result = future.result(WAIT_S)
            assert (result["x"][-1], result["n"]) == (999, index)
        assert [future.result(WAIT_S) for future in blocked] == [{"x": index} for index in range(4)]
    assert [part["index"] for part in stream] == [0, 1]
    eventually(lambda: service.path == "lane")
    assert len(containers) == 2
    assert service(x=7) == {"x": 7}


def test_a_drained_container_is_left_and_its_successor_found(service, containers, double):
    held = service.submit("hold", key=1)
    assert containers[0].model.held.wait(WAIT_S)
    double.lease = refuses("draining")
    containers[0].drain()
    assert service(x=1) == {"x": 1}
    assert service.path == "routed"
    assert not held.done()
    containers[0].model.go.set()
    assert held.result(WAIT_S) == {"key": 1}


def test_a_dead_kernel_loses_what_is_in_flight_and_calls_go_routed(service, containers, double):
    double.lease = refuses("absent")
    held = service.submit("hold", key=1)
    queued = service.submit(x=1)
    assert containers[0].model.held.wait(WAIT_S)
    containers[0].lose_kernel()
    for future in (held, queued):
        assert isinstance(future.exception(WAIT_S), huterox.WorkerLost)
    assert service(x=2) == {"x": 2}
    assert service.path == "routed"


def test_an_idle_lane_goes_with_its_container(service, containers, double):
    double.lease = refuses("absent")
    containers[0].die()
    eventually(lambda: service._lease.lane is None)
    eventually(lambda: not service._lease._leases._lanes and not service._lease._leases._over)
    assert service(x=2) == {"x": 2}


def test_a_queue_of_calls_survives_containers_that_come_and_go(service, containers, client):
    """Containers die again and again under load: each call has one outcome, and only begun ones are lost."""
    outcomes: list[str] = []

    def work() -> None:
        for index in range(60):
            try:
                assert (
                    service.call("slow" if service.path == "lane" else "predict", seconds=0.001, x=index)["x"] == index
                )
                outcomes.append("good")
            except huterox.WorkerLost as lost:
                assert lost.details["executed"] == "maybe"
                outcomes.append("lost")

    def kill() -> None:
        for _ in range(5):
            time.sleep(0.05)
            for container in list(containers):
                if not container._stopped:
                    container.die()

    with ThreadPoolExecutor(5) as pool:
        done = [pool.submit(work) for _ in range(4)] + [pool.submit(kill)]
        for future in done:
            future.result(60)
    assert len(outcomes) == 240
    assert outcomes.count("good") >= 200


def test_a_service_that_was_created_again_keeps_what_is_under_way_in_the_old_ones_lane(
    service, containers, client, double
):
    held = service.submit("hold", key=1)
    assert containers[0].model.held.wait(WAIT_S)
    double.handles["echo"] += 1
    again = client.service("echo")
    assert again(x=1) == {"x": 1}
    assert not held.done()
    containers[0].model.go.set()
    assert held.result(WAIT_S) == {"key": 1}
    eventually(lambda: len(service._lease._leases._lanes) == 1)
    assert again.path == "lane"


def test_closing_the_client_ends_what_is_under_way(containers, double):
    client = huterox.connect(double.endpoint)
    service = client.service("echo")
    future = service.submit("hold")
    assert containers[0].model.held.wait(WAIT_S)
    client.close()
    assert isinstance(future.exception(WAIT_S), huterox.Cancelled)
    with pytest.raises(huterox.Unavailable, match="closed"):
        service(x=1)


# --- asyncio ----------------------------------------------------------------------------------------------------------


def run_with_service(run: Any, double: Any, use: Callable[[Any], Any]) -> None:
    async def main() -> None:
        async with huterox.aconnect(double.endpoint, timeout=WAIT_S) as client:
            service = await client.service("echo")
            assert service.path == "lane"
            await use(service)

    run(main())


async def soon(condition: Callable[[], object]) -> None:
    end_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end_s
        await asyncio.sleep(0.005)


def test_awaited_calls_of_every_kind_travel_through_the_lane(run, containers, double):
    async def use(service):
        array = service.empty((3, 4), "float32")
        array[:] = 5
        assert (await service(x=array))["x"].sum() == 60
        assert await service.submit("note", key=1) == {"key": 1}
        assert [part["index"] async for part in service.stream("parts", count=3)] == [0, 1, 2]
        assert routed_count(double) == 0
        large = np.zeros(8 * MIB, np.uint8)
        assert (await service(x=large))["x"].nbytes == 8 * MIB
        assert service.path == "lane"

    run_with_service(run, double, use)


def test_no_task_sees_that_a_container_has_gone_but_whose_call_it_had_begun(run, containers, double):
    async def use(service):
        held = service.submit("hold", key=1)
        await soon(containers[0].model.held.is_set)
        array = np.arange(1000)
        tasks = [service.submit(x=array, n=index) for index in range(200)]
        awaited = [asyncio.ensure_future(service(x=index)) for index in range(5)]
        stream = service.stream("parts", count=2)
        first = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0.01)
        array[:] = 0
        containers[0].die()
        with pytest.raises(huterox.WorkerLost):
            await held
        for index, task in enumerate(tasks):
            result = await task
            assert (result["x"][-1], result["n"]) == (999, index)
        assert [await task for task in awaited] == [{"x": index} for index in range(5)]
        assert [await first] + [part async for part in stream] == [{"index": 0}, {"index": 1}]
        await soon(lambda: service.path == "lane")
        assert await service(x=7) == {"x": 7}
        assert len(containers) == 2

    run_with_service(run, double, use)


def test_awaited_calls_leave_a_draining_container_and_a_dead_kernel(run, containers, double):
    async def use(service):
        held = service.submit("hold", key=1)
        await soon(containers[0].model.held.is_set)
        containers[0].drain()
        assert await service(x=1) == {"x": 1}
        containers[0].model.go.set()
        assert await held == {"key": 1}
        await soon(lambda: service.path == "lane")
        double.lease = refuses("absent")
        held = service.submit("hold", key=1)
        await soon(containers[-1].model.held.is_set)
        containers[-1].lose_kernel()
        with pytest.raises(huterox.WorkerLost):
            await held
        assert await service(x=1) == {"x": 1}
        assert service.path == "routed"

    run_with_service(run, double, use)
