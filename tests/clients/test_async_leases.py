"""Which way a service's calls go, and when it seeks a lane: the asyncio client against doubles of everything else."""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from tests.clients.lanes import WAIT_S, AsyncLaneDouble, descriptor_count, grants, packed, refuses

import huterox
from huterox.aio import AsyncClient
from huterox.core import Limits
from huterox.lease import LaneGone
from huterox_shm.layout import DEAD
from huterox_wire.errors import Busy, ModelError
from huterox_wire.kinds import Kind
from huterox_wire.leases import decode_lease

BY_LANE = {"by": "lane"}

Use = Callable[[Any, Any], Coroutine[Any, Any, Any]]


@pytest.fixture
def use(run: Any, double: Any, kernel: Any, async_lane_double: Any) -> Callable[..., None]:
    """Run a coroutine with a client and its service; the container is resident, unless told otherwise."""

    def use(coroutine: Use, lease: Any = None, **options: Any) -> None:
        double.lease = lease or grants(kernel)

        async def main() -> None:
            async with huterox.aconnect(double.endpoint, timeout=WAIT_S, **options) as client:
                await coroutine(client, await client.service("echo"))

        run(main())

    return use


async def eventually(condition: Callable[[], object]) -> None:
    end_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end_s
        await asyncio.sleep(0.005)


def newest() -> Any:
    return AsyncLaneDouble.made[-1]


# --- opening ----------------------------------------------------------------------------------------------------------


def test_a_service_of_a_resident_container_has_a_lane_at_once(use, double):
    async def calls(client, service):
        assert service.path == "lane"
        assert await service(x=1) == BY_LANE
        assert await service.call("sum", x=1, timeout=2.0) == BY_LANE
        assert await service.submit(x=1) == BY_LANE
        assert [part async for part in service.stream(x=1)] == [BY_LANE, BY_LANE]
        assert [asked[0] for asked in newest().asked] == ["call", "call", "submit", "stream"]

    use(calls, lane_mb=64, when_full="busy")
    assert double.leases == 1
    assert decode_lease(double.expect(Kind.LEASE).meta).half_mb == 64
    assert not newest().limits.lane_waits


def test_the_first_routed_success_after_absent_finds_the_container_that_it_has_brought(use, double, kernel):
    async def calls(client, service):
        assert service.path == "routed"
        double.lease = grants(kernel)
        assert await service(x=1) == {"x": 1}
        assert await service(x=1) == BY_LANE

    use(calls, refuses("absent"))


def test_opening_waits_no_longer_than_a_second_for_a_silent_kernel(use, kernel):
    kernel.answer = lambda peer: None

    async def calls(client, service):
        assert await service(x=1) == {"x": 1}

    started_s = time.monotonic()
    use(calls)
    assert time.monotonic() - started_s < 8.0


def test_a_switchboard_on_another_host_is_not_asked_at_the_opening(use, double, monkeypatch):
    monkeypatch.setattr("huterox.async_leases.is_local", lambda endpoint: False)

    async def calls(client, service):
        assert double.leases == 0
        assert await service(x=1) == {"x": 1}
        assert await service(x=1) == BY_LANE

    use(calls)


# --- seeking ----------------------------------------------------------------------------------------------------------


def test_a_refusal_is_followed_by_a_pause(use, double):
    async def calls(client, service):
        for _ in range(20):
            assert await service(x=1) == {"x": 1}

    use(calls, refuses("draining"))
    assert double.leases == 1


def test_a_failed_call_seeks_no_lane(use, double):
    async def calls(client, service):
        for failing in (service.call("fail"), service.submit("fail")):
            with pytest.raises(ModelError):
                await failing

    use(calls, refuses("absent"))
    assert double.leases == 1


def test_another_host_is_never_asked_again_for_any_service_of_the_client(use, double):
    double.handles["other"] = 1 << 32 | 2

    async def calls(client, service):
        other = await client.service("other")
        for _ in range(3):
            assert await service(x=1) == {"x": 1}
            assert await other(x=1) == {"x": 1}

    use(calls, refuses("other_host", retryable=False))
    assert double.leases == 1


def test_submit_waits_for_no_lane_but_its_answer_has_one_sought(use, double, kernel):
    async def calls(client, service):
        double.lease = grants(kernel)
        assert await service.submit(x=1) == {"x": 1}
        await eventually(lambda: service.path == "lane")

    use(calls, refuses("absent"))


def test_a_stream_waits_for_no_lane_but_its_end_has_one_sought(use, double, kernel):
    async def calls(client, service):
        double.lease = grants(kernel)
        assert [part["index"] async for part in service.stream("parts", count=2)] == [0, 1]
        await eventually(lambda: service.path == "lane")

    use(calls, refuses("absent"))


def test_many_tasks_make_one_attempt(use, double, kernel):
    async def calls(client, service):
        double.lease = grants(kernel)
        await asyncio.gather(*(service(x=index) for index in range(50)))
        assert service.path == "lane"

    use(calls, refuses("absent"))
    assert (double.leases, len(AsyncLaneDouble.made)) == (2, 1)


# --- one lane for all -------------------------------------------------------------------------------------------------


def test_services_of_one_name_share_a_lane_and_of_two_have_one_each(use, double):
    double.handles["other"] = 1 << 32 | 2

    async def calls(client, service):
        assert await (await client.service("echo"))(x=1) == BY_LANE
        assert double.leases == 1
        assert await (await client.service("other"))(x=1) == BY_LANE
        assert len(AsyncLaneDouble.made) == 2

    use(calls)


def test_one_lane_more_than_a_client_may_hold_stays_routed(run, double, kernel, async_lane_double):
    double.lease = grants(kernel)
    double.handles["other"] = 1 << 32 | 2

    async def main():
        async with AsyncClient(double.endpoint, limits=Limits(lanes_max=1)) as client:
            assert (await client.service("echo")).path == "lane"
            assert await (await client.service("other"))(x=1) == {"x": 1}

    run(main())


def test_a_service_that_was_created_again_lets_go_of_the_old_ones_lane(use, double):
    async def calls(client, service):
        lane = newest()
        double.handles["echo"] += 1
        await client.service("echo")
        await eventually(lambda: lane.closed)
        assert service._lease.lane is not lane

    use(calls)


# --- leaving the lane -------------------------------------------------------------------------------------------------


def test_a_draining_lane_takes_no_new_calls_and_they_go_routed_at_once(use, double):
    async def calls(client, service):
        double.lease = refuses("draining")
        lane = newest()
        lane.drain()
        assert service.path == "routed"
        assert await service(x=1) == {"x": 1}
        assert await service.submit(x=2) == {"x": 2}
        assert [part["index"] async for part in service.stream("parts", count=2)] == [0, 1]
        assert len(lane.asked) == 1
        assert not lane.closed

    use(calls)


@pytest.mark.parametrize("what", ["call", "submit", "stream"])
def test_whatever_finds_the_lane_gone_goes_routed(use, double, what):
    async def calls(client, service):
        double.lease = refuses("draining")
        newest().drain()
        if what == "call":
            assert await service(x=1) == {"x": 1}
        elif what == "submit":
            assert await service.submit(x=1) == {"x": 1}
        else:
            assert [part async for part in service.stream(x=1)] == [{"x": 1}]

    use(calls)


def test_a_lane_that_has_ended_is_closed_and_the_next_routed_success_finds_its_successor(use, double):
    async def calls(client, service):
        lane = newest()
        lane.end_now()
        await eventually(lambda: lane.closed)
        assert await service(x=1) == {"x": 1}
        assert await service(x=1) == BY_LANE
        assert double.leases == 2

    use(calls)


def test_an_idle_lane_whose_kernel_has_gone_is_let_go(use, kernel):
    async def calls(client, service):
        lane = newest()
        kernel.die()
        await eventually(lambda: lane.closed)
        assert service.path == "routed"

    use(calls)


def test_a_call_that_was_not_begun_is_sent_again_with_the_time_it_has_left(use, double):
    async def calls(client, service):
        newest().gone = LaneGone(deadline_s=time.monotonic() + 3.0)
        assert await service.call("predict", timeout=8.0, x=1) == {"x": 1}
        newest().gone = LaneGone(deadline_s=time.monotonic() - 0.01)
        with pytest.raises(huterox.DeadlineExceeded):
            await service(x=1)

    use(calls)
    assert 0.0 < double.expect(Kind.CALL).header.budget_us / 1e6 <= 3.0


def test_a_call_that_does_not_fit_a_lane_goes_routed_and_the_lane_stays(use):
    async def calls(client, service):
        newest().gone = LaneGone("too large")
        assert await service(x=1) == {"x": 1}
        assert await service(x=1) == BY_LANE

    use(calls)


def test_what_a_lane_gives_back_is_sent_routed(use):
    array = np.arange(100_000)
    meta, buffers = packed({"x": array, "n": 3})

    async def calls(client, service):
        result = await service._routed.submit_again(meta, buffers, time.monotonic() + 5.0)
        assert (result["x"][-1], result["n"]) == (99_999, 3)
        parts = service._routed.stream_again(meta, buffers, time.monotonic() + 5.0)
        array[:] = 0
        assert [part["x"][-1] async for part in parts] == [99_999]
        with pytest.raises(huterox.DeadlineExceeded):
            await service._routed.submit_again(meta, buffers, time.monotonic() - 1.0)

    use(calls)


def test_memory_is_the_lanes_where_it_has_some(use):
    async def calls(client, service):
        assert (service.empty((2, 2), "float32") == 7).all()
        for refusal in (LaneGone(), Busy("full")):
            newest().gone = refusal
            assert service.empty((2, 2), "float32").shape == (2, 2)

    use(calls)


# --- options and the end ----------------------------------------------------------------------------------------------


def test_a_client_without_lanes_seeks_none(use, double, monkeypatch):
    async def calls(client, service):
        assert await service(x=1) == {"x": 1}
        assert service.path == "routed"

    use(calls, lanes=False)
    monkeypatch.setenv("HUTEROX_LANES", "0")
    use(calls)
    assert double.leases == 0
    with pytest.raises(huterox.InvalidInput):
        huterox.aconnect(double.endpoint, lane_mb=-1)


def test_closing_the_client_closes_its_lanes(run, double, kernel, async_lane_double):
    double.lease = grants(kernel)

    async def main():
        client = await huterox.aconnect(double.endpoint)
        service = await client.service("echo")
        await client.close()
        assert newest().closed
        with pytest.raises(huterox.Unavailable, match="closed"):
            await service(x=1)
        await client.close()

    run(main())


def test_closing_the_client_in_the_middle_of_a_hand_over_leaves_nothing_behind(run, double, kernel, async_lane_double):
    double.lease = grants(kernel)
    here, go = threading.Event(), threading.Event()
    kernel.answer = lambda peer: (here.set(), go.wait(WAIT_S), kernel.grant(peer))
    before = descriptor_count()

    async def main():
        client = await huterox.aconnect(double.endpoint)
        opening = asyncio.ensure_future(client.service("echo"))
        await asyncio.get_running_loop().run_in_executor(None, here.wait, WAIT_S)
        closing = asyncio.ensure_future(client.close())
        await asyncio.sleep(0)
        go.set()
        await asyncio.gather(opening, closing)
        assert (await opening).path == "routed"

    run(main())
    kernel.die()
    kernel.lanes.pop().close()
    assert descriptor_count() == before


def test_a_cancelled_opening_leaves_nothing_behind(run, double, kernel, async_lane_double):
    double.lease = grants(kernel)
    here, go = threading.Event(), threading.Event()
    kernel.answer = lambda peer: (here.set(), go.wait(WAIT_S), kernel.grant(peer))

    async def main():
        async with huterox.aconnect(double.endpoint) as client:
            opening = asyncio.ensure_future(client.service("echo"))
            await asyncio.get_running_loop().run_in_executor(None, here.wait, WAIT_S)
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
            go.set()
            service = await client.service("echo")
            await eventually(lambda: service.path == "lane")
        assert all(lane.closed for lane in AsyncLaneDouble.made)

    run(main())


def test_an_attempt_that_breaks_us_costs_a_lane_and_nothing_else(use, monkeypatch, caplog):
    monkeypatch.setattr("huterox.async_leases.encode_lease", lambda *_: 1 / 0)

    async def calls(client, service):
        assert await service(x=1) == {"x": 1}

    use(calls)
    assert "ZeroDivisionError" in caplog.text


def test_a_forked_child_has_no_lanes_and_is_refused(use):
    async def calls(client, service):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                await service(x=1)
            except huterox.InvalidInput as error:
                status = 0 if "fork" in str(error) and newest().end.state == DEAD else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert await service(x=1) == BY_LANE

    use(calls)
