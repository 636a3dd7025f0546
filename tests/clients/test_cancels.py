"""A coroutine that is cancelled at any of its awaits: the next call answers, and nothing is left."""

import asyncio
import gc
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any

import numpy as np
import pytest
from tests.clients.containers import WAIT_S, ContainerDouble
from tests.clients.lanes import descriptor_count

import huterox
from huterox import sockets

ROUNDS_MAX = 50
"""An answer may be there before it is waited for, on a busy machine."""


@types.coroutine
def cancelled_at(coroutine: Coroutine[Any, Any, Any], nth: int) -> Generator[Any, Any, bool]:
    """Run a coroutine, and cancel it the `nth` time that it waits. False: it has not waited so often."""
    count = 0
    step: Callable[[], Any] = lambda: coroutine.send(None)  # noqa: E731
    while True:
        try:
            waits_for = step()
        except StopIteration:
            return count >= nth
        except asyncio.CancelledError:
            return True
        count += 1
        if count == nth:
            if waits_for is not None:
                waits_for._asyncio_future_blocking = False
            step = lambda: coroutine.throw(asyncio.CancelledError())  # noqa: E731
            continue
        yield waits_for
        step = lambda: coroutine.send(None)  # noqa: E731


async def call(service: huterox.AsyncService) -> None:
    await service(x=np.arange(5))


async def call_large(service: huterox.AsyncService) -> None:
    await service(x=np.zeros(50_000))


async def submit(service: huterox.AsyncService) -> None:
    await asyncio.gather(*[service.submit(x=index) for index in range(3)])


async def submit_cancelled_at_once(service: huterox.AsyncService) -> None:
    service.submit(x=1).cancel()
    await asyncio.sleep(0)
    await service(x=1)


async def stream(service: huterox.AsyncService) -> None:
    assert [part["index"] async for part in service.stream("parts", count=3)] == [0, 1, 2]


async def empty(service: huterox.AsyncService) -> None:
    array = service.empty(5, "float32")
    array[:] = 1
    await service(x=array)


@pytest.mark.parametrize("lanes", [False, True])
@pytest.mark.parametrize("action", [call, call_large, submit, submit_cancelled_at_once, stream, empty])
def test_a_call_cancelled_at_any_await_leaves_the_client_whole(
    double: Any,
    containers: Any,
    run: Callable[[Coroutine[Any, Any, Any]], Any],
    action: Callable[[huterox.AsyncService], Coroutine[Any, Any, None]],
    lanes: bool,
) -> None:
    async def use() -> None:
        async with huterox.aconnect(double.endpoint, lanes=lanes, timeout=WAIT_S) as client:
            service = await client.service("echo")
            assert service.path == ("lane" if lanes else "routed")
            for _ in range(ROUNDS_MAX):
                nth = 1
                while await _awaitable(cancelled_at(action(service), nth)):
                    await check(service, nth)
                    nth += 1
                await check(service, nth)
                if nth > 1:
                    return
            raise AssertionError("it has never waited")

    run(use())


async def _awaitable(steps: Awaitable[bool]) -> bool:
    return await steps


async def check(service: huterox.AsyncService, nth: int) -> None:
    assert (await service.call(x=nth, timeout=5.0)) == {"x": nth}
    lane = service._lease.lane
    core = service._routed._core
    for _ in range(1000):
        await service(x=nth)  # releases go with the next call
        left: list[Any] = [core.in_flight_count, core._nbytes, core.parts_nbytes, list(core.news)]
        if lane is not None:
            own = lane._core
            left += [own.in_flight_count, own.parts_nbytes, dict(lane._end.out), lane._end.owned_count, own.held]
            left += [list(own.news), len(lane._line)]
        if not any(left):
            return
        gc.collect()
        await asyncio.sleep(0.005)
    raise AssertionError(f"left after a cancellation at await {nth}: {left}")


@pytest.mark.parametrize("lanes", [False, True])
def test_a_client_cancelled_while_it_opens_or_closes_leaves_nothing(
    double: Any, containers: list[ContainerDouble], run: Callable[[Coroutine[Any, Any, Any]], Any], lanes: bool
) -> None:
    async def open_and_close() -> None:
        async with huterox.aconnect(double.endpoint, lanes=lanes, timeout=WAIT_S) as client:
            assert await (await client.service("echo"))(x=1) == {"x": 1}

    async def use() -> None:
        await open_and_close()
        before, nth = await count(containers), 1
        while await _awaitable(cancelled_at(open_and_close(), nth)):
            await open_and_close()
            for _ in range(500):
                if (left := await count(containers)) <= before:
                    break
                await asyncio.sleep(0.01)
            else:
                raise AssertionError(f"{left} descriptors after a cancellation at await {nth}, {before} before")
            nth += 1
        assert nth > 1

    run(use())


async def count(containers: list[ContainerDouble]) -> int:
    while containers:
        containers.pop().close()
    await asyncio.sleep(0)
    gc.collect()
    await asyncio.sleep(0)
    sockets.bury()
    return descriptor_count()
