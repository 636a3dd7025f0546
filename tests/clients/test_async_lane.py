"""Calls through a lane in an event loop, over real shared memory, against the worker's own code in a thread."""

import asyncio
import gc
import os
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from typing import Any

import numpy as np
import pytest
from tests.clients.containers import MIB, WAIT_S, ContainerDouble
from tests.clients.lanes import descriptor_count

import huterox
from huterox.async_lane import AsyncLane
from huterox.core import Limits
from huterox.lease import LaneGone
from huterox_wire.meta import decode_call
from huterox_wire.payload import join_values

Use = Callable[["Bench"], Coroutine[Any, Any, Any]]


class Elsewhere:
    """Takes up what a lane gives back: remembers it, and answers with what was asked."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []

    def _take(self, meta: bytes, tensors: Sequence[Any], deadline_s: float) -> dict[str, Any]:
        assert 0 < deadline_s - time.monotonic() <= WAIT_S
        asked = decode_call(meta)
        self.taken.append(join_values(dict(asked.params), asked.tensors, tensors))
        return self.taken[-1]

    async def submit_again(self, meta: bytes, tensors: Sequence[Any], deadline_s: float) -> dict[str, Any]:
        return self._take(meta, tensors, deadline_s)

    async def stream_again(
        self, meta: bytes, tensors: Sequence[Any], deadline_s: float
    ) -> AsyncGenerator[dict[str, Any], None]:
        yield self._take(meta, tensors, deadline_s)


class Bench:
    """A lane, the container behind it, and what is told of its end."""

    def __init__(self, limits: Limits | None = None, **options: Any) -> None:
        self.container = ContainerDouble(**options)
        self.model = self.container.model
        self.ended: list[AsyncLane] = []
        self.elsewhere = Elsewhere()
        self.lane = AsyncLane(
            self.container.end,
            self.container.liveness,
            limits or Limits(),
            self.ended.append,
            asyncio.get_running_loop(),
        )

    async def call(self, method: str = "predict", /, timeout_s: float = WAIT_S, **inputs: Any) -> Any:
        return await self.lane.call(method, inputs, timeout_s)

    def submit(self, method: str = "predict", /, timeout_s: float = WAIT_S, **inputs: Any) -> "asyncio.Task[Any]":
        return self.lane.submit(method, inputs, timeout_s, self.elsewhere)

    def stream(self, method: str = "parts", /, timeout_s: float = WAIT_S, **inputs: Any) -> Any:
        return self.lane.stream(method, inputs, timeout_s, self.elsewhere)

    async def hold(self) -> "asyncio.Task[Any]":
        """A call that the container is in the middle of."""
        task = self.submit("hold", key="held")
        await eventually(self.model.held.is_set)
        return task


async def eventually(condition: Callable[[], object]) -> None:
    end_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end_s
        await asyncio.sleep(0.002)


@pytest.fixture
def use(run: Any) -> Callable[..., None]:
    """Run a coroutine with a lane."""

    def use(coroutine: Use, limits: Limits | None = None, **options: Any) -> None:
        async def main() -> None:
            bench = Bench(limits, **options)
            try:
                await coroutine(bench)
            finally:
                bench.model.go.set()
                bench.lane.close()
                await asyncio.get_running_loop().run_in_executor(None, bench.container.close)

        run(main())

    return use


# --- calls ------------------------------------------------------------------------------------------------------------


def test_arrays_and_values_come_back_as_they_went(use):
    async def calls(bench):
        for size in (0, 1, 100, 100_000):
            for _ in range(2):
                result = await bench.call(x=np.arange(size), n=size, text="ä", blob=b"b" * 300)
                np.testing.assert_array_equal(result["x"], np.arange(size))
                assert (result["n"], result["text"], result["blob"]) == (size, "ä", b"b" * 300)
        assert await bench.call() == {}

    use(calls)


def test_many_tasks_never_get_each_others_answers(use):
    async def calls(bench):
        for _ in range(2):
            results = await asyncio.gather(*(bench.call(x=np.full(5, index)) for index in range(1000)))
            assert [int(result["x"][0]) for result in results] == list(range(1000))

    use(calls)


def test_errors_are_typed_and_bad_inputs_refused(use):
    async def calls(bench):
        with pytest.raises(huterox.ModelError, match="no such luck"):
            await bench.call("fail")
        with pytest.raises(huterox.NotFound):
            await bench.submit("dance")
        for bad in (object(), [np.zeros(3)], np.zeros((1,) * 9)):
            with pytest.raises(huterox.InvalidInput):
                await bench.call(x=bad)
            with pytest.raises(huterox.InvalidInput):
                bench.submit(x=bad)
        for timeout_s in (0, "soon", None):
            with pytest.raises(huterox.InvalidInput, match="timeout"):
                await bench.lane.call("predict", {}, timeout_s)
        assert await bench.call(x=1) == {"x": 1}

    use(calls)


def test_submitted_inputs_may_change_at_once_also_while_they_wait_for_room(use):
    async def calls(bench):
        array = np.zeros(200_000, np.uint8)
        tasks = []
        for index in range(30):
            array[:] = index
            tasks.append(bench.submit(x=array))
        bench.container.running.set()
        for index, task in enumerate(tasks):
            assert set((await task)["x"].tolist()) == {index}

    use(calls, half_nbytes=2 * MIB, paused=True)


def test_deadlines_are_kept_by_calls_in_flight_and_in_line(use):
    async def calls(bench):
        held = await bench.hold()
        started_s = time.monotonic()
        with pytest.raises(huterox.DeadlineExceeded, match=r"within 0\.1 s"):
            await bench.call(x=1, timeout_s=0.1)
        filling = [bench.submit(x=np.zeros(MIB, np.uint8)) for _ in range(4)]
        with pytest.raises((huterox.DeadlineExceeded, huterox.Busy)):
            await bench.call(x=np.zeros(MIB, np.uint8), timeout_s=0.1)
        assert time.monotonic() - started_s < WAIT_S
        bench.model.go.set()
        assert await held == {"key": "held"}
        await asyncio.gather(*filling)

    use(calls, half_nbytes=4 * MIB)


def test_a_cancelled_task_cancels_its_call_in_flight_and_in_line(use):
    async def calls(bench):
        held = await bench.hold()
        tasks = [bench.submit("note", key=index) for index in range(100)]
        await asyncio.sleep(0)
        assert bench.lane._line
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)
        bench.model.go.set()
        await held
        assert await bench.call(x=1) == {"x": 1}
        assert len(bench.model.seen) < 20  # a full ring has few places for cancellations

    use(calls, ring_entries=128)


def test_parts_of_a_stream_come_in_order_and_errors_after_them(use):
    async def calls(bench):
        assert [part["index"] async for part in bench.stream(count=300)] == list(range(300))
        assert [part async for part in bench.stream("predict", x=5)] == [{"x": 5}]
        assert [int(part["x"][0]) async for part in bench.stream("large_parts", count=9, n=5000)] == list(range(9))
        parts = []
        with pytest.raises(huterox.ModelError, match="in the middle"):
            async for part in bench.stream(count=2, fail=True):
                parts.append(part["index"])
        assert parts == [0, 1]

    use(calls)


def test_a_stream_that_is_left_stops_the_model(use):
    async def calls(bench):
        parts = bench.stream("endless")
        async for part in parts:
            assert "x" in part
            break
        await parts.aclose()
        await eventually(lambda: bench.model.seen == ["stopped"])
        assert await bench.call(x=1) == {"x": 1}

    use(calls)


def test_a_stream_that_nobody_reads_is_bounded(use):
    async def calls(bench):
        parts = bench.stream("endless")
        await eventually(lambda: bench.model.seen == ["stopped"])
        with pytest.raises(huterox.Busy, match="too slow"):
            async for _ in parts:
                pass

    use(calls, Limits(stream_parts_max=50))


# --- room -------------------------------------------------------------------------------------------------------------


def test_a_full_lane_is_waited_for_in_order(use):
    async def calls(bench):
        tasks = [bench.submit("note", key=index) for index in range(500)]
        bench.container.running.set()
        assert [(await task)["key"] for task in tasks] == list(range(500))
        assert bench.model.seen == list(range(500))

    use(calls, ring_entries=128, paused=True)


def test_no_room_is_busy_at_once_where_that_is_wanted(use):
    async def calls(bench):
        tasks = []
        with pytest.raises(huterox.Busy, match="no room"):
            while True:
                tasks.append(bench.submit(x=np.zeros(MIB, np.uint8)))
        with pytest.raises(huterox.Busy):
            await bench.call(x=np.zeros(MIB, np.uint8))
        bench.container.running.set()
        await asyncio.gather(*tasks)

    use(calls, Limits(lane_waits=False), half_nbytes=4 * MIB, paused=True)


def test_the_line_is_bounded(use):
    async def calls(bench):
        tasks = []
        with pytest.raises(huterox.Busy, match="limit"):
            while True:
                tasks.append(bench.submit(x=len(tasks)))
        bench.container.running.set()
        assert [(await task)["x"] for task in tasks] == list(range(len(tasks)))

    use(calls, Limits(in_flight_max=20), ring_entries=128, paused=True)


def test_room_that_comes_without_an_answer_is_found(use):
    async def calls(bench):
        held = [bench.lane.empty(MIB, "uint8") for _ in range(4)]
        waiting = bench.submit(x=np.zeros(MIB, np.uint8))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        held.clear()
        assert (await waiting)["x"].nbytes == MIB

    use(calls, half_nbytes=4 * MIB)


def test_results_that_are_kept_never_take_the_containers_room(use):
    async def calls(bench):
        kept = [(await bench.call("array", n=100_000))["x"] for _ in range(20)]
        kept += [result["x"] for result in await asyncio.gather(*(bench.call("array", n=100_000) for _ in range(20)))]
        assert all(array[-1] == 99_999 for array in kept)

    use(calls, half_nbytes=4 * MIB)


def test_answers_of_more_bytes_than_the_lane_has_come_through_it_bit_by_bit(use):
    async def calls(bench):
        for n in (10, 900, 5000):
            results = await asyncio.gather(*(bench.call("array", n=n) for _ in range(500)))
            assert [result["x"][-1] for result in results] == [n - 1] * 500

    use(calls, half_nbytes=MIB, ring_entries=1024)


def test_memory_of_the_lane_is_passed_without_a_copy(use):
    async def calls(bench):
        array = bench.lane.empty((10, 10), "float32")
        array[:] = 2
        assert (await bench.call(x=array))["x"].sum() == 200
        await bench.call("keep", x=array)
        array[0, 0] = 42
        assert bench.model.kept[0][0, 0] == 42
        bench.model.kept.clear()  # or the lane stays mapped in the process of the tests

    use(calls)


def test_a_call_that_no_lane_of_this_size_carries_is_for_another_way(use):
    async def calls(bench):
        for _ in range(2):
            with pytest.raises(LaneGone):
                await bench.call(x=np.zeros(8 * MIB, np.uint8))
        assert bench.lane.open
        assert await bench.call(x=1) == {"x": 1}

    use(calls, half_nbytes=2 * MIB)


# --- the end ----------------------------------------------------------------------------------------------------------


def test_calls_that_a_dead_container_had_not_begun_are_given_back_and_the_begun_one_is_lost(use):
    async def calls(bench):
        held = await bench.hold()
        queued = [bench.submit(x=index) for index in range(100)]  # some of them in line
        stream = bench.stream("note", key=1)
        blocked = asyncio.ensure_future(bench.call(x=1))
        await asyncio.sleep(0)
        bench.container.die()
        with pytest.raises(huterox.WorkerLost) as lost:
            await held
        assert lost.value.details == {"executed": "maybe"}
        assert [await task for task in queued] == [{"x": index} for index in range(100)]
        assert [part async for part in stream] == [{"key": 1}]
        with pytest.raises(LaneGone):
            await blocked
        assert bench.ended == [bench.lane]
        assert not bench.lane.open
        for attempt in (bench.submit, bench.stream):
            with pytest.raises(LaneGone):
                attempt()

    use(calls, ring_entries=128)


def test_a_draining_lane_ends_its_calls_and_takes_no_more(use):
    async def calls(bench):
        held = await bench.hold()
        queued = bench.submit(x=1)
        await asyncio.sleep(0)
        bench.container.drain()
        assert not bench.lane.open
        with pytest.raises(LaneGone):
            await bench.call(x=2)
        bench.model.go.set()
        assert (await held, await queued) == ({"key": "held"}, {"x": 1})
        await eventually(lambda: bench.ended == [bench.lane])

    use(calls)


def test_a_lane_that_is_left_ends_its_calls_and_takes_no_more(use):
    async def calls(bench):
        held = await bench.hold()
        queued = bench.submit(x=1)
        await asyncio.sleep(0)
        bench.lane.leave()
        with pytest.raises(LaneGone):
            await bench.call(x=2)
        assert bench.ended == []
        bench.model.go.set()
        assert (await held, await queued) == ({"key": "held"}, {"x": 1})
        await eventually(lambda: bench.ended == [bench.lane])
        bench.lane.leave()
        bench.lane.close()
        with pytest.raises(LaneGone):
            await bench.call(x=2)

    use(calls)


def test_all_calls_are_lost_with_the_kernel(use):
    async def calls(bench):
        tasks = [await bench.hold(), bench.submit(x=1)]
        await asyncio.sleep(0.01)
        bench.container.lose_kernel()
        for task in tasks:
            with pytest.raises(huterox.WorkerLost):
                await task
        assert bench.elsewhere.taken == []
        assert bench.ended == [bench.lane]

    use(calls)


def test_an_idle_lane_notices_the_end_of_the_kernel(use):
    async def calls(bench):
        bench.container.lose_kernel()
        await eventually(lambda: bench.ended == [bench.lane])

    use(calls)


def test_nonsense_in_the_ring_ends_the_lane_and_no_call_stays_without_its_end(use):
    async def calls(bench):
        held = await bench.hold()
        bench.container._stopped = True
        os.eventfd_write(bench.container.lane._peer_bell.fileno(), 100_000)
        with pytest.raises(huterox.WorkerLost):
            await held
        assert bench.ended == [bench.lane]

    use(calls)


def test_closing_ends_what_is_under_way_and_leaves_nothing(run):
    async def main():
        gc.collect()
        before = descriptor_count()
        bench = Bench(ring_entries=128)
        tasks = [await bench.hold(), *(bench.submit(x=index) for index in range(100))]
        await asyncio.sleep(0)
        bench.lane.close()
        for task in tasks:
            with pytest.raises(huterox.Cancelled):
                await task
        with pytest.raises(LaneGone):
            await bench.call(x=1)
        bench.lane.close()
        bench.model.go.set()
        await asyncio.get_running_loop().run_in_executor(None, bench.container.close)
        del bench, tasks, task
        gc.collect()
        assert descriptor_count() == before

    run(main())


def test_a_forked_child_closes_what_it_has_and_the_parent_goes_on(use):
    async def calls(bench):
        child = os.fork()
        if child == 0:
            bench.lane.forget()
            os._exit(0 if not bench.lane.open and bench.lane._liveness.fileno() == -1 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert await bench.call(x=1) == {"x": 1}

    use(calls)
