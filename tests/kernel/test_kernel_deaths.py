"""Whoever dies, a real kernel notices, tells, and leaves nothing."""

import os
import signal
import subprocess
import sys

import numpy as np
import psutil
import pytest

from huterox_wire.errors import (
    WorkerLost,
)
from huterox_wire.kinds import Kind

from .conftest import Switchboard, descendants, gone

pytestmark = [pytest.mark.system, pytest.mark.timeout(90)]

A, B = 1 << 32 | 1, 1 << 32 | 2


def test_a_worker_killed_at_work_is_lost_within_a_second(switchboard: Switchboard) -> None:
    switchboard.start()
    ready = switchboard.created(A, "plain.py:Slow")
    done = switchboard.call(A, seconds=0.0)
    running = switchboard.call(A, seconds=60.0)
    queued = switchboard.call(A, seconds=60.0)
    assert switchboard.answer(done).values == {"result": 0.0}
    switchboard.until(lambda: psutil.Process(ready.pid).status() == psutil.STATUS_SLEEPING)
    os.kill(ready.pid, signal.SIGKILL)
    lost = switchboard.answer(running, timeout_s=1.0).error
    assert isinstance(lost, WorkerLost)
    assert lost.details["executed"] == "maybe"
    handed_back = switchboard.answer(queued, timeout_s=1.0)
    assert (handed_back.kind, handed_back.values) == (Kind.CALL, {"seconds": 60.0})
    event = switchboard.event(A, "gone", timeout_s=1.0)
    assert (event.cause, event.reason) == ("crashed", "killed by SIGKILL")
    switchboard.created(B, "plain.py:Slow")
    assert switchboard.result(B, seconds=0.0) == {"result": 0.0}


@pytest.mark.parametrize(("method", "reason"), [("dies", "killed by SIGSEGV"), ("leaves", "exited with code 7")])
def test_a_model_that_ends_its_process_is_reported_with_how(switchboard: Switchboard, method: str, reason: str) -> None:
    switchboard.start()
    switchboard.created(A, "plain.py:Faulty")
    with pytest.raises(WorkerLost, match=reason):
        switchboard.result(A, method)
    event = switchboard.event(A, "gone")
    assert (event.cause, event.reason) == ("crashed", reason)


def test_callers_hear_of_a_loss_after_the_switchboard_does(switchboard: Switchboard) -> None:
    """So that a caller that tries again at once is not sent to the same container."""
    switchboard.start()
    ready = switchboard.created(A, "plain.py:Slow")
    running = switchboard.call(A, seconds=60.0)
    switchboard.heartbeat_of(A, lambda r: r.requests == 1)
    os.kill(ready.pid, signal.SIGKILL)
    switchboard.event(A, "gone")
    assert running not in switchboard.answers
    assert isinstance(switchboard.answer(running, timeout_s=1.0).error, WorkerLost)


def test_a_crash_leaves_its_stack_in_the_log(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A, "plain.py:Faulty")
    switchboard.answer(switchboard.call(A, "dies"))
    switchboard.event(A, "gone")
    assert "in dies" in switchboard.admin("logs", container=A)["text"]


def test_workers_die_with_their_zygote_and_the_next_order_starts_another(switchboard: Switchboard) -> None:
    process = switchboard.start()
    workers = [switchboard.created(container).pid for container in (A, B)]
    (zygote,) = [child for child in descendants(process.pid) if child.name() == "hx:zygote"]
    zygote.kill()
    for container in (A, B):
        event = switchboard.event(container, "gone", timeout_s=2.0)
        assert (event.cause, event.reason) == ("crashed", "killed by SIGKILL")
    assert not any(psutil.pid_exists(pid) for pid in workers)
    switchboard.created(1 << 32 | 3)
    assert switchboard.result(1 << 32 | 3, "plus", x=np.zeros(1))["result"].tolist() == [1.0]


def test_nothing_is_left_when_the_kernel_is_killed(switchboard: Switchboard) -> None:
    process = switchboard.start()
    switchboard.created(A)
    switchboard.created(B, "plain.py:Slow", interpreter=sys.executable)
    switchboard.call(B, seconds=60.0)
    left = descendants(process.pid)
    assert len(left) == 5  # two zygotes, two workers, the undertaker
    process.kill()
    process.wait()
    assert gone(left, timeout_s=5.0)


def test_a_kernel_that_is_told_to_end_closes_its_containers_first(switchboard: Switchboard) -> None:
    process = switchboard.start()
    switchboard.created(A, "plain.py:Slow")
    running = switchboard.call(A, seconds=0.3)  # read before the signal, as B's creation is after it
    switchboard.created(B)
    left = descendants(process.pid)
    process.send_signal(signal.SIGTERM)
    assert switchboard.answer(running).values == {"result": 0.3}
    assert {switchboard.event(container, "gone").cause for container in (A, B)} == {"closed"}
    assert process.wait(10.0) == 0
    assert gone(left, timeout_s=1.0)


def test_a_second_signal_does_not_wait(switchboard: Switchboard) -> None:
    process = switchboard.start(close_grace_s=60.0)
    switchboard.created(A, "plain.py:Slow")
    switchboard.call(A, seconds=60.0)
    switchboard.heartbeat_of(A, lambda r: r.requests == 1)
    process.send_signal(signal.SIGINT)
    switchboard.heartbeat_of(A, lambda r: r.state == "draining")
    process.send_signal(signal.SIGINT)
    assert process.wait(5.0) == 0


def test_what_a_model_started_ends_with_its_worker(switchboard: Switchboard) -> None:
    process = switchboard.start()
    switchboard.created(A, "parent.py:Parent")
    child = psutil.Process(switchboard.result(A)["result"])
    switchboard.tell_close(A)
    switchboard.event(A, "gone")
    assert gone([child], timeout_s=2.0)
    process.terminate()
    assert process.wait(10.0) == 0


def test_a_kernel_dies_with_its_parent_when_it_is_told_to(switchboard: Switchboard) -> None:
    code = "import subprocess, sys; p = subprocess.Popen(sys.argv[1:]); print(p.pid, flush=True); p.wait()"
    path = switchboard.folder / "kernel.toml"
    path.write_text(
        f'switchboard = "{switchboard.endpoint}"\ndir = "{switchboard.folder}/k"\ndie_with_parent = true\n'
        "preload = []\nhost_mb = 1000\n"
    )
    command = [sys.executable, "-c", code, sys.executable, "-m", "huterox_kernel", "--config", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        switchboard.processes.append(parent)
        assert parent.stdout is not None
        kernel = psutil.Process(int(parent.stdout.readline()))
        switchboard.until(lambda: switchboard.registrations)
        switchboard.created(A)
        left = [kernel, *descendants(kernel.pid)]
        parent.kill()
    assert gone(left, timeout_s=5.0)


def test_a_second_kernel_in_the_same_folder_is_refused(switchboard: Switchboard) -> None:
    switchboard.start()
    second = switchboard.start_kernel()
    assert second.wait(10.0) == 2
    assert f"another kernel runs in {switchboard.folder}/kernel" in switchboard.log()
