"""Whoever remains notices within a second that the other one has gone, and every call ends."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fault import census
from tests.fault.site import Site, container_of, deploy, reach, site
from tests.system.platform import eventually

import huterox

pytestmark = [pytest.mark.system, pytest.mark.alone, pytest.mark.timeout(300)]

NOTICED_S = 1.0
LONG_S = 30.0
X = np.zeros(256, np.float32)
VICTIMS = pytest.mark.parametrize("victim", ["container", "kernel"])


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One site for all, whose kernel is started again by who kills it."""
    with site(tmp_path_factory.mktemp("notice") / "s") as made:
        yield made


@pytest.fixture
def service(shared: Site, request: pytest.FixtureRequest) -> Iterator[huterox.Service]:
    """With a lane to a container of its own."""
    with shared.client(timeout=60.0) as client:
        name = f"n{abs(hash(request.node.name)):x}"
        deploy(client, name)
        service = client.service(name)
        reach(service)
        yield service
        client.undeploy(name, force=True)


@pytest.fixture
def kill(shared: Site, service: huterox.Service) -> Iterator[Callable[[str], float]]:
    """Kills the service's container or its kernel, and tells when."""
    pid = service.call("pid")["result"]

    def strike(victim: str) -> float:
        if victim == "kernel":
            return shared.kill("kernel")
        os.kill(pid, signal.SIGKILL)
        return time.monotonic()

    yield strike
    if "kernel" not in shared.daemons:
        shared.start("kernel")
        eventually(lambda: (nodes := shared.listed("nodes")) and nodes[0]["pid"] == shared.pid("kernel"), 20.0)


def running(service: huterox.Service, folder: Path) -> "huterox.CallFuture":
    """A long call that the model is executing."""
    mark = folder / "running"
    call = service.submit("nap", seconds=LONG_S, mark=str(mark))
    eventually(mark.exists)
    return call


@VICTIMS
def test_a_blocking_call_a_future_and_a_thread_that_waits_for_it_end_at_once(
    service: huterox.Service, kill: Callable[[str], float], tmp_path: Path, victim: str
) -> None:
    call = running(service, tmp_path)
    heard: list[tuple[BaseException | None, float]] = []
    waiting = threading.Thread(target=lambda: heard.append((call.exception(), time.monotonic())))
    waiting.start()
    told: list[float] = []
    call.add_done_callback(lambda _: told.append(time.monotonic()))
    killed_s = kill(victim)
    waiting.join(10)
    ((error, heard_s),) = heard
    assert isinstance(error, huterox.WorkerLost)
    assert error.retryable
    assert error.details["executed"] == "maybe"
    assert max(heard_s, *told) - killed_s < NOTICED_S


def test_calls_that_a_killed_container_had_not_begun_are_answered_by_its_successor(
    service: huterox.Service, kill: Callable[[str], float], tmp_path: Path
) -> None:
    old = service.call("pid")["result"]
    call = running(service, tmp_path)
    pids = [service.submit("pid") for _ in range(20)]
    inputs = [np.full(256, number, np.float32) for number in range(20)]
    futures = [service.submit(x=x) for x in inputs]
    stream = service.stream("count", count=30)
    x = service.empty((1 << 18,), "float32")
    x[...] = 7
    in_lane = service.submit(x=x)
    for one in inputs:
        one[...] = -1  # they were copied
    killed_s = kill("container")
    with pytest.raises(huterox.WorkerLost):
        call.result(10)
    assert time.monotonic() - killed_s < NOTICED_S
    assert old not in {pid.result(20)["result"] for pid in pids}
    assert [int(future.result(20)["result"][0]) for future in futures] == list(range(1, 21))
    assert [part["number"] for part in stream] == list(range(30))
    assert (in_lane.result(20)["result"] == 8).all()


def test_with_its_kernel_all_calls_of_a_lane_are_lost(
    service: huterox.Service, kill: Callable[[str], float], tmp_path: Path
) -> None:
    calls = [running(service, tmp_path), *(service.submit(x=X) for _ in range(20))]
    stream = service.stream("count", count=30)
    killed_s = kill("kernel")
    for call in calls:
        with pytest.raises(huterox.WorkerLost):
            call.result(10)
    with pytest.raises(huterox.WorkerLost):
        next(stream)
    assert time.monotonic() - killed_s < NOTICED_S


@VICTIMS
def test_an_idle_lane_is_let_go_of_with_its_memory(
    service: huterox.Service, kill: Callable[[str], float], victim: str
) -> None:
    gc.collect()  # errors of other tests hold frames, and arrays in them
    assert len(census.segments([os.getpid()])) == 1
    killed_s = kill(victim)
    eventually(lambda: service.path == "routed" and not census.segments([os.getpid()]))
    assert time.monotonic() - killed_s < NOTICED_S


@VICTIMS
def test_an_asyncio_caller_notices_too(shared: Site, tmp_path: Path, victim: str) -> None:
    name = f"async-{victim}"
    with shared.client(lanes=False) as client:
        deploy(client, name)

    async def main() -> float:
        async with huterox.aconnect(shared.endpoint, timeout=60.0) as client:
            service = await client.service(name)
            until_s = time.monotonic() + 30.0
            while service.path != "lane":
                assert time.monotonic() < until_s, "no lane came"
                pid = (await service.call("pid"))["result"]
            mark = tmp_path / "running"
            call = asyncio.ensure_future(service.call("nap", seconds=LONG_S, mark=str(mark)))
            while not mark.exists():
                await asyncio.sleep(0.01)
            killed_s = time.monotonic()
            if victim == "kernel":
                shared.kill("kernel")
            else:
                os.kill(pid, signal.SIGKILL)
            with pytest.raises(huterox.WorkerLost):
                await call
            noticed_s = time.monotonic() - killed_s
            assert service.path == "routed"
            return noticed_s

    try:
        assert asyncio.run(main()) < NOTICED_S
    finally:
        if victim == "kernel":
            shared.start("kernel")
            eventually(lambda: (nodes := shared.listed("nodes")) and nodes[0]["pid"] == shared.pid("kernel"), 20.0)


# --- who stands still is not gone ---------------------------------------------------------------------------------


def stopped(pid: int) -> Any:
    """`kill -STOP`, and on again with the block."""

    class Stopped:
        def __enter__(self) -> None:
            os.kill(pid, signal.SIGSTOP)

        def __exit__(self, *_: object) -> None:
            os.kill(pid, signal.SIGCONT)

    return Stopped()


def test_calls_to_a_container_that_stands_still_end_by_their_deadlines_and_the_lane_goes_on_after(
    service: huterox.Service,
) -> None:
    pid = service.call("pid")["result"]
    with stopped(pid):
        began_s = time.monotonic()
        futures = [service.submit("echo", timeout=0.5, n=n) for n in range(50)]
        with pytest.raises(huterox.DeadlineExceeded):
            service.call("echo", timeout=0.5, n=0)
        for future in futures:
            with pytest.raises(huterox.DeadlineExceeded):
                future.result(10)
        with pytest.raises(huterox.DeadlineExceeded):
            list(service.stream("count", timeout=0.3, count=5))
        assert time.monotonic() - began_s < 5.0
    assert service.call("pid")["result"] == pid
    for n in range(50):
        assert service.call("echo", n=n) == {"n": n}
    assert service.path == "lane"


def test_lanes_go_on_while_their_kernel_stands_still(shared: Site, service: huterox.Service) -> None:
    with stopped(shared.pid("kernel")):
        for n in range(200):
            assert service.call("echo", n=n) == {"n": n}
    assert service.path == "lane"


def test_a_caller_that_is_killed_in_the_middle_of_a_call_leaves_the_container_to_the_others(
    shared: Site, service: huterox.Service
) -> None:
    code = (
        "import sys, huterox; client = huterox.connect(sys.argv[1]); service = client.service(sys.argv[2])\n"
        "service.call('pid'); assert service.path == 'lane'\n"
        "calls = [service.submit('nap', seconds=0.05) for _ in range(200)]; print('go', flush=True)\n"
        "[call.result() for call in calls]"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, shared.endpoint, service.name], stdout=subprocess.PIPE, text=True
    ) as victim:
        assert victim.stdout is not None
        assert victim.stdout.readline() == "go\n"
        (segment,) = census.segments([victim.pid])
        victim.kill()
        victim.wait(10)
    killed_s = time.monotonic()
    assert np.array_equal(service(x=X)["result"], X + 1)  # ten seconds of naps were forgotten with their caller
    assert time.monotonic() - killed_s < NOTICED_S
    with shared.client(lanes=False) as client:
        worker = container_of(client, service.name)["pid"]
    eventually(lambda: segment not in census.segments([worker, shared.pid("kernel")]))
    assert time.monotonic() - killed_s < NOTICED_S
