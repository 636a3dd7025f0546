"""A real kernel: what a model starts ends with its container and counts with it, however it tries to get away."""

import os
import signal
import time
from collections.abc import Callable, Iterator
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


@pytest.fixture
def let_escape(switchboard: Switchboard) -> Iterator[Callable[[int], Callable[[], bool]]]:
    """Has a container's model start what forks again and again; gives what tells whether that is still there.

    Looks at processes can miss it, as each of its own lives for a moment. All that live have a FIFO open.
    """
    path = str(switchboard.folder / "escaped")
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def is_there() -> bool:
        try:
            return os.read(reader, 1) != b""
        except BlockingIOError:
            return True

    def let_escape(container: int) -> Callable[[], bool]:
        switchboard.result(container, "escapes", fifo=path)
        eventually(is_there)
        return is_there

    yield let_escape
    os.close(reader)


def with_daemons(switchboard: Switchboard, container: int, mb: int = 0) -> tuple[int, list[int]]:
    """A container whose model has started what wants to get away: the mark that all wear, and the pids of some."""
    switchboard.created(container, "daemons.py:Daemons")
    pids = [int(switchboard.result(container, method, mb=mb)["result"]) for method in ("session", "daemon")]
    mark = marks.worn_by(pids[0])
    assert mark
    assert marks.worn_by(pids[1]) == marks.worn_by(int(switchboard.result(container)["result"])) == mark
    return mark, pids


def test_what_a_model_has_started_ends_with_its_container(
    switchboard: Switchboard, let_escape: Callable[[int], Callable[[], bool]]
) -> None:
    switchboard.start()
    mark, _ = with_daemons(switchboard, A)
    other, others = with_daemons(switchboard, B)
    is_there = let_escape(A)
    assert other != mark
    switchboard.tell_close(A)
    switchboard.event(A, "gone")
    assert (wearers(mark), is_there()) == ([], False)  # by then, and not some time later
    assert set(others) <= set(wearers(other))
    os.kill(int(switchboard.result(B)["result"]), signal.SIGKILL)
    switchboard.until(lambda: [event for event in switchboard.events if (event.container, event.what) == (B, "gone")])
    assert wearers(other) == []


def test_it_counts_with_its_container(switchboard: Switchboard) -> None:
    switchboard.start(footprint_period_s=0.1)
    with_daemons(switchboard, A, mb=60)
    switchboard.heartbeat_of(A, lambda report: report.host_bytes > 120 * MIB)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_the_kernel_however_that_ends(
    switchboard: Switchboard, how: signal.Signals, let_escape: Callable[[int], Callable[[], bool]]
) -> None:
    kernel = switchboard.start()
    mark, _ = with_daemons(switchboard, A)
    is_there = let_escape(A)
    own = marks.worn_by(kernel.pid)
    assert marks.is_of_kernel(mark, own)
    kernel.send_signal(how)
    kernel.wait(30)
    eventually(lambda: (wearers(mark), wearers(own), is_there()) == ([], [], False))


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize("how", ["closed", "killed"])
def test_pools_that_a_model_leaves_open_end_with_its_container(switchboard: Switchboard, how: str, busy: bool) -> None:
    switchboard.start()
    ready = switchboard.created(A, "pools.py:Pools")
    pids = switchboard.result(A)["result"]
    mark = marks.worn_by(ready.pid)
    assert mark
    assert len(pids) >= 4  # its own, and one at least of each pool of processes
    assert {*pids, ready.pid} <= set(wearers(mark))
    if busy:
        switchboard.result(A, "busy")
    if how == "closed":
        switchboard.tell_close(A, grace_s=0.5 if busy else 60.0)
    else:
        os.kill(ready.pid, signal.SIGKILL)
    gone = switchboard.event(A, "gone")
    assert gone.cause == ("crashed" if how == "killed" else "hung" if busy else "closed")  # idle ones need no grace
    assert wearers(mark) == []
