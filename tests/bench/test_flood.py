"""Floods: what their rows say, how the flooder keeps its messages open, and a real one of each kind."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import zmq

from huterox_bench.errors import BenchError
from huterox_bench.flood import flooder, suite
from huterox_bench.flood.flooder import CONNECTIONS, CONTROL, KINDS, OPEN, Flood
from huterox_bench.flood.rows import BAR, Turn, flood_table, row_of_turns
from huterox_bench.suites import all_suites
from huterox_bench.summary import SliceFigures
from huterox_wire.header import REQUEST_ID, unpack_header
from huterox_wire.kinds import Kind
from huterox_wire.message import encode


def turn(quiet_p99_us: float, p99_us: float, calls: int = 1000) -> Turn:
    quiet = SliceFigures(1000, 1.0, 1000.0, quiet_p99_us / 10, quiet_p99_us)
    return Turn(quiet, SliceFigures(calls, 1.0, 1000.0, p99_us / 10, p99_us), 5000.0, 0.25)


def test_row_has_the_medians_and_their_ratio() -> None:
    row = row_of_turns("garbage", [turn(100.0, 150.0), turn(300.0, 900.0, calls=7), turn(200.0, 240.0)], BAR)
    assert (row.name, row.turns, row.calls) == ("garbage", 3, 7)
    assert (row.quiet_p99_us, row.p99_us, row.p99_ratio) == (200.0, 240.0, 1.2)
    assert (row.quiet_p50_us, row.p50_us) == (20.0, 24.0)
    assert (row.flood_per_s, row.flood_errors) == (5000.0, 0.25)


@pytest.mark.parametrize(("p99_us", "meets"), [(299.0, True), (300.0, False)])
def test_bar_is_met_or_not(p99_us: float, meets: bool) -> None:
    row = row_of_turns("services", [turn(100.0, p99_us)], 3.0)
    assert row.meets_bar is meets
    assert json.loads(json.dumps(row.as_json()))["meets_bar"] is meets
    assert flood_table([row]).splitlines()[1].split()[-3] == ("yes" if meets else "NO")


def test_what_does_not_reach_the_platform_has_no_bar() -> None:
    assert row_of_turns(CONTROL, [turn(100.0, 900.0)], None).meets_bar is None


def test_floods_are_no_part_of_the_report() -> None:
    assert not all_suites()["flood"].in_report


@pytest.mark.parametrize("kind", KINDS)
def test_messages_of_a_flood_are_told_apart_by_their_request_ids(kind: str) -> None:
    frames = [bytes(KINDS[kind](request_id, 7)) for request_id in range(OPEN)]
    assert [int.from_bytes(frame[REQUEST_ID], "little") for frame in frames] == list(range(OPEN))
    if kind != "garbage":
        assert unpack_header(frames[0]).kind is (Kind.ADMIN if kind == "services" else Kind.CALL)


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The writing end of what the flooder reads its orders from."""
    reading, writing = os.pipe()
    monkeypatch.setattr(flooder, "_STDIN", reading)
    yield writing
    os.close(reading)
    os.close(writing)


class Answerer:
    """Plays the switchboard: answers all that is there, in the order in which it came."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", path: Path) -> None:
        self.endpoint = f"ipc://{path}/front.ipc"
        self.socket = context.socket(zmq.ROUTER)
        self.socket.linger = 0
        self.socket.rcvtimeo = 10_000
        self.socket.set_hwm(0)
        self.socket.bind(self.endpoint)

    def answer(self, count: int, kind: Kind = Kind.ERROR) -> None:
        for _ in range(count):
            caller, frame = self.socket.recv_multipart()
            self.socket.send_multipart([caller, *encode(Kind.HEARTBEAT, 0, 0, 0, b"")])
            self.socket.send_multipart([caller, *encode(kind, int.from_bytes(frame[REQUEST_ID], "little"), 0, 0, b"")])


def test_each_answer_is_followed_by_one_message_until_the_flood_ends(folder: Path, stdin: int) -> None:
    with zmq.Context() as context, ExitStack() as stack:
        answerer = Answerer(context, folder)
        stack.callback(answerer.socket.close)
        flood = Flood(context, "garbage", answerer.endpoint, "", "")
        stack.callback(flood.close)
        flood.begin()
        answerer.answer(CONNECTIONS * OPEN)
        while flood.answers < CONNECTIONS * OPEN:
            assert flood._turn(again=True)
        answerer.answer(100)
        assert not answerer.socket.closed
        os.write(stdin, b"[]\n")
        flood.go_on()
        while flood.answers < CONNECTIONS * OPEN + 100:
            flood._turn(again=True)
        assert flood.open == CONNECTIONS * OPEN
        answerer.answer(CONNECTIONS * OPEN, Kind.REPLY)
        flood.drain()
        assert (flood.open, flood.errors) == (0, CONNECTIONS * OPEN + 100)
        assert not answerer.socket.poll(50), "what is answered after the end is not sent again"


def test_flood_that_is_not_answered_is_an_error(folder: Path, stdin: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flooder, "DRAIN_S", 0.1)
    monkeypatch.setattr(flooder, "_POLL_MS", 20)
    with zmq.Context() as context, ExitStack() as stack:
        answerer = Answerer(context, folder)
        stack.callback(answerer.socket.close)
        flood = Flood(context, "garbage", answerer.endpoint, "", "")
        stack.callback(flood.close)
        flood.begin()
        with pytest.raises(BenchError, match="1600 messages of the flood were not answered"):
            flood.drain()


def test_flooder_that_has_ended_is_an_error() -> None:
    with ExitStack() as stack:
        process = suite.Flooder("ipc:///nowhere", {}, stack)
        os.kill(process._child.pid, signal.SIGKILL)
        with pytest.raises(BenchError, match="the flooder has ended"):
            process.begin("garbage")


@pytest.mark.system
@pytest.mark.timeout(180)
def test_every_kind_of_flood_is_measured_on_a_node_of_its_own(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "huterox_bench", "flood", "--seconds", "0.3", "--slices", "1", "-o", "json"],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    rows: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["name"] for row in rows] == list(KINDS)
    for row in rows:
        assert row["calls"] > 0
        assert row["flood_per_s"] > 0
        assert row["p99_ratio"] == pytest.approx(row["p99_us"] / row["quiet_p99_us"], abs=1e-3)
        assert row["bar"] == (None if row["name"] == CONTROL else BAR)
        assert (row["meets_bar"] is None) == (row["name"] == CONTROL)
    errors = {row["name"]: row["flood_errors"] for row in rows}
    assert (errors["garbage"], errors[CONTROL]) == (1.0, 0.0)
    assert list(folder.iterdir()) == []
