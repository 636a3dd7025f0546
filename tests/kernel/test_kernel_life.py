"""A real kernel: registering, loading and closing containers, their logs."""

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from huterox_wire.errors import (
    HuteroxError,
    InvalidInput,
    NotFound,
)
from huterox_wire.kinds import Kind
from huterox_wire.leases import DrainMeta
from huterox_wire.message import encode
from huterox_wire.meta import ErrorMeta
from huterox_wire.nodes import InputSpec, RegisteredMeta, Resources

from .conftest import EPOCH, MODELS, SERVICE, Switchboard, descendants

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


def test_a_model_that_this_kernel_does_not_understand_fails_to_load(switchboard: Switchboard) -> None:
    switchboard.start()
    import msgspec

    meta = {"epoch": 1, "container": A, "model": {"name": "m", "entry": "x:Y", "runtime": "fortran"}}
    switchboard.send(b"", *encode(Kind.CREATE, 0, 0, 0, msgspec.msgpack.encode(meta)))
    event = switchboard.event(A, "gone")
    assert event.cause == "load_failed", "the node has done nothing wrong"
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
    switchboard.until(lambda: "has numpy, torch preloaded" in switchboard.log())
    switchboard.created(A, "tensors.py:Tensors")
    (zygote,) = [child for child in descendants(process.pid) if child.name() == "hx:zygote"]
    assert zygote.num_threads() == 1
    assert switchboard.result(A, "threads") == {"result": 1}
    assert switchboard.result(A, x=np.ones(2, np.float32))["y"].tolist() == [2.0, 2.0]


def test_the_stages_of_a_load_lie_one_after_the_other_between_create_and_ready(switchboard: Switchboard) -> None:
    switchboard.start()
    begun_s = time.monotonic()
    ready = switchboard.created(A)
    elapsed_s = time.monotonic() - begun_s
    assert all(seconds >= 0 for seconds in ready.timings_s.values())
    assert 0 < sum(ready.timings_s.values()) <= elapsed_s


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
    assert ready.pid_started == int(Path(f"/proc/{ready.pid}/stat").read_text().rpartition(")")[2].split()[19])
    assert worker.num_threads() == 1
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS"} & set(worker.environ())
    targets = {path.name: str(path.readlink()) for path in Path(f"/proc/{ready.pid}/fd").iterdir()}
    assert targets["0"] == "/dev/null"
    assert targets["1"] == targets["2"] == str(switchboard.folder / "kernel" / "logs" / "c1.1.log")
    assert len(targets) == 9  # those three, control, the log once more, the lane's three, the poller
    assert sorted(map(int, targets))[3] >= 1024  # low numbers are the model's
    assert switchboard.result(A, "where") == {"result": str(MODELS)}


def wakes(pid: int) -> int:
    """How often the threads of a process have gone to sleep."""
    statuses = [(task / "status").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0]) for status in statuses)


def test_a_kernel_with_idle_containers_sleeps(switchboard: Switchboard) -> None:
    """On a slow machine it wakes less often, never more."""
    switchboard.heartbeat_s = 1.0
    process = switchboard.start(slots=10)
    for number in range(10):
        switchboard.created(1 << 32 | number)

    def rate() -> float:
        begun_s, before = time.monotonic(), wakes(process.pid)
        while time.monotonic() < begun_s + 1.0:
            switchboard.pump(0.1)
        return (wakes(process.pid) - before) / (time.monotonic() - begun_s)

    switchboard.until(lambda: rate() < 12.0)


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
    assert event.cause == "hung"
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
    # The last answer's memory goes when ZeroMQ has let go of it.
    switchboard.until(lambda: not [path for path in maps_of(process.pid) if "huterox-lane" in path])


def maps_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/maps").read_text().splitlines()


# Logs.


def test_what_a_model_prints_can_be_read_and_followed(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A)
    switchboard.result(A, "say", text="hello")
    first = switchboard.admin("logs", container=A, offset=0, limit=1000)
    assert first == {"container": "c1.1", "text": "hello\n", "offset": 0, "next_offset": 6}
    switchboard.result(A, "say", text="again")
    assert switchboard.admin("logs", container=A, offset=6)["text"] == "again\n"
    switchboard.tell_close(A)
    switchboard.event(A, "gone")
    assert switchboard.admin("logs", container=A)["text"] == "hello\nagain\n"


def test_the_end_of_a_long_log_is_kept_and_what_comes_is_read_in_full(switchboard: Switchboard) -> None:
    switchboard.start(log_mb_max=1)
    switchboard.created(A)
    path = switchboard.folder / "kernel" / "logs" / "c1.1.log"
    for _ in range(3):
        offset = switchboard.admin("logs", container=A, offset=-1)["next_offset"]
        switchboard.result(A, "say", text="x" * 999, count=600)
        read = switchboard.admin("logs", container=A, offset=offset, limit=1000)
        assert (read["text"], read["offset"]) == ("x" * 999 + "\n", offset)
    switchboard.until(lambda: path.stat().st_blocks * 512 <= 1 << 20)
    read = switchboard.admin("logs", container=A, offset=0, limit=1000)
    assert (len(read["text"]), read["offset"] % 4096) == (1000, 0)
    assert 1_800_000 - (1 << 20) <= read["offset"] <= 1_800_000 - (1 << 19)


def test_what_cannot_be_written_to_a_log_fails_no_call(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A)
    switchboard.result(A, "say", text="x" * 2000)
    for _ in range(2):
        switchboard.result(A, "say_within", text="x" * 100_000, nbytes=4096)
    switchboard.result(A, "say", text="again")
    assert switchboard.admin("logs", container=A)["text"].endswith("xagain\n")


def test_a_log_that_cannot_be_made_keeps_no_model_from_loading(switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.until(lambda: "preloaded" in switchboard.log())
    logs = switchboard.folder / "kernel" / "logs"
    logs.rename(logs.with_name("moved"))
    logs.write_text("no folder")
    switchboard.created(A)
    switchboard.result(A, "say", text="into nothing")
    with pytest.raises(HuteroxError):
        switchboard.admin("logs", container=A)
    logs.unlink()
    switchboard.created(B)
    switchboard.result(B, "say", text="hello")
    assert switchboard.admin("logs", container=B)["text"] == "hello\n"


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


def test_a_kernel_without_a_switchboard_says_so_and_when_it_is_back(switchboard: Switchboard) -> None:
    switchboard.start()
    deadline_s = time.monotonic() + 30.0
    while "no switchboard answers at ipc://" not in switchboard.log():  # nobody reads, and nobody answers
        assert time.monotonic() < deadline_s, switchboard.log()
        time.sleep(0.05)
    switchboard.until(lambda: "answers, after" in switchboard.log())


def test_a_kernel_that_is_refused_says_so_once(switchboard: Switchboard) -> None:
    switchboard.start()
    for _ in range(3):
        switchboard.order(Kind.ERROR, ErrorMeta("Conflict", "a kernel named 'node-1' is alive"))
    switchboard.until(lambda: "refuses this kernel: a kernel named 'node-1' is alive" in switchboard.log())
    switchboard.create(A)
    switchboard.event(A, "ready")
    assert switchboard.log().count("refuses this kernel") == 1


def test_a_switchboard_that_has_lost_count_is_told_what_was_seen_and_of_what_runs(switchboard: Switchboard) -> None:
    """Its revision and whose lanes it has, so that what a store does not know is ended."""
    switchboard.start()
    switchboard.create(A, given={"revision": "r1"})
    switchboard.event(A, "ready")
    switchboard.caller(A)  # it has not called yet
    switchboard.order(Kind.REGISTER, RegisteredMeta(5, 0.1, store="lost", mark=77))
    switchboard.order(Kind.REGISTER, RegisteredMeta(EPOCH, 0.1, again=True, store="new", mark=78))
    switchboard.until(lambda: switchboard.registrations[-1].epoch_seen)
    meta = switchboard.registrations[-1]
    assert (meta.epoch_seen, meta.store_seen, meta.mark_seen) == (5, "lost", 77)
    (report,) = meta.containers
    assert (report.revision, report.lane_services) == ("r1", [SERVICE])
    switchboard.order(Kind.REGISTER, RegisteredMeta(6, 0.1, store="new", mark=78))
    switchboard.order(Kind.DRAIN, DrainMeta(6, A, "not known here", SERVICE))
    assert switchboard.heartbeat_of(A, lambda r: not r.lanes).lane_services == []
