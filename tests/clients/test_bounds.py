"""What waits in this process for its user is bounded in bytes: parts of streams, and answers that nobody reads."""

import asyncio
import gc
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import numpy as np
import pytest
from tests.clients.containers import MIB, WAIT_S
from tests.clients.lanes import eventually

import huterox
from huterox.core import Limits
from huterox.lease import LaneOptions

N = 25_000
"""Numbers in an array of 200 KB."""


@pytest.fixture(params=["routed", "lane"])
def make(request: pytest.FixtureRequest, double: Any, containers: Any) -> Iterator[Callable[..., huterox.Service]]:
    clients = []

    def make(**limits: int) -> huterox.Service:
        options = LaneOptions(seek=request.param == "lane")
        client = huterox.Client(double.endpoint, timeout=WAIT_S, limits=Limits(**limits), lanes=options)
        clients.append(client)
        service = client.service("echo")
        assert service.path == request.param
        return service

    yield make
    for client in clients:
        client.close()


def core_of(service: huterox.Service) -> Any:
    lane = service._lease.lane
    return lane.core if lane is not None else service._routed._connection.core  # type: ignore[attr-defined]


def parts(service: huterox.Service, count: int) -> Any:
    return service.stream("large_parts", count=count, n=N)


@pytest.mark.parametrize("limit", ["stream_nbytes_max", "parts_nbytes_max"])
def test_a_stream_whose_reader_sleeps_ends_beyond_its_bytes(make: Any, limit: str) -> None:
    service = make(**{limit: 2 * MIB})
    core = core_of(service)
    stream = parts(service, 200)
    service(x=1)
    eventually(lambda: stream._call.ended)
    assert core.parts_nbytes == stream._call.parts_nbytes < 3 * MIB
    taken = 0
    with pytest.raises(huterox.Busy, match="too slow") as caught:
        for _ in stream:
            taken += 1
    assert 2 * MIB / 200_000 <= taken <= 20
    assert not caught.value.details.get("executed")
    assert core.parts_nbytes == 0
    assert len(list(parts(service, 5))) == 5


def test_one_part_alone_may_be_larger_than_all_limits(make: Any) -> None:
    service = make(stream_nbytes_max=1000, parts_nbytes_max=1000)
    stream = parts(service, 1)
    assert next(stream)["x"].size == N


def test_parts_of_a_stream_that_is_left_count_no_more(make: Any) -> None:
    service = make()
    core = core_of(service)
    streams = [parts(service, 5) for _ in range(3)]
    eventually(lambda: service(x=1) and all(len(stream._call.parts) == 5 for stream in streams))
    assert core.parts_nbytes >= 15 * N * 8
    streams[0].close()
    assert len(list(streams[1])) == 5
    streams.clear()  # and one is dropped
    eventually(lambda: service(x=1) and not core.parts_nbytes)


def test_answers_that_nobody_reads_are_bounded(make: Any) -> None:
    service = make(unread_nbytes_max=2 * MIB)
    futures = [service.submit(x=np.full(N, index)) for index in range(5)]
    futures += [service.submit(x=np.full(N, index)) for index in range(5, 20)]
    eventually(lambda: service(x=1) and all(future.done() for future in futures))
    errors = [error for future in futures if (error := future.exception()) is not None]
    assert 8 <= len(errors) <= 12
    assert all(isinstance(error, huterox.Busy) and error.details["executed"] == "yes" for error in errors)
    values = [future.result()["x"][0] for future in futures if future.exception() is None]
    assert values == list(range(len(values)))
    # What has been read, or dropped, makes room.
    again = [service.submit(x=np.full(N, index)) for index in range(8)]
    assert [future.result(WAIT_S)["x"][0] for future in again] == list(range(8))
    for _ in range(30):
        service.submit(x=np.zeros(N)).cancel()
    futures.clear()
    again.clear()
    gc.collect()
    assert service.submit(x=np.zeros(N)).result(WAIT_S)["x"].size == N


def test_small_answers_and_blocking_calls_are_not_counted(make: Any) -> None:
    service = make(unread_nbytes_max=10_000)
    futures = [service.submit(x=index) for index in range(100)]
    assert [service(x=np.zeros(N))["x"].size for _ in range(3)] == [N, N, N]
    assert [future.result(WAIT_S)["x"] for future in futures] == list(range(100))


@pytest.mark.parametrize("lanes", [False, True])
def test_asyncio_has_the_same_bounds(
    double: Any, containers: Any, run: Callable[[Coroutine[Any, Any, Any]], Any], lanes: bool
) -> None:
    async def use() -> None:
        limits = Limits(stream_nbytes_max=2 * MIB, unread_nbytes_max=2 * MIB)
        client = huterox.AsyncClient(double.endpoint, limits=limits, lanes=LaneOptions(seek=lanes), timeout=WAIT_S)
        async with client:
            service = await client.service("echo")
            assert service.path == ("lane" if lanes else "routed")
            stream = service.stream("large_parts", count=200, n=N)
            taken = 0
            with pytest.raises(huterox.Busy, match="too slow"):
                async for _ in stream:
                    taken += 1
                    if taken == 1:
                        await asyncio.sleep(0.5 if lanes else 0.1)
                        for _ in range(50):
                            await service(x=1)
            assert taken <= 25
            tasks = [service.submit(x=np.full(N, index)) for index in range(20)]
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            errors = [error for error in ended if isinstance(error, huterox.Busy)]
            assert 8 <= len(errors) <= 12
            assert len(errors) == sum(isinstance(error, BaseException) for error in ended)
            del tasks, ended
            assert (await service.submit(x=np.zeros(N)))["x"].size == N

    run(use())
