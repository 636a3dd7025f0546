"""A real kernel process, opposite to a switchboard that the test plays."""

import os
import random
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from huterox_wire.errors import (
    Busy,
    Cancelled,
    DeadlineExceeded,
    InvalidInput,
    ModelError,
    NotFound,
    TooLarge,
    WorkerLost,
)
from huterox_wire.header import pack_header
from huterox_wire.kinds import Flag, Kind
from huterox_wire.message import encode
from huterox_wire.meta import encode_meta
from huterox_wire.nodes import InputSpec, RegisteredMeta, Resources

from .conftest import MODELS, Switchboard, descendants, gone, route

pytestmark = [pytest.mark.system, pytest.mark.timeout(90)]

A, B = 1 << 32 | 1, 1 << 32 | 2


# Registering.


def test_a_kernel_registers_and_beats(switchboard: Switchboard) -> None:
    process = switchboard.start(slots=3, host_mb=2048)
    (meta,) = switchboard.registrations
    assert (meta.node, meta.pid, meta.capacity.slots, meta.capacity.host_bytes) == (
        "node-1",
        process.pid,
        3,
        2048 << 20,
    )
    assert switchboard.kernel_identity == f"node-1:{meta.boot}".encode()
    switchboard.until(lambda: len(switchboard.heartbeats) >= 3)
    assert switchboard.heartbeats[-1].host_bytes_free > 0
    assert switchboard.heartbeats[-1].boot == meta.boot


def test_a_kernel_registers_again_when_asked_and_tells_what_runs(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A)
    switchboard.order(Kind.REGISTER, RegisteredMeta(2, 0.1, again=True))
    switchboard.until(lambda: len(switchboard.registrations) == 2)
    (report,) = switchboard.registrations[1].containers
    assert (report.container, report.state, report.model) == (A, "ready", "model")
    assert report.started_s == pytest.approx(time.time(), abs=60)


def test_containers_outlive_a_switchboard_and_are_found_again(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A)
    switchboard.socket.close()
    switchboard.registrations.clear()
    switchboard.bind()
    switchboard.heartbeats.clear()
    switchboard.until(lambda: switchboard.heartbeats)
    switchboard.order(Kind.REGISTER, RegisteredMeta(2, 0.1, again=True))
    switchboard.until(lambda: switchboard.registrations)
    assert [report.container for report in switchboard.registrations[0].containers] == [A]
    assert switchboard.result(A, "plus", x=np.arange(2))["result"].tolist() == [1, 2]


def test_a_kernel_may_be_there_before_its_switchboard(switchboard: Switchboard) -> None:
    switchboard.socket.close()
    switchboard.start_kernel()
    switchboard.bind()
    switchboard.until(lambda: switchboard.registrations)


# Calls.


def test_a_call_is_answered_along_its_route(switchboard: Switchboard) -> None:
    switchboard.start()
    ready = switchboard.created(A)
    assert ready.pid > 0
    assert ready.host_bytes > 1 << 20
    assert set(ready.timings_s) == {"fork", "import", "load", "warmup"}
    answer = switchboard.answer(switchboard.call(A, "plus", x=np.arange(3), by=5))
    assert (answer.kind, answer.handle, answer.values["result"].tolist()) == (Kind.REPLY, 77, [5, 6, 7])
    report = switchboard.heartbeat_of(A, lambda r: r.requests == 1)
    assert (report.state, report.errors, report.pid) == ("ready", 0, ready.pid)
    assert report.busy_us > 0


def test_loading_is_told_before_ready_with_the_same_pid(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A)
    assert [(e.what, e.pid == switchboard.events[0].pid) for e in switchboard.events] == [
        ("loading", True),
        ("ready", True),
    ]


def test_a_tensor_of_100_mb_comes_back_bit_exact_in_split_frames(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A)
    tensor = np.random.default_rng(7).integers(0, 256, 100_000_000, dtype=np.uint8).view(np.float32)
    for _ in range(3):  # through the same lane: blocks come back
        result = switchboard.result(A, x=tensor)["x"]
        assert result.dtype == np.float32
        assert np.array_equal(result.view(np.uint8), tensor.view(np.uint8))


def test_many_calls_of_two_containers_never_mix_their_answers(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A)
    switchboard.created(B, params={"offset": 1000})
    sizes = [1, 300, 70_000]
    sent = {}
    for index in range(120):
        container, caller = (A, B)[index % 2], f"caller-{index % 7}".encode()
        values = np.full(sizes[index % 3], index, np.int32)
        request_id = switchboard.call(container, "plus", caller=caller, x=values)
        sent[request_id] = values + 1 + (1000 if container == B else 0)
    for request_id, expected in sent.items():
        assert np.array_equal(switchboard.answer(request_id).values["result"], expected)
    assert all(len(answers) == 1 for answers in switchboard.answers.values())


def test_a_large_packed_message_is_taken_too(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A)
    meta = b"\x82\xa6method\xa8anything\xa6params\x81\xa1t\xda\xff\xff" + b"x" * 0xFFFF
    frame = pack_header(Kind.CALL, Flag.PACKED, 0, 999, 77, 0, len(meta)) + meta
    switchboard.send(route(A), frame)
    assert switchboard.answer(999).values == {"t": "x" * 0xFFFF}


def test_a_stream_comes_part_by_part(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A, "plain.py:Slow")
    answers = switchboard.parts_and_answer(switchboard.call(A, "blocks", stream=True, parts=5, nbytes=200_000))
    assert [answer.kind for answer in answers] == [Kind.PART] * 5 + [Kind.REPLY]
    assert [int(answer.values["result"][-1]) for answer in answers[:-1]] == [0, 1, 2, 3, 4]


def test_a_stream_longer_than_the_lane_flows(switchboard: Switchboard) -> None:
    switchboard.start(lane_half_mb=4)
    switchboard.created(A, "plain.py:Slow")
    answers = switchboard.parts_and_answer(switchboard.call(A, "blocks", stream=True, parts=50, nbytes=1_000_000))
    assert len(answers) == 51


def test_answers_wait_in_order_for_a_switchboard_that_does_not_read(switchboard: Switchboard) -> None:
    switchboard.start()
    worker = psutil.Process(switchboard.created(A, "plain.py:Slow").pid)
    stream = switchboard.call(A, "count", stream=True, parts=30_000)
    used = -1.0
    while used != (used := sum(worker.cpu_times()[:2])):  # until it has to wait
        time.sleep(0.3)
    answers = switchboard.parts_and_answer(stream)
    assert [answer.values["index"] for answer in answers[:-1]] == list(range(30_000))


def test_an_idle_lane_gives_its_memory_back(switchboard: Switchboard) -> None:
    process = switchboard.start(footprint_period_s=0.2)
    switchboard.created(A)
    switchboard.result(A, x=np.ones(50_000_000, np.uint8))
    kernel = psutil.Process(process.pid)
    assert kernel.memory_info().shared > 90 << 20
    switchboard.until(lambda: kernel.memory_info().shared < 60 << 20)


def test_a_running_stream_and_a_queued_call_are_cancelled(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A, "plain.py:Slow")
    stream = switchboard.call(A, "count", stream=True, parts=100_000, seconds=0.01)
    switchboard.until(lambda: stream in switchboard.answers)
    queued = switchboard.call(A, seconds=60.0)
    switchboard.cancel(A, queued)
    switchboard.cancel(A, stream)
    assert isinstance(switchboard.answer(stream).error, Cancelled)
    assert isinstance(switchboard.answer(queued).error, Cancelled)
    assert switchboard.result(A, seconds=0.0) == {"result": 0.0}


def test_cancelling_what_is_not_there_does_nothing(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A)
    switchboard.cancel(A, 12345)
    switchboard.cancel(B, 12345)
    assert switchboard.result(A, "plus", x=np.zeros(1))["result"].tolist() == [1.0]


def test_a_call_that_comes_too_late_to_the_worker_is_not_run(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A, "plain.py:Slow")
    first = switchboard.call(A, seconds=0.3)
    late = switchboard.call(A, budget_us=50_000, seconds=0.0)
    error = switchboard.answer(late).error
    assert isinstance(error, DeadlineExceeded)
    assert error.details["executed"] == "no"
    assert switchboard.answer(first).values == {"result": 0.3}


def test_errors_of_caller_and_model_come_back_typed(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A, "plain.py:Faulty")
    with pytest.raises(ModelError) as caught:
        switchboard.result(A)
    assert "models/plain.py" in caught.value.details["traceback"]
    with pytest.raises(InvalidInput):
        switchboard.result(A, unknown=1)
    with pytest.raises(NotFound):
        switchboard.result(A, "unknown")
    assert switchboard.heartbeat_of(A, lambda r: r.errors == 3).state == "ready"


def test_a_call_for_a_container_that_is_not_here_is_handed_back_whole(switchboard: Switchboard) -> None:
    switchboard.start()
    for size in (1, 100_000):
        answer = switchboard.answer(switchboard.call(A, x=np.arange(size)))
        assert answer.kind is Kind.CALL
        assert np.array_equal(answer.values["x"], np.arange(size))


def test_a_call_that_can_never_fit_names_the_limit(switchboard: Switchboard) -> None:
    switchboard.start(lane_half_mb=1)
    switchboard.created(A)
    with pytest.raises(TooLarge) as caught:
        switchboard.result(A, x=np.zeros(2 << 20, np.uint8))
    assert caught.value.details["limit"] == 1 << 20
    with pytest.raises(TooLarge):
        switchboard.result(A, "zeros", nbytes=2 << 20)


def test_a_full_lane_is_busy_and_says_when_to_come_back(switchboard: Switchboard) -> None:
    switchboard.start(lane_ring_entries=128)
    switchboard.created(A, "plain.py:Slow")
    sent = [switchboard.call(A, seconds=0.002) for _ in range(200)]
    answers = [switchboard.answer(request_id).values for request_id in sent]
    refused = [answer for answer in answers if isinstance(answer, Busy)]
    assert refused
    assert all(error.details["retry_after_s"] > 0 and error.retryable for error in refused)
    assert all(answer == {"result": 0.002} for answer in answers if not isinstance(answer, Busy))


# Loading.


@pytest.mark.parametrize(
    ("entry", "reason", "traceback"),
    [
        ("broken_import.py:Model", "No module named 'a_module_that_nobody_has'", "import a_module_that_nobody_has"),
        ("plain.py:NoLoad", "RuntimeError: weights are missing", 'raise RuntimeError("weights are missing")'),
        ("plain.py:Absent", "has no class 'Absent'", "LoadError"),
        ("absent.py:Model", "no such file", "LoadError"),
        ("no.such.module:Model", "No module named 'no'", "ModuleNotFoundError"),
    ],
)
def test_a_load_that_fails_is_told_with_its_traceback(
    switchboard: Switchboard, entry: str, reason: str, traceback: str
) -> None:
    switchboard.start()
    switchboard.create(A, entry)
    event = switchboard.event(A, "gone")
    assert event.cause == "load_failed"
    assert reason in event.reason
    assert traceback in event.traceback
    assert traceback in switchboard.admin("logs", container=A)["text"]


def test_a_model_file_with_an_unknown_dtype_is_a_failed_load(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.create(A, inputs={"x": InputSpec(dtype="float31")})
    event = switchboard.event(A, "gone")
    assert event.cause == "load_failed"
    assert "inputs.x: unknown dtype 'float31'" in event.reason


def test_a_load_that_takes_too_long_is_ended(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(B)  # the zygote is warm
    switchboard.create(A, "plain.py:NeverLoads", load_timeout_s=1.5)
    event = switchboard.event(A, "gone")
    assert (event.cause, event.reason) == ("load_timeout", "not ready after 1.5 s, in stage load")


def test_a_container_beyond_the_capacity_is_refused(switchboard: Switchboard) -> None:
    switchboard.start(slots=1)
    switchboard.created(A)
    switchboard.create(B)
    event = switchboard.event(B, "gone")
    assert (event.cause, event.reason) == ("refused", "all 1 slots are taken (1 containers)")


def test_a_model_too_large_for_the_node_is_refused(switchboard: Switchboard) -> None:
    switchboard.start(host_mb=1000)
    switchboard.create(A, resources=Resources(host_mb=2000))
    assert switchboard.event(A, "gone").cause == "refused"


def test_a_model_that_this_kernel_does_not_understand_is_refused(switchboard: Switchboard) -> None:
    switchboard.start()
    import msgspec

    meta = {"epoch": 1, "container": A, "model": {"name": "m", "entry": "x:Y", "runtime": "fortran"}}
    switchboard.send(b"", *encode(Kind.CREATE, 0, 0, 0, msgspec.msgpack.encode(meta)))
    event = switchboard.event(A, "gone")
    assert event.cause == "refused"
    assert "fortran" in event.reason


def test_orders_of_an_old_epoch_are_ignored(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.order(Kind.REGISTER, RegisteredMeta(5, 0.1))
    switchboard.create(A, epoch=4)
    switchboard.created(B, epoch=5)
    switchboard.tell_close(B, epoch=4)
    assert switchboard.result(B, "plus", x=np.zeros(1))["result"].tolist() == [1.0]
    assert {event.container for event in switchboard.events} == {B}


def test_another_interpreter_has_a_zygote_of_its_own(switchboard: Switchboard) -> None:
    process = switchboard.start()
    switchboard.created(A)
    switchboard.created(B, interpreter=sys.executable)
    names = [child.name() for child in descendants(process.pid)]
    assert names.count("hx:zygote") == 2
    assert names.count("hx:model") == 2


@pytest.mark.parametrize(("interpreter", "reason"), [("/no/such/python", "cannot be run"), ("/bin/false", "code 1")])
def test_an_interpreter_that_cannot_serve_is_a_failed_load(
    switchboard: Switchboard, interpreter: str, reason: str
) -> None:
    switchboard.start()
    switchboard.create(A, interpreter=interpreter)
    event = switchboard.event(A, "gone")
    assert event.cause == "load_failed"
    assert interpreter in event.reason
    assert reason in event.reason


def test_a_preloaded_module_that_starts_threads_is_left_to_the_workers(
    switchboard: Switchboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = switchboard.folder / "starts_threads.py"
    module.write_text("import threading, time\nthreading.Thread(target=time.sleep, args=(999,), daemon=True).start()\n")
    monkeypatch.setenv("PYTHONPATH", str(switchboard.folder))
    process = switchboard.start(preload=["numpy", "starts_threads", "no_such_module"])
    switchboard.created(A)
    (zygote,) = [child for child in descendants(process.pid) if child.name() == "hx:zygote"]
    assert zygote.num_threads() == 1
    assert "starts_threads" in switchboard.log()


@pytest.mark.torch
def test_a_zygote_with_torch_has_one_thread_and_its_workers_one_for_torch(switchboard: Switchboard) -> None:
    process = switchboard.start(preload=["numpy", "torch"], torch_threads=1)
    switchboard.created(A, "tensors.py:Tensors")
    (zygote,) = [child for child in descendants(process.pid) if child.name() == "hx:zygote"]
    assert zygote.num_threads() == 1
    assert switchboard.result(A, "threads") == {"result": 1}
    assert switchboard.result(A, x=np.ones(2, np.float32))["y"].tolist() == [2.0, 2.0]


def test_workers_of_one_zygote_draw_different_random_numbers(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A)
    switchboard.created(B)
    assert switchboard.result(A, "random") != switchboard.result(B, "random")


def test_a_worker_is_set_up_as_a_process_of_its_own(switchboard: Switchboard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    monkeypatch.setenv("LISTEN_FDS", "1")
    switchboard.start()
    ready = switchboard.created(A, name="vad")
    worker = psutil.Process(ready.pid)
    assert worker.name() == "hx:vad"
    assert worker.num_threads() == 1
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS"} & set(worker.environ())
    targets = {path.name: str(path.readlink()) for path in Path(f"/proc/{ready.pid}/fd").iterdir()}
    assert targets["0"] == "/dev/null"
    assert targets["1"] == targets["2"] == str(switchboard.folder / "kernel" / "logs" / "c1.1.log")
    assert len(targets) <= 8  # those three, control, memfd, two doorbells, and room for one more
    assert switchboard.result(A, "where") == {"result": str(MODELS)}


# Closing.


def test_close_finishes_what_is_in_the_lane(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A, "plain.py:Slow")
    sent = [switchboard.call(A, seconds=0.05) for _ in range(5)]
    switchboard.tell_close(A)
    for request_id in sent:
        assert switchboard.answer(request_id).values == {"result": 0.05}
    event = switchboard.event(A, "gone")
    assert (event.cause, event.reason) == ("closed", "evicted")
    assert switchboard.answer(switchboard.call(A, seconds=0.0)).kind is Kind.CALL


def test_a_closed_model_is_finalized(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A, "plain.py:Farewell")
    switchboard.tell_close(A)
    assert switchboard.event(A, "gone").reason == "evicted"
    assert switchboard.admin("logs", container=A)["text"] == "from the finalizer\nfrom atexit\n"


def test_close_kills_after_its_grace_and_fails_what_was_not_done(switchboard: Switchboard) -> None:
    switchboard.start()
    ready = switchboard.created(A, "plain.py:Slow")
    running = switchboard.call(A, seconds=60.0)
    queued = switchboard.call(A, seconds=60.0)
    switchboard.tell_close(A, grace_s=0.3)
    event = switchboard.event(A, "gone")
    assert event.cause == "closed"
    assert "killed: it did not end within its grace" in event.reason
    assert switchboard.answer(running).error.details["executed"] == "maybe"
    assert switchboard.answer(queued).kind is Kind.CALL  # handed back: nothing of it has run
    assert not psutil.pid_exists(ready.pid)


def test_close_while_loading_ends_it(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.create(A, "plain.py:NeverLoads")
    switchboard.event(A, "loading")
    switchboard.tell_close(A)
    assert switchboard.event(A, "gone").cause == "closed"


def test_close_of_a_container_that_is_not_here_says_so(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.tell_close(A)
    assert switchboard.event(A, "gone").cause == "closed"


def test_closing_gives_everything_back(switchboard: Switchboard) -> None:
    process = switchboard.start()
    switchboard.created(A)
    switchboard.result(A, x=np.zeros(3_000_000))  # the first large answer starts ZeroMQ's own machinery
    switchboard.tell_close(A)
    switchboard.event(A, "gone")
    kernel = psutil.Process(process.pid)
    before = kernel.num_fds()
    for number in range(10, 20):
        container = 1 << 32 | number
        switchboard.created(container)
        switchboard.result(container, x=np.zeros(3_000_000))
        switchboard.tell_close(container)
        switchboard.event(container, "gone")
    switchboard.until(lambda: kernel.num_fds() <= before)
    assert not [path for path in maps_of(process.pid) if "huterox-lane" in path]


def maps_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/maps").read_text().splitlines()


# Deaths.


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
    assert len(left) == 4
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


# Logs.


def test_what_a_model_prints_can_be_read_and_followed(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A)
    switchboard.result(A, "say", text="hello")
    first = switchboard.admin("logs", container=A, offset=0, limit=1000)
    assert first == {"container": "c1.1", "text": "hello\n", "next_offset": 6}
    switchboard.result(A, "say", text="again")
    assert switchboard.admin("logs", container=A, offset=6)["text"] == "again\n"
    switchboard.tell_close(A)
    switchboard.event(A, "gone")
    assert switchboard.admin("logs", container=A)["text"] == "hello\nagain\n"


def test_a_long_log_is_rotated_and_goes_on(switchboard: Switchboard) -> None:
    switchboard.start(log_mb_max=1, log_check_period_s=0.1)
    switchboard.created(A)
    switchboard.result(A, "say", text="x" * 999, count=1500)
    path = switchboard.folder / "kernel" / "logs" / "c1.1.log"
    switchboard.until(lambda: path.stat().st_size < 1 << 20)
    switchboard.result(A, "say", text="after")
    read = switchboard.admin("logs", container=A, offset=-6)
    assert (read["text"], read["next_offset"]) == ("after\n", 1_500_006)


@pytest.mark.parametrize(
    ("verb", "args", "error"),
    [
        ("logs", {"container": 99}, NotFound),
        ("logs", {}, InvalidInput),
        ("logs", {"container": 1, "limit": 10**9}, InvalidInput),
        ("reboot", {}, InvalidInput),
    ],
)
def test_a_question_that_cannot_be_answered_is_a_typed_error(
    switchboard: Switchboard, verb: str, args: dict[str, Any], error: type[Exception]
) -> None:
    switchboard.start()
    with pytest.raises(error):
        switchboard.admin(verb, **args)


# Garbage.


def test_garbage_from_the_switchboard_does_no_harm(switchboard: Switchboard) -> None:
    process = switchboard.start()
    switchboard.created(A)
    chance = random.Random(11)
    switchboard.request_id = 1000  # those below are the garbage's
    good = encode(Kind.CALL, 5, 0, 0, encode_meta(RegisteredMeta(1, 1.0)))[0]
    for index in range(2000):
        frames = [chance.randbytes(chance.choice((0, 1, 7, 8, 40, 41, 500))) for _ in range(chance.randrange(0, 6))]
        if index % 5 == 0:
            frames = [route(A), chance.randbytes(60)]
        elif index % 5 == 1:
            damaged = bytearray(good)
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
            frames = [chance.choice((b"", route(A), route(B), b"x")), bytes(damaged)]
        elif index % 5 == 2:
            kind = chance.choice(list(Kind))
            body = chance.randbytes(20)
            frames = [chance.choice((b"", route(0))), pack_header(kind, Flag.PACKED, 0, 1, 0, 0, 20) + body]
        switchboard.send(*frames)
    switchboard.send(*[b"x"] * 300)
    assert switchboard.result(A, "plus", x=np.zeros(1))["result"].tolist() == [1.0]
    assert process.poll() is None
    assert switchboard.heartbeat_of(A, lambda r: r.state == "ready")


@pytest.mark.parametrize(
    "frames",
    [
        lambda header: [header, b"\x80", b"too many"],
        lambda header: [header, b"\x80"] + [b""] * 300,
        lambda header: [header[:39] + b"\x01"],
    ],
    ids=["one frame more", "hundreds of frames", "reserved bits"],
)
def test_a_call_whose_frames_make_no_message_is_refused_to_its_caller(switchboard: Switchboard, frames: Any) -> None:
    switchboard.start()
    switchboard.created(A)
    switchboard.send(route(A), *frames(pack_header(Kind.CALL, 0, 0, 4711, meta_nbytes=1)))
    assert isinstance(switchboard.answer(4711).error, InvalidInput)


def test_a_worker_that_writes_nonsense_into_its_lane_is_ended(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A, "hostile.py:Hostile")
    switchboard.created(B)
    with pytest.raises(WorkerLost):
        switchboard.result(A)
    event = switchboard.event(A, "gone")
    assert event.cause == "crashed"
    assert "lane" in event.reason
    assert switchboard.result(B, "plus", x=np.zeros(1))["result"].tolist() == [1.0]


def test_a_caller_with_an_identity_of_any_bytes_gets_its_answer(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A)
    caller = struct.pack("<Q", 2**64 - 1) * 8
    assert switchboard.answer(switchboard.call(A, "plus", caller=caller, x=np.zeros(1))).kind is Kind.REPLY
