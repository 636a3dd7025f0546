"""Several callers as one load. The whole chain is in `test_command.py`."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from huterox_bench.errors import BenchError
from huterox_bench.lane import crowd
from huterox_bench.lane.crowd import Crowd, shares
from huterox_bench.loads import Shape, SliceLimit
from huterox_bench.processes import Child

pytestmark = [pytest.mark.system, pytest.mark.timeout(60)]

CALLER = """
import array, json, sys, time
name = sys.argv[2]
if name == "refused":
    print(json.dumps({"error": "no lane here"}), flush=True)
    sys.exit(1)
if name == "dead":
    sys.exit(3)
print(json.dumps({"ready": True}), flush=True)
for order in sys.stdin.buffer:
    started_ns = time.perf_counter_ns()
    assert json.loads(order) == [0.5, 7]
    calls = 4 if name == "slow" else 12
    said = {"started_ns": started_ns, "elapsed_ns": 1_000_000, "calls": calls}
    if name == "fails":
        print(json.dumps({"error": "a wrong answer"}), flush=True)
        sys.exit(1)
    print(json.dumps(said), flush=True)
    sys.stdout.buffer.write(array.array("q", [1000] * (calls - (name == "cut"))).tobytes())
    sys.stdout.buffer.flush()
    if name == "cut":
        sys.exit(0)
"""


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ExitStack]:
    """With callers that play their part without a service."""
    script = tmp_path / "caller.py"
    script.write_text(CALLER)

    def child(name: str, module: str, *arguments: str, stdin: int, stdout: int) -> Child:
        return Child(name, [sys.executable, str(script), *arguments], stdin=stdin, stdout=stdout)

    monkeypatch.setattr(crowd, "python_child", child)
    with ExitStack() as opened:
        yield opened


def crowd_of(stack: ExitStack, *services: str) -> Crowd:
    return Crowd("lane_crowd", "ipc://nowhere", services, Shape(4 * len(services), 1024), stack)


LIMIT = SliceLimit(0.5, 7)


def test_all_calls_of_all_callers_are_counted_and_the_least_share_is_known(stack: ExitStack) -> None:
    load = crowd_of(stack, "quick", "slow", "quick", "quick")
    for _ in range(2):
        slice_ = load.run(LIMIT)
        assert len(slice_.latencies_ns) == 40
        assert slice_.elapsed_ns >= 1_000_000
        assert slice_.shares == pytest.approx((1.2, 0.4, 1.2, 1.2))


def test_shares_are_one_where_all_are_alike_and_zero_where_one_gets_nothing() -> None:
    assert shares([5.0, 5.0]) == (1.0, 1.0)
    assert min(shares([4.0, 0.0])) == 0.0


@pytest.mark.parametrize(("name", "said"), [("refused", "no lane here"), ("dead", "exit status 3")])
def test_a_caller_that_cannot_begin_says_why(stack: ExitStack, name: str, said: str) -> None:
    with pytest.raises(BenchError, match=f"the caller of {name}.*{said}"):
        crowd_of(stack, "quick", name)


@pytest.mark.parametrize(("name", "said"), [("fails", "a wrong answer"), ("cut", "has ended by itself")])
def test_a_caller_that_fails_in_a_slice_ends_the_bench(stack: ExitStack, name: str, said: str) -> None:
    load = crowd_of(stack, "quick", name)
    with pytest.raises(BenchError, match=f"the caller of {name}.*{said}"):
        load.run(LIMIT)


def test_a_caller_that_was_killed_between_two_slices_is_named(stack: ExitStack) -> None:
    load = crowd_of(stack, "quick", "victim")
    load.run(LIMIT)
    victim = load._callers[1]
    victim._process.send_signal(signal.SIGKILL)
    victim.wait()
    with pytest.raises(BenchError, match="the caller of victim has ended by itself, with exit status -9"):
        load.run(LIMIT)


def test_calls_in_flight_that_cannot_be_shared_are_refused(stack: ExitStack) -> None:
    with pytest.raises(BenchError, match="10 calls in flight cannot be shared by 4"):
        Crowd("lane_shared", "ipc://nowhere", ["quick"] * 4, Shape(10, 1024), stack)


def test_a_caller_without_a_switchboard_is_one_clear_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", crowd.CALLER, f"ipc://{tmp_path}/nobody.ipc", "service", "16", "1024"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert "no switchboard answers" in done.stdout
    assert done.stderr == ""
