"""A real kernel ends workers that do not come back, however they hang: all at once, so it takes as long as one does."""

import os
import signal
import time
from typing import Any

import pytest

from huterox_wire.errors import WorkerLost
from huterox_wire.kinds import Kind

from .conftest import Switchboard

pytestmark = [pytest.mark.system, pytest.mark.timeout(90)]

LOOPS, IN_C, STREAMS, BY_LANE, STOPPED, EVICTED, LONG = (1 << 32 | number for number in range(1, 8))
IN_TIME_US = 60_000_000


def test_a_worker_that_does_not_come_back_is_ended_however_it_hangs(switchboard: Switchboard) -> None:
    switchboard.start(hang_grace_s=0.6, drain_grace_s=2.0)
    pids: dict[int, Any] = {}
    for container in (LOOPS, IN_C, STREAMS, BY_LANE, STOPPED, EVICTED, LONG):
        switchboard.created(container, "stuck.py:Stuck")
        pids[container] = switchboard.result(container)["result"]
    soon_us = 200_000
    running = {
        LOOPS: switchboard.call(LOOPS, "loop", budget_us=soon_us),
        IN_C: switchboard.call(IN_C, "in_c", budget_us=soon_us),
        STREAMS: switchboard.call(STREAMS, "parts", stream=True, budget_us=soon_us),
    }
    waiting = [switchboard.call(container, budget_us=IN_TIME_US) for container in (LOOPS, IN_C)]
    lanes = {container: switchboard.caller(container) for container in (BY_LANE, STOPPED, EVICTED, LONG)}
    lanes[BY_LANE].send("loop", deadline_us=time.monotonic_ns() // 1000 + soon_us)
    lanes[EVICTED].send("loop")
    lanes[LONG].send("long", seconds=3.0, deadline_us=time.monotonic_ns() // 1000 + IN_TIME_US)
    for container in (EVICTED, LONG):
        switchboard.heartbeat_of(container, lambda report: report.lane_calls == 1)
    switchboard.tell_drain(EVICTED)
    os.kill(pids[STOPPED], signal.SIGSTOP)
    lanes[STOPPED].send()

    reasons = {}
    for container in (LOOPS, IN_C, STREAMS, BY_LANE, STOPPED, EVICTED):
        gone = switchboard.event(container, "gone")
        assert gone.cause == "hung"
        reasons[container] = gone.reason
    for container in (LOOPS, IN_C, STREAMS, BY_LANE):
        assert reasons[container].startswith("it did not come back from a call whose time was over")
    assert reasons[STOPPED].startswith("calls wait for it, and it has not looked at them")
    assert reasons[EVICTED].startswith("it was told to drain")
    assert all(isinstance(switchboard.answer(request_id).error, WorkerLost) for request_id in running.values())
    assert all(switchboard.answer(request_id).kind is Kind.CALL for request_id in waiting)  # not begun: handed back
    assert lanes[LONG].answer(1) == {"result": 3.0}  # it took longer than any grace, within its time
