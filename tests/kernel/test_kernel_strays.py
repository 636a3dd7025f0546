"""A real kernel: what a model starts ends with its container and counts with it, however it tries to get away."""

import os
import signal
import time
from typing import Any

import psutil
import pytest

from huterox_kernel import marks

from .conftest import Switchboard

pytestmark = [pytest.mark.system, pytest.mark.timeout(90)]

A, B = 1 << 32 | 1, 1 << 32 | 2
MIB = 1024 * 1024


def wearers(mark: int) -> list[int]:
    """All living processes that wear this mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if marks.worn_by(process.pid) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.NoSuchProcess:
            continue
    return found


def eventually(condition: Any, within_s: float = 20.0) -> None:
    until_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until_s, "it did not come to pass"
        time.sleep(0.02)


def with_daemons(switchboard: Switchboard, container: int, mb: int = 0) -> tuple[int, list[int]]:
    """A container whose model has started what wants to get away: the mark that all wear, and the pids of some."""
    switchboard.created(container, "daemons.py:Daemons")
    pids = [int(switchboard.result(container, method, mb=mb)["result"]) for method in ("session", "daemon")]
    mark = marks.worn_by(pids[0])
    assert mark
    assert marks.worn_by(pids[1]) == marks.worn_by(int(switchboard.result(container)["result"])) == mark
    return mark, pids


def test_what_a_model_has_started_ends_with_its_container(switchboard: Switchboard) -> None:
    switchboard.start()
    mark, _ = with_daemons(switchboard, A)
    other, others = with_daemons(switchboard, B)
    switchboard.result(A, "escapes")
    assert other != mark
    switchboard.tell_close(A)
    switchboard.event(A, "gone")
    assert wearers(mark) == []  # by then, and not some time later
    assert set(others) <= set(wearers(other))
    os.kill(int(switchboard.result(B)["result"]), signal.SIGKILL)
    switchboard.until(lambda: [event for event in switchboard.events if (event.container, event.what) == (B, "gone")])
    assert wearers(other) == []


def test_it_counts_with_its_container(switchboard: Switchboard) -> None:
    switchboard.start(footprint_period_s=0.1)
    with_daemons(switchboard, A, mb=60)
    switchboard.heartbeat_of(A, lambda report: report.host_bytes > 120 * MIB)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_the_kernel_however_that_ends(switchboard: Switchboard, how: signal.Signals) -> None:
    kernel = switchboard.start()
    mark, _ = with_daemons(switchboard, A)
    switchboard.result(A, "escapes")
    own = marks.worn_by(kernel.pid)
    assert marks.is_of_kernel(mark, own)
    kernel.send_signal(how)
    kernel.wait(30)
    eventually(lambda: wearers(mark) == wearers(own) == [])
