"""Whoever dies or lies, lanes end on all sides, nothing is left behind, and others go on."""

import os
import random
import select
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from tests.rounds import seeds

from huterox_shm.errors import LaneDead
from huterox_shm.lane import DEAD
from huterox_shm.layout import STATE
from huterox_wire.errors import Unavailable

from .caller import Caller, connect, fetch
from .conftest import SERVICE, Switchboard, descendants, gone
from .test_kernel_lanes import counts_of, ended

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

A, B = 1 << 32 | 1, 1 << 32 | 2


def works(caller: Caller) -> bool:
    return bool(caller.result(seconds=0.0) == {"result": 0.0})


# Callers.


def test_a_caller_that_is_killed_loses_its_lane_within_a_second(switchboard: Switchboard) -> None:
    process = switchboard.start()
    ready = switchboard.created(A, "plain.py:Slow")
    works(switchboard.caller(A))
    watched = [psutil.Process(process.pid), psutil.Process(ready.pid)]
    before = [process.num_fds() for process in watched]
    callers = [switchboard.caller_process(A, "hold") for _ in range(3)]
    assert switchboard.heartbeat_of(A, lambda r: r.lanes == 4)
    assert all(process.num_fds() > count for process, count in zip(watched, before, strict=True))
    for caller in callers:
        caller.kill()
    switchboard.heartbeat_of(A, lambda r: r.lanes == 1, timeout_s=1.0)
    switchboard.until(lambda: [process.num_fds() for process in watched] == before, timeout_s=2.0)
    assert not [event for event in switchboard.events if event.what == "lane_broken"]


def test_a_caller_that_is_killed_in_a_call_leaves_the_worker_to_the_others(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A, "plain.py:Slow")
    other = switchboard.caller(A)
    caller = switchboard.caller_process(A, "work", seconds=1.0)
    caller.kill()
    switchboard.heartbeat_of(A, lambda r: r.lanes == 1, timeout_s=1.0)
    assert works(other)
    report = switchboard.heartbeat_of(A, lambda r: r.lane_calls == 0)
    assert (report.state, report.errors) == ("ready", 0)
    assert not [event for event in switchboard.events if event.what in ("gone", "lane_broken")]


def test_a_drain_does_not_wait_for_a_caller_that_is_killed(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A, "plain.py:Slow")
    caller = switchboard.caller_process(A, "flood", seconds=0.05)
    switchboard.heartbeat_of(A, lambda r: r.requests > 0)
    caller.kill()
    switchboard.tell_drain(A)
    switchboard.event(A, "drained", timeout_s=3.0)


def test_a_caller_that_is_stopped_holds_nobody_up(switchboard: Switchboard) -> None:
    """It reads no answers and releases nothing: its lane fills, and others are served."""
    switchboard.start()
    switchboard.created(A, "plain.py:Slow")
    caller = switchboard.caller_process(A, "flood")
    os.kill(caller.pid, signal.SIGSTOP)
    other = switchboard.caller(A)
    assert all(works(other) for _ in range(100))
    switchboard.tell_drain(A)
    switchboard.event(A, "drained", timeout_s=10.0)


@pytest.fixture
def flooded(switchboard: Switchboard) -> Iterator[Caller]:
    """A caller that ignores that its lane drains, and publishes on."""
    switchboard.start()
    switchboard.created(A, "plain.py:Slow")
    caller = switchboard.caller(A)
    stop = threading.Event()

    def publish() -> None:
        while not stop.is_set():
            try:
                if len(caller.end.calls) < 50:
                    caller.send(seconds=0.01, anyway=True)
                caller.take()
            except LaneDead:
                return

    thread = threading.Thread(target=publish)
    thread.start()
    yield caller
    stop.set()
    thread.join()


def test_a_caller_that_publishes_on_cannot_put_a_drain_off(switchboard: Switchboard, flooded: Caller) -> None:
    switchboard.heartbeat_of(A, lambda r: r.requests > 5)
    switchboard.tell_drain(A)
    switchboard.event(A, "drained", timeout_s=3.0)


def test_a_caller_that_releases_nothing_cannot_put_a_drain_off_for_long(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A, "plain.py:Slow")
    switchboard.created(B)
    other, hoarder = switchboard.caller(B), switchboard.caller(B, half_mb=1)
    for _ in range(8):
        hoarder.send("zeros", nbytes=400_000)
    switchboard.heartbeat_of(B, lambda r: r.lane_calls > 0 and r.requests > 0)
    assert other.result("plus", x=np.zeros(1))["result"].tolist() == [1.0]
    switchboard.tell_drain(B)
    assert "made no room for answers" in switchboard.event(B, "lane_broken", timeout_s=15.0).reason
    switchboard.event(B, "drained")
    assert works(switchboard.caller(A))


# Nonsense.


def nonsense_in_the_ring(caller: Caller) -> None:
    end = caller.end
    memory = end._memory.buffer
    memory[end.layout.request_ring : end.layout.reply_ring] = b"\x09" * (
        end.layout.reply_ring - end.layout.request_ring
    )
    end._ring_peer(1)


def a_count_beyond_the_ring(caller: Caller) -> None:
    caller.end._ring_peer(1 << 20)


def a_state_that_is_none(caller: Caller) -> None:
    caller.end._words[STATE] = 77
    caller.end._peer_bell.wake()


@pytest.mark.parametrize("damage", [nonsense_in_the_ring, a_count_beyond_the_ring])
def test_a_caller_that_writes_nonsense_loses_its_lane_and_others_go_on(
    switchboard: Switchboard, damage: object
) -> None:
    switchboard.start()
    switchboard.created(A, "plain.py:Slow")
    other, liar = switchboard.caller(A), switchboard.caller(A)
    assert works(liar)
    damage(liar)  # type: ignore[operator]
    broken = switchboard.event(A, "lane_broken", timeout_s=2.0)
    assert broken.reason.startswith(f"acme/service-{SERVICE}: ")
    assert ended(liar)
    assert works(other)
    report = switchboard.heartbeat_of(A, lambda r: r.lanes == 1)
    assert counts_of(report) == {SERVICE: (2, 0)}
    assert switchboard.answer(switchboard.call(A, seconds=0.0)).values == {"result": 0.0}


def test_a_caller_that_ends_its_lane_itself_is_no_event(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A, "plain.py:Slow")
    other, odd = switchboard.caller(A), switchboard.caller(A)
    a_state_that_is_none(odd)
    switchboard.heartbeat_of(A, lambda r: r.lanes == 1, timeout_s=2.0)
    assert odd.has_ended(2.0)
    assert works(other)
    assert not [event for event in switchboard.events if event.what == "lane_broken"]


# Workers.


def test_lanes_of_a_worker_that_is_killed_are_dead_within_a_second(switchboard: Switchboard) -> None:
    switchboard.start()
    ready = switchboard.created(A, "plain.py:Slow")
    idle, busy = switchboard.caller(A), switchboard.caller(A)
    works(idle)
    running, queued = busy.send(seconds=60.0), busy.send(seconds=60.0)
    busy.until(lambda: busy.end.begun == running)
    os.kill(ready.pid, signal.SIGKILL)
    for caller in (idle, busy):
        with pytest.raises(LaneDead):
            caller.until(lambda: False, timeout_s=1.0)
        assert caller.has_ended(1.0)
    assert list(busy.end.calls) == [running, queued]
    assert busy.end.begun == running
    event = switchboard.event(A, "gone", timeout_s=1.0)
    assert (event.cause, event.reason, event.requests) == ("crashed", "killed by SIGKILL", 1)
    assert [(usage.service, usage.calls) for usage in event.lane_usage] == [(SERVICE, 1)]
    with pytest.raises(Unavailable):
        switchboard.lease(A)


def test_the_kernel_gives_everything_back_when_workers_with_lanes_die(switchboard: Switchboard) -> None:
    process = switchboard.start()
    kernel = psutil.Process(process.pid)
    before = kernel.num_fds()
    for number in range(1, 6):
        container = 1 << 32 | number
        ready = switchboard.created(container, "plain.py:Slow")
        callers = [switchboard.caller(container) for _ in range(10)]
        assert all(works(caller) for caller in callers)
        os.kill(ready.pid, signal.SIGKILL)
        assert all(ended(caller) for caller in callers)
    switchboard.until(lambda: kernel.num_fds() <= before)
    assert "huterox-lane" not in Path(f"/proc/{process.pid}/maps").read_text()


def test_a_worker_that_is_stuck_in_a_call_gets_its_orders_later(switchboard: Switchboard) -> None:
    """Its control socket takes ten packets; lanes come and go meanwhile, and none of that is lost."""
    process = switchboard.start()
    ready = switchboard.created(A, "plain.py:Slow")
    kernel = psutil.Process(process.pid)
    caller = switchboard.caller(A)
    long = caller.send(seconds=2.0)
    caller.until(lambda: caller.end.begun == 1)
    before = kernel.num_fds(), psutil.Process(ready.pid).num_fds()
    others = [switchboard.caller(A) for _ in range(60)]
    sent = [other.send(seconds=0.0) for other in others[:30]]
    for other in others[30:]:
        other.close()
    assert switchboard.heartbeat_of(A, lambda r: r.lanes == 31)
    assert caller.answer(long) == {"result": 2.0}
    for other, call_id in zip(others, sent, strict=False):
        assert other.answer(call_id) == {"result": 0.0}
        other.close()
    switchboard.heartbeat_of(A, lambda r: r.lanes == 1 and r.requests == 31)
    switchboard.until(lambda: (kernel.num_fds(), psutil.Process(ready.pid).num_fds()) == before)


# Kernels.


def test_callers_of_a_kernel_that_is_killed_hear_of_it_at_once(switchboard: Switchboard) -> None:
    process = switchboard.start()
    switchboard.created(A, "plain.py:Slow")
    caller = switchboard.caller(A)
    caller.send(seconds=60.0)
    left = [psutil.Process(process.pid), *descendants(process.pid)]
    process.kill()
    assert caller.has_ended(1.0)
    process.wait()
    assert gone(left)
    assert caller.end.begun == 1  # still to be read


def test_a_kernel_that_was_killed_is_followed_by_one_that_grants_lanes(switchboard: Switchboard) -> None:
    process = switchboard.start()
    switchboard.created(A, "plain.py:Slow")
    path = switchboard.lease(A).path
    process.kill()
    process.wait()
    with pytest.raises(ConnectionRefusedError):
        connect(path)
    switchboard.registrations.clear()
    switchboard.events.clear()
    switchboard.start()
    switchboard.created(A, "plain.py:Slow")
    assert works(switchboard.caller(A))


def test_a_kernel_that_ends_leaves_dead_lanes_and_no_socket(switchboard: Switchboard) -> None:
    process = switchboard.start()
    switchboard.created(A, "plain.py:Slow")
    idle, busy = switchboard.caller(A), switchboard.caller(A)
    path = switchboard.lease(A).path
    call = busy.send(seconds=0.3)
    busy.until(lambda: busy.end.begun == 1)
    process.terminate()
    assert busy.answer(call) == {"result": 0.3}
    assert ended(busy)
    assert ended(idle)
    assert process.wait(10.0) == 0
    with pytest.raises(FileNotFoundError):
        connect(path)


# Load and numbers.


def test_orders_reach_a_worker_whose_lanes_are_never_empty(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A)
    flood = switchboard.caller(A)
    stop = threading.Event()

    def publish() -> None:
        while not stop.is_set():
            if len(flood.end.calls) < 64:
                flood.send("plus", x=np.zeros(1))
            flood.take()

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        for _ in range(5):
            with switchboard.caller(A) as caller:
                assert caller.result("plus", x=np.zeros(1))["result"].tolist() == [1.0]
        assert switchboard.result(A, "plus", x=np.zeros(1))["result"].tolist() == [1.0]
        assert switchboard.heartbeat_of(A, lambda r: r.lanes == 1)
    finally:
        stop.set()
        thread.join()


def test_two_hundred_lanes_of_one_kernel(switchboard: Switchboard) -> None:
    """All are served; a lane costs few descriptors and little memory; all of it comes back."""
    process = switchboard.start()
    containers = [A, B]
    pids = [switchboard.created(container, "plain.py:Slow").pid for container in containers]
    for container in containers:
        with switchboard.caller(container) as caller:
            works(caller)
    switchboard.heartbeat_of(B, lambda r: r.lanes == 0)
    watched = [psutil.Process(pid) for pid in (process.pid, *pids)]
    before = [(process.num_fds(), process.memory_info().rss) for process in watched]
    callers = [switchboard.caller(containers[index % 2]) for index in range(200)]
    sent = [(caller, caller.send(seconds=0.0)) for caller in callers for _ in range(5)]
    for caller, call_id in sent:
        assert caller.answer(call_id) == {"result": 0.0}
    during = [(process.num_fds(), process.memory_info().rss) for process in watched]
    assert during[0][0] - before[0][0] <= 4 * 200
    assert all(now[0] - then[0] <= 4 * 100 for now, then in zip(during[1:], before[1:], strict=True))
    assert during[0][1] - before[0][1] < 200 * 64 * 1024
    assert all(now[1] - then[1] < 100 * 1024 * 1024 for now, then in zip(during[1:], before[1:], strict=True))
    for container in containers:
        assert switchboard.heartbeat_of(container, lambda r: r.lanes == 100 and r.requests == 501)
    for caller in callers:
        caller.close()
    for container in containers:
        assert switchboard.heartbeat_of(container, lambda r: r.lanes == 0 and r.requests == 501)
    switchboard.until(lambda: [p.num_fds() for p in watched] == [count for count, _ in before])


def test_a_worker_without_descriptors_says_so_and_serves_on(switchboard: Switchboard) -> None:
    switchboard.start()
    ready = switchboard.created(A, "plain.py:Slow")
    first = switchboard.caller(A)
    assert works(first)
    worker = psutil.Process(ready.pid)
    used = {int(path.name) for path in Path(f"/proc/{ready.pid}/fd").iterdir()}
    two_are_free = next(limit for limit in range(4096) if limit - sum(number < limit for number in used) == 2)
    worker.rlimit(psutil.RLIMIT_NOFILE, (two_are_free, 4096))
    second = switchboard.caller(A)
    assert ended(second)
    assert switchboard.event(A, "lane_broken")
    assert works(first)
    worker.rlimit(psutil.RLIMIT_NOFILE, (4096, 4096))
    assert works(switchboard.caller(A))
    assert switchboard.heartbeat_of(A, lambda r: r.lanes == 2)


def test_a_kernel_without_descriptors_refuses_lanes_and_serves_on(switchboard: Switchboard) -> None:
    process = switchboard.start()
    switchboard.created(A, "plain.py:Slow")
    first = switchboard.caller(A)
    path = switchboard.lease(A).path
    kernel = psutil.Process(process.pid)
    leased = [switchboard.lease(A) for _ in range(2)]
    kernel.rlimit(psutil.RLIMIT_NOFILE, (kernel.num_fds() + 3, 4096))
    assert leased[0].path == path
    with connect(path) as sock:
        sock.send(b"\xc1")
        assert sock.recv(1 << 16)[:1] == b"-"
    with pytest.raises(Unavailable, match="no lane can be made"):
        fetch(leased[0])
    waiting = [connect(path) for _ in range(10)]  # more than can be accepted: they wait in the queue
    assert works(first)
    assert switchboard.answer(switchboard.call(A, seconds=0.0)).values == {"result": 0.0}
    for sock in waiting:
        sock.close()
    kernel.rlimit(psutil.RLIMIT_NOFILE, (4096, 4096))
    assert works(switchboard.caller(A))


def test_the_limit_of_descriptors_is_raised(switchboard: Switchboard) -> None:
    process = switchboard.start()
    ready = switchboard.created(A)
    for pid in (process.pid, ready.pid):
        soft, hard = psutil.Process(pid).rlimit(psutil.RLIMIT_NOFILE)
        assert soft == min(hard, 65536)


def test_doorbells_are_silent_once_a_lane_is_over(switchboard: Switchboard) -> None:
    """A caller that rings on after its lane has gone wakes nobody."""
    switchboard.start()
    ready = switchboard.created(A, "plain.py:Slow")
    with switchboard.caller(A) as other:
        assert works(other)
    caller = switchboard.caller(A)
    ring = caller.end._ring_peer
    switchboard.tell_drain(A)
    switchboard.event(A, "drained")
    worker = psutil.Process(ready.pid)
    ring(1)
    before = sum(worker.cpu_times()[:2])
    time.sleep(0.5)
    assert sum(worker.cpu_times()[:2]) - before < 0.2
    assert caller.end.state == DEAD
    assert not select.select([caller.sock], [], [], 0)[0] or caller.has_ended(0.1)


@pytest.mark.parametrize("seed", seeds(1, 50))
def test_whatever_callers_do_the_sums_are_right_and_nothing_is_left(switchboard: Switchboard, seed: int) -> None:
    chance = random.Random(seed)
    process = switchboard.start()
    ready = switchboard.created(A, "plain.py:Slow")
    with switchboard.caller(A) as first:
        works(first)
    switchboard.heartbeat_of(A, lambda r: r.lanes == 0 and r.requests == 1)
    watched = [psutil.Process(process.pid), psutil.Process(ready.pid)]
    before = [process.num_fds() for process in watched]
    callers: list[Caller] = []
    answered, unsure = 1, 0
    for _ in range(200):
        caller = chance.choice(callers) if callers else None
        match chance.randrange(8):
            case 0 | 1 if len(callers) < 12:
                callers.append(switchboard.caller(A, SERVICE + chance.randrange(3), half_mb=1))
            case 2 | 3 | 4 if caller is not None:
                assert works(caller)
                answered += 1
            case 5 if caller is not None:  # goes with calls in its lane
                count = chance.randrange(5)
                for _ in range(count):
                    caller.send(seconds=0.001)
                unsure += count
                callers.remove(caller)
                chance.choice([caller.close, caller.sock.close, caller.end.mark_dead])()
            case 6 if caller is not None:
                callers.remove(caller)
                chance.choice([nonsense_in_the_ring, a_count_beyond_the_ring, a_state_that_is_none])(caller)
            case _:
                switchboard.pump(0.01)
    for caller in callers:
        caller.close()
    report = switchboard.heartbeat_of(A, lambda r: r.lanes == 0 and r.lane_calls == 0)
    assert answered <= report.requests <= answered + unsure
    assert report.requests == sum(usage.calls for usage in report.lane_usage)
    switchboard.until(lambda: [process.num_fds() for process in watched] == before)
    with switchboard.caller(A) as last:
        assert works(last)
    switchboard.tell_close(A)
    assert switchboard.event(A, "gone").requests == report.requests + 1


def lane_maps(pid: int) -> int:
    return Path(f"/proc/{pid}/maps").read_text().count("huterox-lane")


def test_the_memory_of_a_lane_goes_with_it_on_all_sides(switchboard: Switchboard) -> None:
    process = switchboard.start()
    ready = switchboard.created(A)
    worker = psutil.Process(ready.pid)
    before = lane_maps(process.pid), lane_maps(ready.pid)
    for end in ("close", "mark_dead", "drain"):
        caller = switchboard.caller(A)
        assert len(caller.result(x=np.ones(100_000_000, np.uint8))["x"]) == 100_000_000
        assert worker.memory_info().shared > 180 << 20
        if end == "drain":
            switchboard.tell_drain(A)
        else:
            getattr(caller.end if end == "mark_dead" else caller, end)()
        switchboard.until(lambda: (lane_maps(process.pid), lane_maps(ready.pid)) == before)
        switchboard.until(lambda: worker.memory_info().shared < 100 << 20)


def test_an_input_that_a_model_keeps_outlives_its_lane(switchboard: Switchboard) -> None:
    switchboard.start()
    ready = switchboard.created(A)
    before = lane_maps(ready.pid)
    with switchboard.caller(A) as caller:
        assert caller.result("keep", x=np.full(1000, 7.0)) == {"result": 1}
    switchboard.heartbeat_of(A, lambda r: r.lanes == 0 and r.requests == 1)
    assert switchboard.result(A, "forget") == {"result": 7.0}
    switchboard.until(lambda: lane_maps(ready.pid) == before)
