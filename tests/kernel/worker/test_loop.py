"""The worker's loop, in a thread of the test: several lanes, orders in between, lanes that end."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from huterox_kernel.worker import control, loop, runtimes
from huterox_kernel.worker.control import AddLane, Close, Decoder, DrainLanes, DropLane, LaneBroken, LaneDropped
from huterox_kernel.worker.inputs import Expected
from huterox_kernel.worker.loop import Loop
from huterox_kernel.worker.pinned import Pinned
from huterox_shm.errors import LaneDead
from huterox_shm.lane import CallerEnd, ContainerEnd, LaneConfig, LaneCounters, create_lane
from huterox_shm.layout import REQUESTS_TOLD
from huterox_shm.ledger import Ledger, create_ledger
from huterox_wire.leases import LaneGranted
from huterox_wire.nodes import ModelSpec

from ..caller import Caller
from ..driver.cuda import Cudart
from .conftest import MODELS

pytestmark = pytest.mark.timeout(60)

MIB = 1 << 20
DECODE = Decoder(control.FromWorker)


class Worker:
    """A loop that serves a model, and the kernel opposite to it, which is the test."""

    def __init__(self, entry: str, spin_us: int = 0) -> None:
        spec = ModelSpec(name="model", entry=entry, source_dir=str(MODELS))
        self.model = runtimes.RUNTIMES[spec.runtime](spec, lambda stage: None)
        self.sock, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(10.0)
        descriptors = create_lane(LaneConfig(128, 4 * MIB, 4 * MIB), 1)
        self.callers: dict[int, Caller] = {}
        self.kernel = self._caller(descriptors)
        ledger = create_ledger(16)
        self.ledger = Ledger.attach(os.dup(ledger))
        end = ContainerEnd.attach(descriptors)
        self.loop = Loop(self._theirs, end, Ledger.attach(ledger), self.model, Expected({}), spin_us)
        self.code: int | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self.code = self.loop.run()

    def _caller(self, descriptors: Any) -> Caller:
        ours, theirs = socket.socketpair()
        theirs.close()
        return Caller(LaneGranted(0, 0), ours, CallerEnd.attach(descriptors.duplicate()))

    def add(self, lane: int, half_mb: int = 4) -> Caller:
        descriptors = create_lane(LaneConfig(128, half_mb * MIB, half_mb * MIB), lane)
        caller = self.callers[lane] = self._caller(descriptors)
        control.send(self.sock, AddLane(lane, lane, f"acme/{lane}"), list(descriptors))
        descriptors.close()
        return caller

    def order(self, message: Any) -> None:
        control.send(self.sock, message)

    def said(self) -> Any:
        received = control.receive(self.sock, DECODE)
        assert received is not None
        return received[0]

    def ended(self) -> int:
        """The loop's result."""
        self._thread.join(20.0)
        assert self.code is not None
        return self.code

    def close(self) -> None:
        if self._thread.is_alive():
            self.kernel.end.mark_dead()
            self._thread.join(20.0)
        for caller in (self.kernel, *self.callers.values()):
            caller.close()
        for lane in list(self.loop._lanes.values()):
            self.loop._drop(lane)
        self.loop._kernel.calls.close()
        self.loop._epoll.close()
        self.sock.close()
        self._theirs.close()


@pytest.fixture
def worker() -> Iterator[Callable[..., Worker]]:
    made: list[Worker] = []

    def make(entry: str = "plain.py:Slow", spin_us: int = 0) -> Worker:
        made.append(Worker(entry, spin_us))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_lanes_come_and_are_dropped_when_ordered(worker: Callable[..., Worker]) -> None:
    one = worker()
    first, second = one.add(1), one.add(2)
    for caller in (first, second, one.kernel):
        assert caller.result(seconds=0.0) == {"result": 0.0}
    one.order(DropLane(1))
    assert one.said() == LaneDropped(1)
    assert second.result(seconds=0.0) == {"result": 0.0}
    counts = one.ledger.read(1)
    assert (counts.calls_taken, counts.calls_done, counts.errors) == (1, 1, 0)
    assert one.kernel.end.counters().calls_done == 1
    assert second.end.counters() == LaneCounters(0, 0, 0, 0, 0)  # what a caller could forge


def test_an_order_for_a_lane_that_is_not_there_any_more_means_nothing(worker: Callable[..., Worker]) -> None:
    one = worker()
    one.order(DropLane(99))
    assert one.add(1).result(seconds=0.0) == {"result": 0.0}


def test_a_lane_that_is_no_lane_is_refused_and_let_go(worker: Callable[..., Worker]) -> None:
    one = worker()
    control.send(one.sock, AddLane(5, 5, "acme/x"), [one.sock.fileno()] * 3)
    broken = one.said()
    assert isinstance(broken, LaneBroken)
    assert "not an eventfd" in broken.reason
    assert one.said() == LaneDropped(5)
    control.send(one.sock, AddLane(6, 6, "acme/x"))
    assert isinstance(one.said(), LaneBroken)
    assert one.said() == LaneDropped(6)
    assert one.kernel.result(seconds=0.0) == {"result": 0.0}


def test_a_lane_that_its_caller_ended_is_let_go_without_a_word(worker: Callable[..., Worker]) -> None:
    one = worker()
    caller = one.add(1)
    caller.result(seconds=0.0)
    caller.end.mark_dead()
    assert one.said() == LaneDropped(1)


def test_nonsense_of_one_caller_ends_its_lane_alone(worker: Callable[..., Worker]) -> None:
    one = worker()
    good, liar = one.add(1), one.add(2)
    liar.end._ring_peer(77)
    broken = one.said()
    assert isinstance(broken, LaneBroken)
    assert broken.lane == 2
    assert one.said() == LaneDropped(2)
    assert good.result(seconds=0.0) == {"result": 0.0}


def test_a_bug_of_ours_in_one_lane_does_not_reach_the_others(
    worker: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    one = worker()
    good, bad = one.add(1), one.add(2)
    good.result(seconds=0.0)
    bad.result(seconds=0.0)

    def fails(calls_max: int) -> bool:
        raise KeyError("we forgot this")

    one.loop._lanes[2].calls.step = fails  # type: ignore[method-assign]
    bad.send(seconds=0.0)
    assert one.said() == LaneBroken(2, "'we forgot this'")
    assert one.said() == LaneDropped(2)
    assert good.result(seconds=0.0) == {"result": 0.0}
    assert "we forgot this" in capfd.readouterr().err


def test_the_end_of_the_kernels_lane_is_the_end_of_the_worker(worker: Callable[..., Worker]) -> None:
    one = worker()
    one.add(1).result(seconds=0.0)
    one.kernel.end.mark_dead()
    assert one.ended() == 1


def test_a_lane_full_of_calls_leaves_turns_to_others_and_to_orders(worker: Callable[..., Worker]) -> None:
    one = worker()
    greedy, modest = one.add(1), one.add(2)
    for _ in range(60):
        greedy.send(seconds=0.1)
    greedy.until(lambda: greedy.end.begun >= 1)
    assert modest.result(seconds=0.0) == {"result": 0.0}
    assert one.kernel.result(seconds=0.0) == {"result": 0.0}
    assert greedy.end.begun < 30
    one.order(DropLane(1))
    assert one.said() == LaneDropped(1)
    assert greedy.end.begun < 50
    counts = one.ledger.read(1)
    assert counts.calls_done < counts.calls_taken <= 60  # what was still in the ring is not taken


def test_lanes_take_turns(worker: Callable[..., Worker]) -> None:
    one = worker()
    callers = [one.add(number) for number in range(1, 6)]
    with_calls = [(caller, [caller.send(seconds=0.01) for _ in range(20)]) for caller in callers]
    first, last = with_calls[0][0], with_calls[-1][0]
    first.until(lambda: first.end.begun >= 15)
    assert abs(first.end.begun - last.end.begun) <= 12
    for caller, sent in with_calls:
        assert caller.answer(sent[-1]) == {"result": 0.01}


def test_a_drain_works_off_what_is_there_and_lets_go(worker: Callable[..., Worker]) -> None:
    one = worker()
    idle, busy = one.add(1), one.add(2)
    idle.result(seconds=0.0)
    sent = [busy.send(seconds=0.05) for _ in range(5)]
    busy.until(lambda: busy.end.begun >= 1)
    one.order(DrainLanes())
    assert one.said() == LaneDropped(1)
    assert one.said() == LaneDropped(2)
    busy.take()
    assert [busy.answers[call_id][-1][1] for call_id in sent] == [{"result": 0.05}] * 5
    assert one.kernel.result(seconds=0.0) == {"result": 0.0}
    later = one.add(3)
    assert later.result(seconds=0.0) == {"result": 0.0}


def test_calls_published_after_the_drain_are_not_begun(worker: Callable[..., Worker]) -> None:
    one = worker()
    caller = one.add(1)
    for _ in range(3):
        caller.send(seconds=0.2)
    caller.until(lambda: caller.end.begun >= 1)
    one.order(DrainLanes())
    caller.until(lambda: caller.end.begun >= 2)  # by now the order has been seen
    late = [caller.send(seconds=0.0) for _ in range(3)]
    assert one.said() == LaneDropped(1)
    caller.end.mark_dead()
    with pytest.raises(LaneDead):
        caller.until(lambda: False)
    assert list(caller.end.calls) == late
    assert caller.end.begun == 3


def test_a_caller_without_room_for_answers_puts_a_drain_off_for_a_bounded_time(
    worker: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "DRAIN_ROOM_S", 0.3)
    one = worker("plain.py:Echo")
    hoarder, other = one.add(1, half_mb=1), one.add(2)
    for _ in range(10):
        hoarder.send("zeros", nbytes=400_000)
    assert other.result("plus", x=np.zeros(1))["result"].tolist() == [1.0]
    one.order(DrainLanes())
    assert one.said() == LaneDropped(2)
    broken = one.said()
    assert isinstance(broken, LaneBroken)
    assert "made no room" in broken.reason
    assert one.said() == LaneDropped(1)


def test_a_caller_that_makes_room_gets_all_its_answers_before_the_drain_ends(
    worker: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "DRAIN_ROOM_S", 5.0)
    one = worker("plain.py:Echo")
    caller = one.add(1, half_mb=1)
    sent = [caller.send("zeros", nbytes=400_000) for _ in range(10)]
    one.order(DrainLanes())
    for call_id in sent:
        assert len(caller.answer(call_id)["result"]) == 400_000
        caller.end.flush_releases()
    assert one.said() == LaneDropped(1)


def test_an_answer_that_waits_for_room_holds_up_no_other_lane(worker: Callable[..., Worker]) -> None:
    one = worker("plain.py:Echo")
    hoarder, other = one.add(1, half_mb=1), one.add(2)
    sent = [hoarder.send("zeros", nbytes=400_000) for _ in range(6)]
    for _ in range(20):
        assert other.result("plus", x=np.zeros(1))["result"].tolist() == [1.0]
    for call_id in sent:
        assert len(hoarder.answer(call_id)["result"]) == 400_000
        hoarder.end.flush_releases()


def test_close_ends_the_loop_once_all_lanes_are_worked_off(worker: Callable[..., Worker]) -> None:
    one = worker()
    callers = [one.add(number) for number in (1, 2, 3)]
    sent = [(caller, caller.send(seconds=0.02)) for caller in (one.kernel, *callers) for _ in range(4)]
    callers[0].until(lambda: callers[0].end.begun >= 1)
    one.order(Close())
    for caller, call_id in sent:
        assert caller.answer(call_id) == {"result": 0.02}
    assert {one.said().lane for _ in callers} == {1, 2, 3}
    assert one.ended() == 0


def test_the_kernels_end_is_an_order_to_close(worker: Callable[..., Worker]) -> None:
    one = worker()
    call_id = one.kernel.send(seconds=0.1)
    one.kernel.until(lambda: one.kernel.end.begun == 1)
    one.add(1)
    one.sock.close()
    assert one.kernel.answer(call_id) == {"result": 0.1}
    assert one.ended() == 0


def test_an_idle_lane_gives_its_memory_back_while_another_works(
    worker: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "IDLE_S", 0.2)
    one = worker("plain.py:Echo")
    idle, busy = one.add(1), one.add(2)
    idle.result("zeros", nbytes=2_000_000)
    idle.end.flush_releases()
    reserved = one.loop._lanes[1].calls.lane.slab_stats
    assert reserved().reserved_nbytes >= 2_000_000
    end_s = time.monotonic() + 10.0
    while reserved().reserved_nbytes and time.monotonic() < end_s:
        busy.result("plus", x=np.zeros(1))
    assert reserved().reserved_nbytes == 0


def test_an_input_that_the_model_lets_go_later_is_told_to_its_caller(worker: Callable[..., Worker]) -> None:
    one = worker("plain.py:Echo")
    keeper, other = one.add(1), one.add(2)
    keeper.result("keep", x=np.ones(1000))
    assert keeper.end.slab_stats().out_count == 1
    other.result("forget")

    def is_free() -> bool:
        return keeper.end.slab_stats().out_count == 0

    keeper.until(is_free, timeout_s=5.0)


def test_callers_lanes_are_pinned_while_they_are_served(worker: Callable[..., Worker]) -> None:
    one = worker()
    cudart = Cudart()
    one.loop._pinned = Pinned(cudart)
    for number in (1, 2):
        one.add(number).result(seconds=0.0)
    assert len(cudart.registered) == 2
    one.order(DropLane(1))
    assert one.said() == LaneDropped(1)
    assert len(cudart.registered) == 1
    one.order(DrainLanes())
    assert one.said() == LaneDropped(2)
    assert not cudart.registered


def test_a_worker_with_idle_lanes_sleeps(worker: Callable[..., Worker]) -> None:
    one = worker()
    for number in range(1, 10):
        one.add(number).result(seconds=0.0)
    looks: list[float] = []
    real = one.loop._look
    one.loop._look = lambda timeout_s: (looks.append(timeout_s), real(timeout_s))[1]  # type: ignore[method-assign, func-returns-value]
    one.kernel.result(seconds=0.0)
    time.sleep(0.5)
    assert len(looks) < 10


def test_a_worker_that_looks_for_calls_serves_more_lanes_than_it_looks_at(
    worker: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})
    one = worker(spin_us=50)
    callers = [one.add(number) for number in range(1, 2 * loop.HOT_MAX + 2)]
    for caller in callers:
        caller.result(seconds=0.0)
    assert len(one.loop._hot) == loop.HOT_MAX
    for _ in range(50):
        sent = [(caller, caller.send(seconds=0.0)) for caller in callers]
        for caller, call_id in sent:
            assert caller.answer(call_id) == {"result": 0.0}
    one.order(DropLane(2 * loop.HOT_MAX + 1))
    assert one.said() == LaneDropped(2 * loop.HOT_MAX + 1)
    assert {*one.loop._hot} <= {lane.calls.lane for lane in one.loop._by_descriptor.values()}


def test_a_caller_whose_hint_lies_without_end_holds_up_nobody(
    worker: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})
    one = worker(spin_us=50)
    liar, honest = one.add(1), one.add(2)
    stop = threading.Event()

    def lie() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            liar.end.header[REQUESTS_TOLD] = number
            time.sleep(0)

    liar.result(seconds=0.0)
    thread = threading.Thread(target=lie)
    thread.start()
    try:
        for _ in range(200):
            honest.result(seconds=0.0)
        one.order(DropLane(2))
        assert one.said() == LaneDropped(2)
        assert liar.result(seconds=0.0) == {"result": 0.0}
    finally:
        stop.set()
        thread.join(10.0)
