"""The asyncio shell against a switchboard double. Each test is one coroutine, run on a loop of its own."""

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest

import huterox
from huterox.aio import AsyncClient
from huterox.core import Limits
from huterox_wire.kinds import Kind

WAIT_S = 10.0


def with_service(double: Any, use: Callable[[Any], Coroutine[Any, Any, Any]]) -> Coroutine[Any, Any, Any]:
    async def main() -> Any:
        async with huterox.aconnect(double.endpoint, timeout=WAIT_S) as client:
            return await use(await client.service("echo"))

    return main()


def expect(double: Any, kind: Kind) -> asyncio.Future[Any]:
    return asyncio.get_running_loop().run_in_executor(None, double.expect, kind)


def test_a_call_brings_back_arrays_and_values(run, double):
    async def use(service):
        array = np.arange(200_000, dtype="int16")
        result = await service(x=array, self=1, timeout=2, method=3)
        np.testing.assert_array_equal(result["x"], array)
        assert not result["x"].flags.writeable
        assert (result["self"], result["timeout"], result["method"]) == (1, 2, 3)
        assert await service.call("predict", timeout=5, text="ä") == {"text": "ä"}

    run(with_service(double, use))


def test_many_tasks_never_get_each_others_answers(run, double):
    async def use(service):
        results = await asyncio.gather(*(service(x=[index]) for index in range(500)))
        assert results == [{"x": [index]} for index in range(500)]
        results = await asyncio.gather(*(service.call("gather", count=64, index=index) for index in range(64)))
        assert [result["index"] for result in results] == list(range(64))

    run(with_service(double, use))


def test_submitted_inputs_may_change_at_once(run, double):
    async def use(service):
        array = np.zeros(200_000, np.uint8)
        tasks = []
        for index in range(10):
            array[:] = index
            tasks.append(service.submit(x=array))
        for index, task in enumerate(tasks):
            assert set((await task)["x"].tolist()) == {index}

    run(with_service(double, use))


def test_errors_are_typed(run, double):
    async def use(service):
        with pytest.raises(huterox.ModelError, match="no such luck"):
            await service.call("fail")
        with pytest.raises(huterox.Fault, match="malformed"):
            await service.call("malformed")
        with pytest.raises(huterox.InvalidInput):
            await service(x=object())
        assert await service.call("garbage", x=1) == {"x": 1}

    run(with_service(double, use))


def test_a_silent_switchboard_ends_in_deadline_exceeded_and_a_cancel(run, double):
    async def use(service):
        started_s = time.monotonic()
        with pytest.raises(huterox.DeadlineExceeded):
            await service.call("silent", timeout=0.2)
        assert 0.2 <= time.monotonic() - started_s < WAIT_S
        await expect(double, Kind.CANCEL)
        assert await service(x=1) == {"x": 1}

    run(with_service(double, use))


def test_a_shorter_deadline_is_kept_beside_a_longer_one(run, double):
    async def use(service):
        slow = service.submit("held", key=1)
        await asyncio.sleep(0)
        with pytest.raises(huterox.DeadlineExceeded):
            await service.call("silent", timeout=0.1)
        assert not slow.done()
        double.go.set()
        assert await slow == {"key": 1}

    run(with_service(double, use))


def test_a_cancelled_task_cancels_its_call(run, double):
    async def use(service):
        task = service.submit("silent")
        await expect(double, Kind.CALL)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await expect(double, Kind.CANCEL)
        assert await service(x=1) == {"x": 1}

    run(with_service(double, use))


def test_parts_of_a_stream_come_in_order_and_errors_after_them(run, double):
    async def use(service):
        assert [part["index"] async for part in service.stream("parts", count=300)] == list(range(300))
        assert [part async for part in service.stream("parts", count=1, last={"sum": 3})] == [{"index": 0}, {"sum": 3}]
        parts = []
        with pytest.raises(huterox.ModelError):
            async for part in service.stream("parts", count=2, fail=True):
                parts.append(part["index"])
        assert parts == [0, 1]

    run(with_service(double, use))


def test_a_stream_that_is_left_is_cancelled(run, double):
    async def use(service):
        stream = service.stream("hang")
        async for part in stream:
            assert part == {"index": 0}
            break
        await stream.aclose()
        await expect(double, Kind.CANCEL)

    run(with_service(double, use))


def test_a_stale_handle_is_renewed_once(run, double):
    async def use(service):
        double.handles["echo"] += 1
        assert await service(x=1) == {"x": 1}
        double.handles["echo"] += 1
        assert [part["index"] async for part in service.stream("parts", count=2)] == [0, 1]
        double.handles.clear()
        with pytest.raises(huterox.NotFound):
            await service(x=1)

    run(with_service(double, use))


def test_one_call_more_than_fits_is_busy_at_once(run, double):
    async def main():
        async with AsyncClient(double.endpoint, limits=Limits(in_flight_max=3)) as client:
            service = await client.service("echo")
            tasks = [service.submit("silent", timeout=0.3) for _ in range(3)]
            await expect(double, Kind.CALL)
            with pytest.raises(huterox.Busy):
                await service(x=1)
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(result) for result in results} == {huterox.DeadlineExceeded}

    run(main())


def test_closing_ends_what_is_under_way(run, double):
    async def main():
        client = await huterox.aconnect(double.endpoint)
        service = await client.service("echo")
        task = service.submit("silent")
        await expect(double, Kind.CALL)
        await client.close()
        with pytest.raises(huterox.Cancelled):
            await task
        with pytest.raises(huterox.Unavailable, match="closed"):
            await service(x=1)
        await client.close()

    run(main())


def test_the_verbs_are_the_sync_clients(run, double):
    double.results |= {
        "ps": lambda args: {"rows": [{"id": "c1.1"}], "next": ""},
        "evict": lambda args: args,
        "create": lambda args: args,
    }

    async def main():
        async with huterox.aconnect(double.endpoint, tenant="acme") as client:
            assert await client.containers() == [{"id": "c1.1"}]
            assert await client.evict("c1.1") == {"container": "c1.1"}
            created = await client.create("s", model="m")
            assert created == {"name": "s", "model": "m", "tier": "shared", "tenant": "acme"}
            assert (await client.status())["nodes_ready"] == 1
            with pytest.raises(huterox.InvalidInput, match="unknown verb"):
                await client.nodes()

    run(main())


def test_both_clients_have_the_same_verbs():
    def verbs(cls: type) -> set[str]:
        return {name for name in vars(cls) if not name.startswith("_")}

    assert verbs(huterox.Client) == verbs(AsyncClient)
    assert verbs(huterox.Service) == verbs(huterox.AsyncService)


def test_nobody_at_the_endpoint_is_unavailable(run, tmp_path, double):
    async def main():
        with pytest.raises(huterox.Unavailable, match="huterox up"):
            async with huterox.aconnect(f"ipc://{tmp_path}/none.ipc"):
                pass
        double.mute = True
        with pytest.raises(huterox.Unavailable, match="silent"):
            await huterox.aconnect(double.endpoint, timeout=0.2)

    run(main())


def test_a_forked_child_is_told(run, double):
    async def use(service):
        child = os.fork()
        if child == 0:
            try:
                await service(x=1)
                os._exit(1)
            except huterox.InvalidInput:
                os._exit(0)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert await service(x=1) == {"x": 1}

    run(with_service(double, use))
