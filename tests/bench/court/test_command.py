"""`huterox simulate`: what it prints, draws and refuses."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from huterox.cli import daemons
from huterox.cli.main import main as huterox
from huterox_bench.court import bound
from huterox_bench.court.__main__ import main
from huterox_bench.court.generators import Plan, generate
from huterox_bench.court.traces import read_trace, write_trace
from huterox_bench.court.trial import JUDGED

KEYS = {
    *("policy", "requests", "hits", "misses", "miss_ratio", "evictions", "load_seconds", "refused"),
    *("p50_wait_s", "p99_wait_s"),
}
COMMAND = [sys.executable, "-m", "huterox_bench.court"]


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "calls.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        write_trace(generate("zipf", Plan(requests=60, models=10, rate=0.1, seed=1)), file)
    return path


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_one_policy_at_one_capacity_is_one_json_object(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, "--trace", trace, "--policy", "lru", "--capacity-mb", 3000, "--seed", 1, "-o", "json")
    row = json.loads(out)
    assert row.keys() >= KEYS
    assert (row["policy"], row["requests"]) == ("lru", 60)
    assert row["hits"] + row["misses"] + row["joined"] + row["refused"] == 60
    assert row["miss_ratio"] == row["misses"] / 60
    assert row["ratio_to_bound"] is None


def test_all_are_a_json_list_in_order_with_the_bound_at_the_end(
    trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = printed(capsys, "--trace", trace, "--policy", "all", "--capacity-mb", "3000,6000", "-o", "json")
    rows = json.loads(out)
    assert [(row["capacity_mb"], row["policy"]) for row in rows] == [
        (mb, name) for mb in (3000, 6000) for name in JUDGED
    ]
    assert all(row.keys() == rows[0].keys() for row in rows)
    assert all(row["ratio_to_bound"] >= 1 and row["bound_loads"] <= row["loads"] for row in rows)
    small, large = ({row["policy"]: row for row in rows if row["capacity_mb"] == mb} for mb in (3000, 6000))
    for among in (small, large):
        assert all(among["bound"]["load_seconds"] <= row["load_seconds"] for row in among.values())
        assert all(among["bound"]["loads"] <= row["loads"] for row in among.values())
    assert large["bound"]["load_seconds"] < small["bound"]["load_seconds"]


def test_people_get_a_table_for_each_capacity(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, "--trace", trace, "--policy", "bound,sieve", "--capacity-mb", "3000,6000", "--nodes", 2)
    lines = out.splitlines()
    assert lines[0] == "2 nodes of 3000 MB"
    assert lines[1].split()[:3] == ["policy", "requests", "hits"]
    assert [line.split()[0] for line in lines[2:4]] == ["sieve", "bound"]
    assert "2 nodes of 6000 MB" in lines
    assert len({len(line) for line in lines[1:4]}) == 1
    assert out.count("x bound: ") == 1
    assert "x bound: " not in printed(capsys, "--trace", trace, "--policy", "lru", "--capacity-mb", "3000")


def test_what_is_generated_is_printed_or_written_and_can_be_replayed_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = ("--generate", "scans", "--requests", 40, "--models", 8, "--seed", 3)
    path = tmp_path / "scans.csv"
    out = printed(capsys, *ask)
    assert printed(capsys, *ask, "--write", path) == ""
    assert path.read_text(encoding="utf-8") == out
    assert read_trace(path) == generate("scans", Plan(requests=40, models=8, seed=3))
    replayed = ("--policy", "lru", "--capacity-mb", 2000, "-o", "json")
    assert printed(capsys, *ask, *replayed) == printed(capsys, "--trace", path, *replayed)


@pytest.mark.parametrize(("ending", "capacities"), [("png", "3000,6000,9000"), ("svg", "3000")])
def test_a_picture_is_drawn(trace: Path, ending: str, capacities: str, capsys: pytest.CaptureFixture[str]) -> None:
    picture = trace.parent / f"court.{ending}"
    ask = ("--policy", "lru,gdsf,bound", "--capacity-mb", capacities, "--plot", picture)
    printed(capsys, "--trace", trace, *ask)
    begin = picture.read_bytes()[:200]
    assert begin.startswith(b"\x89PNG") if ending == "png" else b"<?xml" in begin
    if ending == "svg":
        assert picture.stat().st_size > 20_000


def test_settings_reach_the_core(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask = ("--trace", trace, "--policy", "lru", "--capacity-mb", "3000", "-o", "json")
    plain = json.loads(printed(capsys, *ask))
    short = json.loads(printed(capsys, *ask, "--call-timeout", "0.5"))
    assert short["refusals"]["DeadlineExceeded"] > 0
    assert short == json.loads(printed(capsys, *ask, "--set", "call_timeout_s=0.5"))
    assert json.loads(printed(capsys, *ask, "--idle-timeout", "5"))["reclaims"] > plain["reclaims"] == 0
    assert json.loads(printed(capsys, *ask, "--unload", "2"))["mean_wait_s"] > plain["mean_wait_s"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "one of the arguments --trace --generate is required"),
        (["--trace", "x", "--generate", "zipf"], "not allowed with"),
        (["--generate", "zapf"], "invalid choice: 'zapf'"),
        (["--trace", "x"], "--trace needs --policy"),
        (["--trace", "x", "--policy", "lru"], "--policy needs --capacity-mb"),
        (["--trace", "x", "--models", "3", "--policy", "lru", "--capacity-mb", "9"], "--models is for --generate"),
        (["--generate", "zipf", "--plot", "x.png"], "--plot needs --policy"),
        (["--trace", "x", "--policy", "lru", "--capacity-mb", "0"], "--capacity-mb: 0 is not"),
        (["--trace", "x", "--policy", "lru", "--capacity-mb", "nan"], "'nan' is not a number"),
        (["--trace", "x", "--policy", "lru", "--capacity-mb", "9,x"], "'x' is not a number"),
        (["--trace", "x", "--policy", "lru", "--capacity-mb", "9", "--nodes", "0.5"], "--nodes: 0.5 is not"),
        (["--trace", "x", "--policy", "lru", "--capacity-mb", "9", "--call-timeout", "0"], "not above 0"),
        (["--trace", "x", "--policy", "lru", "--capacity-mb", "9", "-o", "xml"], "invalid choice: 'xml'"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refusal:
        main(arguments)
    out, err = capsys.readouterr()
    assert (refusal.value.code, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert "huterox simulate --help" in err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--policy", "lrux"], "policy 'lrux' is unknown; known are fifo, lru"),
        (["--policy", "lru,"], "policy '' is unknown"),
        (["--set", "hotter"], "'hotter' is not KEY=VALUE"),
        (["--set", "hottest=3"], "unknown field `hottest`"),
        (["--set", "hotter_factor=much"], "hotter_factor"),
        (["--set", "hotter_factor=-1"], "hotter_factor: -1.0 is not at least 0"),
        (["--set", "hotter_factor=nan"], "hotter_factor: nan is not"),
        (["--set", "heartbeat_s=0"], "heartbeat_s: 0.0 is not above 0"),
        (["--set", "policy=lru"], "say --policy"),
        (["--set", "placement=anywhere"], "'anywhere' is unknown; known are spread, pack"),
        (["--plot", "court.bmp"], "a plot's name ends in one of .png"),
        (["--plot", "/nowhere/court.png"], "/nowhere: no such folder"),
        (["--write", "/nowhere/trace.csv"], "/nowhere/trace.csv: No such file"),
    ],
)
def test_bad_input_is_one_line_and_status_1(
    more: list[str], said: str, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--trace", str(trace), "--policy", "lru", "--capacity-mb", "3000", *more]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("huterox: InvalidInput: ")
    assert said in err


def test_what_is_wrong_in_a_file_is_said_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("time_s,tenant,model,size_mb,load_s,service_s\n1,t,m,-3,1,1\n", encoding="utf-8")
    assert main(["--trace", str(path), "--policy", "lru", "--capacity-mb", "3000"]) == 1
    assert capsys.readouterr().err.startswith(f"huterox: InvalidInput: {path}: line 2, column size_mb: ")


def test_without_the_courts_packages_a_policy_can_be_replayed_and_the_bound_says_what_to_install(
    trace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bound, "find_spec", lambda name: None)
    ask = ["--trace", str(trace), "--capacity-mb", "3000", "--policy"]
    assert printed(capsys, *ask, "lru,opt")
    for more in (["all"], ["lru", "--plot", "court.png"]):
        assert main([*ask, *more]) == 1
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert "scipy, matplotlib is not installed; the court needs `pip install scipy matplotlib`" in err


def test_help_has_examples_and_every_policy(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["--help"])
    out = capsys.readouterr().out
    assert done.value.code == 0
    assert "examples:" in out
    assert all(name in out for name in JUDGED)
    assert max(map(len, out.splitlines())) <= 120


def test_the_command_hands_over_to_the_court(monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[list[str]] = []
    monkeypatch.setattr(daemons.os, "execv", lambda path, argv: became.append(argv[2:]))
    monkeypatch.setattr(daemons, "find_spec", lambda name: None)  # it needs no daemon's packages
    huterox(["simulate", "--trace", "x", "-o", "json"])
    huterox(["simulate", "--help"])
    assert became == [
        ["-m", "huterox_bench.court", "--trace", "x", "-o", "json"],
        ["-m", "huterox_bench.court", "--help"],
    ]


def test_replaying_alone_imports_neither_scipy_nor_matplotlib() -> None:
    code = (
        "import sys, huterox_bench.court.__main__; print(*({'scipy', 'matplotlib', 'zmq', 'torch'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "\n"


@pytest.mark.system
def test_a_terminal_sees_how_far_it_is_and_keeps_nothing_of_it(trace: Path) -> None:
    terminal, stderr = pty.openpty()
    ask = ["--trace", str(trace), "--policy", "lru", "--capacity-mb", "3000", "-o", "json"]
    done = subprocess.run([*COMMAND, *ask], stdout=subprocess.PIPE, stderr=stderr, timeout=60, check=True)
    os.close(stderr)
    shown = os.read(terminal, 65536)
    os.close(terminal)
    assert json.loads(done.stdout)["policy"] == "lru"
    assert b"lru at 3000 MB: 0 %" in shown
    assert shown.endswith(b"\r\x1b[K")


@pytest.mark.system
def test_a_reader_that_leaves_early_is_no_error_message(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ask: list[Any] = ["--generate", "zipf", "--requests", "5000"]
    done = subprocess.run([*COMMAND, *ask], stdout=writing, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")
