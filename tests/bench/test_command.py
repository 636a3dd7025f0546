"""The command itself: what it prints, and what it leaves behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

import psutil
import pytest

import huterox
from huterox_bench.__main__ import main
from huterox_bench.errors import BenchError
from huterox_bench.lane.suite import open_lane
from huterox_bench.limits.eventfd import EventfdRoundTrip
from huterox_bench.options import Options
from huterox_bench.sdk import calls
from huterox_bench.sdk.node import start_node

WAIT_S = 60.0
KEYS = {
    *("name", "window", "nbytes", "calls_per_s", "p50_us", "p99_us"),
    *("ratio_to_eventfd_rtt", "ratio_to_zmq_proxy", "slices", "seconds"),
}
EVENTFDS = ["eventfd_rtt", "eventfd_apart"] if len(os.sched_getaffinity(0)) > 1 else ["eventfd_rtt"]
SHAPES = [(1, 1024), (64, 1024), (1, 4_915_200), (4, 4_915_200)]
COMMAND = [sys.executable, "-m", "huterox_bench"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "suite"),
        (["sprint"], "invalid choice: 'sprint'"),
        (["limits", "--seconds", "0"], "not above 0"),
        (["limits", "--seconds", "soon"], "invalid"),
        (["limits", "--seconds", "nan"], "not above 0"),
        (["limits", "--slices", "0"], "not from 1 to 1000"),
        (["limits", "-o", "xml"], "invalid choice"),
    ],
)
def test_a_command_line_that_cannot_be_is_refused(
    arguments: Sequence[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refusal:
        main(arguments)
    assert refusal.value.code == 2
    assert said in capsys.readouterr().err


def bench(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=WAIT_S, check=False)


@pytest.mark.system
def test_limits_print_one_json_object_a_row() -> None:
    done = bench("limits", "--seconds", "0.1", "--slices", "2", "-o", "json")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["name"], row["window"], row["nbytes"]) for row in rows] == [
        *((name, 1, 8) for name in EVENTFDS),
        *(("zmq_proxy", *shape) for shape in SHAPES),
    ]
    assert all(set(row) >= KEYS for row in rows)
    assert [row["ratio_to_zmq_proxy"] for row in rows] == [*[None] * len(EVENTFDS), 1, 1, 1, 1]
    assert rows[0]["ratio_to_eventfd_rtt"] == 1
    assert all(row["slices"] == 2 and row["calls_per_s"] > 0 and row["p50_us"] <= row["p99_us"] for row in rows)


@pytest.mark.system
def test_limits_print_a_table_for_people() -> None:
    done = bench("limits", "--seconds", "0.05", "--slices", "1")
    assert done.returncode == 0
    assert done.stdout.splitlines()[0].split()[:2] == ["name", "window"]
    assert len(done.stdout.splitlines()) == 1 + len(EVENTFDS) + len(SHAPES)


@pytest.mark.system
def test_a_switchboard_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    done = bench("routed", "--endpoint", f"ipc://{tmp_path}/nobody.ipc")
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("huterox bench: no switchboard answers at ipc://")


def wait_for_helpers(process: "subprocess.Popen[bytes]", count: int) -> list[psutil.Process]:
    """The helpers of a running bench, once they are all there."""
    until_s = time.monotonic() + WAIT_S
    while time.monotonic() < until_s:
        helpers = psutil.Process(process.pid).children(recursive=True)
        if len(helpers) >= count:
            return helpers
        time.sleep(0.02)
    raise AssertionError("the helpers did not start")


@pytest.mark.system
@pytest.mark.parametrize(
    ("signal_number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -signal.SIGKILL)],
    ids=["ctrl-c", "term", "kill"],
)
def test_no_helper_is_left_when_the_bench_is_ended(signal_number: signal.Signals, status: int) -> None:
    command = [*COMMAND, "limits", "--seconds", "600"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process, ExitStack() as stack:
        stack.callback(process.kill)  # else a failure would wait for its end, in vain
        helpers = wait_for_helpers(process, 3)
        os.kill(process.pid, signal_number)
        assert process.wait(WAIT_S) == status
        assert process.stderr is not None
        assert status < 0 or process.stderr.read() == b"huterox bench: interrupted\n"
    _, alive = psutil.wait_procs(helpers, timeout=WAIT_S)
    assert alive == []


@pytest.mark.parametrize("hidden", [None, RuntimeError("half open"), BenchError("half open")], ids=repr)
def test_what_an_interrupt_leaves_half_open_changes_nothing(
    hidden: Exception | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def close() -> None:
        if hidden is not None:
            raise hidden

    def interrupted(suite: object, options: object) -> NoReturn:
        with ExitStack() as stack:
            stack.callback(close)
            raise KeyboardInterrupt

    monkeypatch.setattr("huterox_bench.__main__.measure", interrupted)
    monkeypatch.setattr(signal, "signal", lambda *args: None)
    assert main(["limits"]) == 130
    assert capsys.readouterr().err == "huterox bench: interrupted\n"


def test_an_error_that_is_not_of_the_bench_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(suite: object, options: object) -> NoReturn:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("huterox_bench.__main__.measure", fails)
    monkeypatch.setattr(signal, "signal", lambda *args: None)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        main(["limits"])


def test_a_peer_that_does_not_start_leaves_nothing_to_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **kwargs: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr("huterox_bench.limits.eventfd.python_child", interrupted)
    with pytest.raises(KeyboardInterrupt), ExitStack() as stack:
        EventfdRoundTrip(stack)


def rows_beside_limits(suite: str, more: dict[tuple[int, int], list[str]]) -> list[tuple[str, tuple[int, int]]]:
    """The names and shapes that a suite of calls has."""
    calls = [(name, shape) for shape in SHAPES for name in ("zmq_proxy", suite, *more.get(shape, []))]
    return [*((name, (1, 8)) for name in EVENTFDS), *calls]


def check_rows(rows: list[dict[str, Any]], expected: list[tuple[str, tuple[int, int]]]) -> None:
    assert all(set(row) >= KEYS for row in rows)
    assert [(row["name"], (row["window"], row["nbytes"])) for row in rows] == expected
    for row in rows:
        assert row["ratio_to_eventfd_rtt"] > 0
        assert row["name"] in EVENTFDS or row["ratio_to_zmq_proxy"] > 0


@pytest.mark.system
def test_routed_starts_its_own_node_and_prints_its_rows_beside_the_limits(folder: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "routed", "--seconds", "0.2", "--slices", "2", "-o", "json"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    check_rows([json.loads(line) for line in done.stdout.splitlines()], rows_beside_limits("routed", {}))
    assert list(folder.iterdir()) == []


@pytest.mark.system
def test_no_lane_is_an_error_that_says_where_to_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUTEROX_LANES", "0")
    monkeypatch.setattr(calls, "LANE_TIMEOUT_S", 0.3)
    with ExitStack() as stack, pytest.raises(BenchError, match=r"are routed after .* must be lane.*HUTEROX_LANES"):
        open_lane(Options(), stack)


@pytest.mark.system
@pytest.mark.parametrize(
    ("suite", "helper_count", "signal_number", "status"),
    [
        # The limits' three; huterox up, switchboard, kernel, zygote, worker.
        pytest.param("routed", 8, signal.SIGINT, 130, id="routed, ctrl-c"),
        pytest.param("routed", 8, signal.SIGKILL, -9, id="routed, kill"),
        # And twelve callers.
        pytest.param("lane", 20, signal.SIGKILL, -9, id="lane, kill"),
    ],
)
def test_no_node_is_left_when_the_bench_is_ended(
    suite: str, helper_count: int, signal_number: signal.Signals, status: int, folder: Path
) -> None:
    environment = {**os.environ, "TMPDIR": str(folder)}
    with subprocess.Popen([*COMMAND, suite, "--seconds", "600"], env=environment) as process, ExitStack() as stack:
        stack.callback(process.kill)
        helpers = wait_for_helpers(process, helper_count)
        os.kill(process.pid, signal_number)
        assert process.wait(WAIT_S) == status
    _, alive = psutil.wait_procs(helpers, timeout=WAIT_S)
    assert alive == []


@pytest.mark.system
def test_report_measures_every_suite_on_a_given_switchboard_and_leaves_it_as_it_was(tmp_path: Path) -> None:
    with ExitStack() as stack:
        endpoint = start_node(stack)
        done = bench("report", "--endpoint", endpoint, "--seconds", "0.1", "--slices", "1", "--results", str(tmp_path))
        assert (done.returncode, done.stderr) == (0, "")
        with huterox.connect(endpoint) as client:
            assert client.services() == client.models() == []
    text, data = sorted(map(Path, done.stdout.split()), key=lambda path: path.suffix, reverse=True)
    document = json.loads(data.read_text(encoding="utf-8"))
    assert {name: len(rows) for name, rows in document["suites"].items()} == {
        "limits": len(EVENTFDS) + 4,
        "lane": len(EVENTFDS) + 12,
        "routed": len(EVENTFDS) + 8,
    }
    lane = document["suites"]["lane"]
    more = {(1, 1024): ["lane_peek"], (64, 1024): ["lane_shared", "lane_crowd"], (1, 4_915_200): ["lane_peek"]}
    check_rows(lane, rows_beside_limits("lane", more))
    for row in lane:
        callers = {"lane_shared": 4, "lane_crowd": 8}.get(row["name"], 1)
        assert row["callers"] == callers
        assert row["share_min"] is None if callers == 1 else 0 < row["share_min"] <= 1
    assert document["command"].startswith("python -m huterox_bench report --endpoint")
    assert document["machine"]["cores"] >= 1
    assert "## routed" in text.read_text(encoding="utf-8")
