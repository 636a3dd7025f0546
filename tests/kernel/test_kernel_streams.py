"""Models that close, replace or run out of what they were given: nothing of the worker's depends on it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import pytest

from huterox_kernel.shell.cgroups import groups
from huterox_kernel.shell.cpus import usable_cpus
from huterox_shm.lane import DEAD
from huterox_wire.errors import InvalidInput, ModelError, WorkerLost

from .conftest import Switchboard

pytestmark = [pytest.mark.system, pytest.mark.timeout(90)]

A, B, C, D = (1 << 32 | number for number in range(1, 5))


def test_a_worker_goes_on_without_any_standard_stream_and_lanes_stay_out_of_its_numbers(
    switchboard: Switchboard,
) -> None:
    switchboard.start()
    switchboard.created(A, "awkward.py:Awkward", params={"at_end": True})
    assert switchboard.result(A, "closes_descriptors", first=0, last=512) == {"result": 1}
    caller = switchboard.caller(A)
    assert caller.result(x=5) == {"result": 5}
    numbers = switchboard.result(A, "numbers")
    assert [number for number, leads_to in numbers.items() if int(number) < 512 and "/proc/" not in leads_to] == []
    assert caller.result("prints", text="nobody sees this ") == {"result": 0}
    assert switchboard.result(A, "closes") == {"result": 1}
    with pytest.raises(ModelError, match="Exiting: <"):
        caller.result("raises", error="exiting")
    with pytest.raises(InvalidInput, match="call it with stream"):
        switchboard.result(A, "streams", error="untellable")
    assert switchboard.result(A, "replaces") == {"result": 1}
    assert caller.result(x=6) == {"result": 6}
    assert "a stream's clean-up" not in switchboard.admin("logs", container=A)["text"]  # it had not begun
    switchboard.tell_close(A)
    assert switchboard.event(A, "gone").cause == "closed"
    assert switchboard.log().count("killed") == 0


def test_a_model_that_closes_what_its_worker_needs_ends_it_and_nobody_else(switchboard: Switchboard) -> None:
    switchboard.start()
    for container in (A, B):
        switchboard.created(container, "awkward.py:Awkward")
    caller, other = switchboard.caller(A), switchboard.caller(B)
    with pytest.raises(WorkerLost):
        switchboard.result(A, "closes_descriptors", first=3, last=1 << 20)
    gone = switchboard.event(A, "gone")
    assert (gone.cause, gone.reason) == ("crashed", "the model closed descriptors that its worker needs")
    assert other.result(x=1) == switchboard.result(B, x=1) == {"result": 1}
    switchboard.until(lambda: caller.end.state == DEAD)


@pytest.mark.parametrize(
    ("exits", "cause", "reason"),
    [
        ("argparse", "load_failed", "SystemExit: 2; it said: model.py: error: --weights is required"),
        ("at once", "crashed", "exited with code 9; it said last: cannot open the licence"),
        ("untellable", "load_failed", "Untellable"),
    ],
)
def test_a_load_that_ends_says_why(switchboard: Switchboard, exits: str, cause: str, reason: str) -> None:
    switchboard.start(preload=[])
    switchboard.create(A, "awkward.py:Awkward", params={"exits": exits})
    gone = switchboard.until(lambda: [event for event in switchboard.events if event.what == "gone"])[0]
    assert gone.cause == cause
    assert reason in gone.reason


def test_an_alarm_of_the_model_that_strikes_between_calls_disturbs_nobody(switchboard: Switchboard) -> None:
    switchboard.start(preload=[])
    switchboard.created(A, "awkward.py:Awkward")
    assert switchboard.result(A, "alarm", seconds=0.2) == {"result": 1}
    raised = "a signal handler of the model raised between calls: TimeoutError: too late"
    switchboard.until(lambda: raised in switchboard.admin("logs", container=A)["text"])
    assert switchboard.result(A, x=7) == {"result": 7}


def test_workers_are_told_how_many_processors_their_kernel_may_use(switchboard: Switchboard) -> None:
    with affinity():
        switchboard.start(preload=[], torch_threads=0)
    switchboard.created(A, "awkward.py:Awkward")
    names = ["OMP_NUM_THREADS", "RAYON_NUM_THREADS"]
    counted = "1" if os.sysconf("SC_NPROCESSORS_ONLN") > 1 else None  # what the library counts itself is right then
    assert switchboard.result(A, "environment", names=names) == dict(zip(names, ["1", counted], strict=True))


@pytest.fixture
def limited(request: pytest.FixtureRequest) -> Iterator[AbstractContextManager[None]]:
    """While it lasts, what is started has one processor: by affinity, or by the quota of a real control group."""
    if request.param != "quota":
        yield affinity() if request.param == "affinity" else nullcontext()
        return
    try:
        own = groups("cpu", Path("/proc/self"))[0]
        folder = own.folder / f"huterox-test-{os.getpid()}"
        folder.mkdir()
    except (IndexError, OSError) as exc:
        pytest.skip(f"no control group can be made here: {exc}")
    try:
        try:
            if own.version == 2:
                (folder / "cpu.max").write_text("100000 100000")
            else:
                (folder / "cpu.cfs_quota_us").write_text("100000")
        except OSError as exc:
            pytest.skip(f"no quota can be set here: {exc}")
        yield inside(folder, own.folder)
    finally:
        until_s = time.monotonic() + 10.0
        while (folder / "cgroup.procs").read_text() and time.monotonic() < until_s:
            time.sleep(0.02)
        folder.rmdir()


@contextmanager
def affinity() -> Iterator[None]:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


@contextmanager
def inside(folder: Path, own: Path) -> Iterator[None]:
    """This process is in that control group, and back in its own afterwards. What it starts stays."""
    (folder / "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield
    finally:
        (own / "cgroup.procs").write_text(str(os.getpid()))


@pytest.mark.torch
@pytest.mark.parametrize(
    ("limited", "preload"),
    [("affinity", "numpy"), ("quota", "torch"), ("nothing", "torch")],  # torch is imported by the model, or was before
    indirect=["limited"],
)
def test_torch_has_as_many_threads_as_there_are_processors_to_use(
    limited: AbstractContextManager[None], switchboard: Switchboard, preload: str
) -> None:
    with limited:
        count = usable_cpus()
        switchboard.start(preload=[preload], torch_threads=0)
    assert count == (usable_cpus() if isinstance(limited, nullcontext) else 1)
    switchboard.created(A, "tensors.py:Tensors")
    assert switchboard.result(A, "threads_at_work") == {"told": count, "torch": count, "one": count == 1}


CODE = """
import os
for number in (0, 1, 2):
    os.close(number)
from huterox_shm.lane import CallerEnd, LaneConfig, create_lane
lane = create_lane(LaneConfig(128, 1 << 20, 1 << 20), 1)
end = CallerEnd.attach(lane.duplicate())
for number in (0, 1, 2):  # none of them is taken
    os.open("/dev/null", os.O_RDONLY) == number or os._exit(1)
os._exit(0)
"""


def test_a_caller_without_standard_streams_has_its_lane_elsewhere() -> None:
    assert subprocess.run([sys.executable, "-c", CODE]).returncode == 0


WRITES_S = 4.0
AHEAD_S = 0.5
"""So long the kernel may not come to look at the log, on a busy machine."""


def test_the_log_of_a_model_that_prints_without_end_stays_short_meanwhile(switchboard: Switchboard) -> None:
    switchboard.start(log_mb_max=2)
    switchboard.created(A, "awkward.py:Awkward")
    (log,) = (switchboard.folder / "kernel").rglob("c1.1.log")
    caller = switchboard.caller(A)
    call_id = caller.send("prints_lines", seconds=WRITES_S)
    sizes: list[int] = []
    until_s = time.monotonic() + 30.0
    while call_id not in caller.answers:
        assert time.monotonic() < until_s
        sizes.append(log.stat().st_blocks * 512)
        caller.end.wait(0.002)
        caller.take()
    written = caller.answer(call_id)["result"]
    bound = (2 << 20) + written * AHEAD_S / WRITES_S
    assert written > 2 * bound
    assert max(sizes) < bound
