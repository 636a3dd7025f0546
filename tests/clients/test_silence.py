"""A connection over TCP that falls silent: it is given up, what went with it ends, and the next one serves."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest
import zmq
from tests.clients.conftest import WAIT_S, Double
from tests.fault.relay import Relay, free_port, relay

import huterox
from huterox import sockets
from huterox_wire.kinds import Kind

SILENT_MS = 400
LOST = "the connection to the switchboard was lost"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same signs of life, and less patience: 15 s are long for a test."""
    patience = {zmq.HEARTBEAT_IVL: 100, zmq.HEARTBEAT_TIMEOUT: SILENT_MS}
    told = tuple((option, patience.get(option, value)) for option, value in sockets._SIGNS_OF_LIFE)
    assert {option for option, _ in told} >= set(patience), "nothing gives a silent connection up"
    monkeypatch.setattr(sockets, "_SIGNS_OF_LIFE", told)


@pytest.fixture
def far() -> Iterator[Double]:
    """A switchboard by TCP."""
    double = Double(f"tcp://127.0.0.1:{free_port()}")
    yield double
    double.close()


@pytest.fixture
def link(far: Double) -> Iterator[Relay]:
    with relay(int(far.endpoint.rpartition(":")[2])) as made:
        yield made


@contextmanager
def silence(link: Relay) -> Iterator[None]:
    """The network rests; the block runs when the client has given its connection up."""
    before = local_ports(link)
    assert len(before) == 1
    link.rest()
    try:
        until_s = time.monotonic() + WAIT_S
        while before & local_ports(link):
            assert time.monotonic() < until_s, "a silent connection is kept"
            time.sleep(0.02)
        yield
    finally:
        link.flow()


def local_ports(link: Relay) -> set[int]:
    """Of the client's living connections."""
    connections = psutil.Process().net_connections("tcp4")
    return {c.laddr.port for c in connections if c.status == "ESTABLISHED" and c.raddr and c.raddr.port == link.port}


def endpoint_of(link: Relay) -> str:
    return f"tcp://127.0.0.1:{link.port}"


def test_calls_of_a_silent_connection_end_soon_after_the_next_one_is_there(far: Double, link: Relay) -> None:
    """They would have waited for a minute; what is sent meanwhile is answered."""
    with huterox.connect(endpoint_of(link), timeout=60.0, lanes=False) as client:
        service = client.service("echo")
        lost = [service.submit("silent") for _ in range(3)]
        for _ in lost:
            far.expect(Kind.CALL)
        with silence(link):
            assert not any(future.done() for future in lost)
            later = service.submit(x=1)
        for future in lost:
            with pytest.raises(huterox.Unavailable, match=LOST) as caught:
                future.result(timeout=WAIT_S)
            assert caught.value.details["executed"] == "maybe"
        assert later.result(timeout=WAIT_S) == {"x": 1}
        assert service(x=2) == {"x": 2}


def test_so_do_those_of_an_event_loop(far: Double, link: Relay) -> None:
    async def run() -> None:
        async with huterox.aconnect(endpoint_of(link), timeout=60.0, lanes=False) as client:
            service = await client.service("echo")
            lost = asyncio.ensure_future(service.call("silent"))
            await asyncio.to_thread(far.expect, Kind.CALL)
            with silence(link):
                later = asyncio.ensure_future(service.call(x=0))
                await asyncio.sleep(0)
                assert not lost.done()
            with pytest.raises(huterox.Unavailable, match=LOST):
                await asyncio.wait_for(lost, WAIT_S)
            assert await asyncio.wait_for(later, WAIT_S) == {"x": 0}
            assert await asyncio.wait_for(service.call(x=1), WAIT_S) == {"x": 1}

    asyncio.run(run())


def test_a_quiet_connection_that_lives_is_kept(far: Double, link: Relay) -> None:
    """A call may last longer than silence may: the signs of life are ZeroMQ's own."""
    with huterox.connect(endpoint_of(link), timeout=60.0, lanes=False) as client:
        before = local_ports(link)
        result = client.service("echo").call("later", seconds=3 * SILENT_MS / 1000)
        assert result["seconds"] == 3 * SILENT_MS / 1000
        assert local_ports(link) == before
