"""Clients that nobody closes: collected, left at the end of the interpreter, forked. No destructor waits."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from tests.clients.containers import WAIT_S
from tests.clients.lanes import descriptor_count, eventually

import huterox
from huterox import sockets

SOON_S = 2.0
"""Much longer than a collection takes, much shorter than any timeout of a call."""


def collect() -> None:
    """A garbage collection, which must not wait."""
    begun_s = time.monotonic()
    gc.collect()
    assert time.monotonic() - begun_s < SOON_S


def settled() -> tuple[int, int]:
    """Descriptors and threads, once what was dropped is buried."""
    sockets.bury()
    return descriptor_count(), threading.active_count()


def open_calls(service: huterox.Service) -> list[Any]:
    """A call of every kind, under way."""
    stream = service.stream("parts", count=3)
    next(stream)
    told = service.submit(x=1)
    told.add_done_callback(lambda future: None)
    return [stream, told, service.submit(x=np.zeros(20_000)), service.empty(3, "float32")]


@pytest.mark.parametrize("way", ["routed", "lane"])
@pytest.mark.parametrize("use", [lambda service: None, lambda service: service(x=1), open_calls])
def test_a_client_that_is_dropped_leaves_nothing(double: Any, containers: Any, way: str, use: Any) -> None:
    with huterox.connect(double.endpoint, lanes=way == "lane") as client:
        client.service("echo")(x=np.zeros(20_000))  # pyzmq has a thread for large frames
    before = settled()
    client = huterox.connect(double.endpoint, lanes=way == "lane", timeout=WAIT_S)
    service = client.service("echo")
    assert service.path == way
    used = use(service)
    gone = weakref.ref(client._connection)
    del client, service, used
    eventually(lambda: [collect(), gone()][1] is None)
    for container in containers:
        container.close()
    eventually(lambda: settled()[1] <= before[1])
    eventually(lambda: [collect(), settled()][1][0] <= before[0])


def test_what_comes_from_a_dropped_client_goes_on(double: Any, containers: Any) -> None:
    for lanes in (False, True):
        service = huterox.connect(double.endpoint, lanes=lanes, timeout=WAIT_S).service("echo")
        collect()
        assert service(x=1) == {"x": 1}
        future, stream = service.submit(x=2), service.stream("parts", count=3)
        del service
        collect()
        assert future.result(WAIT_S) == {"x": 2}
        assert [part["index"] for part in stream] == [0, 1, 2]
        del future, stream
        collect()


def test_a_client_without_a_switchboard_is_dropped_without_waiting(tmp_path: Any) -> None:
    client = huterox.Client(f"ipc://{tmp_path}/none.ipc", timeout=WAIT_S)
    client._connection.start(client._connection.core.prepare(3, 0, b"\x80", (), WAIT_S), None)
    del client
    collect()
    sockets.bury()


def test_a_client_is_closed_twice_and_by_another_thread(double: Any) -> None:
    client = huterox.connect(double.endpoint)
    closers = [threading.Thread(target=client.close) for _ in range(4)]
    for closer in closers:
        closer.start()
    for closer in closers:
        closer.join(WAIT_S)
        assert not closer.is_alive()
    client.close()
    with pytest.raises(huterox.Unavailable):
        client.status()


# --- asyncio ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lanes", [False, True])
def test_an_asyncio_client_that_is_dropped_leaves_nothing(
    double: Any, containers: Any, run: Callable[[Coroutine[Any, Any, Any]], Any], lanes: bool
) -> None:
    async def use() -> Any:
        client = await huterox.aconnect(double.endpoint, lanes=lanes, timeout=WAIT_S)
        service = await client.service("echo")
        assert await service(x=1) == {"x": 1}
        return weakref.ref(client._connection)

    async def use_and_drop() -> None:
        gone = await use()
        for _ in range(100):
            collect()
            await asyncio.sleep(0.01)
            if gone() is None:
                break
        else:
            raise AssertionError("it lives on")
        async with huterox.aconnect(double.endpoint, lanes=lanes) as client:  # perhaps under the same numbers
            assert await (await client.service("echo"))(x=2) == {"x": 2}

    run(use_and_drop())
    gone = run(use())
    collect()
    assert gone() is None
    sockets.bury()


def test_an_asyncio_client_that_never_connected_is_dropped(double: Any) -> None:
    client = huterox.aconnect(double.endpoint)
    del client
    collect()


# --- processes --------------------------------------------------------------------------------------------------------

CHILD = """
import gc, os, sys, threading
import huterox

how, lanes = sys.argv[2], sys.argv[3] == "lane"
client = huterox.connect(sys.argv[1], lanes=lanes, timeout=30.0)
service = client.service("echo")
assert service(x=1) == {"x": 1}
stream = service.stream("parts", count=3)
next(stream)
futures = [service.submit(x=index) for index in range(5)]
if how == "hold":
    threading.Thread(target=service.call, args=("silent",) if not lanes else ("hold",), daemon=True).start()
if how == "fork":
    if (pid := os.fork()) == 0:
        del client, service, stream, futures
        gc.collect()
        other = huterox.connect(sys.argv[1], lanes=lanes, timeout=30.0)
        assert other.service("echo")(x=2) == {"x": 2}
        sys.exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert service(x=3) == {"x": 3}
    assert [future.result(10) for future in futures] == [{"x": index} for index in range(5)]
if how == "hold":
    sys.client = client
if how == "drop":
    del client, service, stream, futures
    gc.collect()
print("end")
"""


@pytest.mark.parametrize("lanes", ["routed", "lane"])
@pytest.mark.parametrize("how", ["hold", "drop", "fork"])
def test_a_process_with_an_open_client_ends(double: Any, containers: Any, how: str, lanes: str) -> None:
    command = [sys.executable, "-W", "ignore:This process", "-c", CHILD, double.endpoint, how, lanes]  # of a fork
    child = subprocess.run(command, capture_output=True, text=True, timeout=30, env=os.environ, check=False)
    assert (child.returncode, child.stdout, child.stderr) == (0, "end\n", "")
