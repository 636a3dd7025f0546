"""Doorbells that a caller has stuffed and made blocking: who hangs there is freed, and the lane ends."""

import os
from pathlib import Path

import pytest

from .caller import Caller
from .conftest import Switchboard

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

A, B = 1 << 32 | 1, 1 << 32 | 2


def works(caller: Caller) -> bool:
    return bool(caller.result(seconds=0.0) == {"result": 0.0})


def stuff(caller: Caller) -> None:
    """Whoever rings in this lane from now on hangs."""
    for bell in (caller.end._bell, caller.end._peer_bell):
        bell.ring((1 << 64) - 2 - bell_count(bell.fd))
        os.set_blocking(bell.fd, True)


def bell_count(fd: int) -> int:
    return int(Path(f"/proc/self/fdinfo/{fd}").read_text().partition("eventfd-count:")[2].split()[0], 16)


def test_a_worker_that_hangs_in_a_stuffed_doorbell_is_freed(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A, "plain.py:Slow")
    caller, other = switchboard.caller(A), switchboard.caller(A)
    assert works(caller)
    assert works(other)
    go = switchboard.folder / "go"
    caller.send("held", go=str(go))
    caller.until(lambda: caller.end.begun == 2)
    stuff(caller)
    go.touch()
    assert all(works(other) for _ in range(10))
    broken = switchboard.event(A, "lane_broken", timeout_s=5.0)
    assert "stuffed a doorbell" in broken.reason
    switchboard.heartbeat_of(A, lambda r: r.lanes == 1)


def test_a_kernel_that_hangs_in_a_stuffed_doorbell_is_freed(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A, "plain.py:Slow")
    switchboard.created(B, "plain.py:Slow")
    caller, other = switchboard.caller(A), switchboard.caller(B)
    assert works(caller)
    stuff(caller)
    switchboard.tell_drain(A)
    switchboard.event(A, "drained", timeout_s=10.0)
    assert works(other)
    assert switchboard.heartbeat_of(B, lambda r: r.lanes == 1)
