"""The check that waits for a GPU, with the doubles: it runs to its end, and what goes wrong is in its results."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tools" / "gpu_check.sh"


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """tools/gpu/check.py as a module; its steps are the test's."""
    monkeypatch.setitem(sys.modules, "steps", ModuleType("steps"))
    sys.modules["steps"].STEPS = {}  # type: ignore[attr-defined]
    spec = importlib.util.spec_from_file_location("gpu_check", ROOT / "tools" / "gpu" / "check.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHON": sys.executable}
    return subprocess.run([str(SCRIPT), *arguments], capture_output=True, text=True, env=environment)


@pytest.mark.system
@pytest.mark.torch
@pytest.mark.timeout(300)
def test_models_are_paged_on_the_double_of_a_device(tmp_path: Path) -> None:
    done = run("--doubles", "--out", str(tmp_path), "--only", "facts", "paging")
    assert done.returncode == 0, done.stdout + done.stderr
    found = results(tmp_path)
    assert sorted(found) == ["facts", "paging", "summary"]
    assert found["facts"]["found"]["doubles"]
    assert [turn["model"] for turn in found["paging"]["found"]["turns"]] == ["first", "second"] * 2


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_every_step_runs_with_the_doubles_and_leaves_its_results(tmp_path: Path) -> None:
    done = run("--doubles", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    found = results(tmp_path)
    steps = ["facts", "tests", "nvml", "paging", "bandwidth", "fault"]
    assert sorted(found) == sorted([*steps, "summary"])
    assert all(found[step]["ok"] and found["summary"][step]["ok"] for step in steps)
    assert all(one["memory_back_after_s"] >= 0.4 for one in found["nvml"]["found"]["rounds"])  # the double is late
    assert {row["name"] for row in found["bandwidth"]["found"]["rows"]} >= {"to_device_lane", "from_device_pageable"}
    assert found["fault"]["found"]["large"]["call_s"] > 0
    told = (tmp_path / "table.md").read_text()
    assert "| to_device_lane |" in told
    assert "| fault, s | small | large |" in told


def results(folder: Path) -> dict[str, Any]:
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def steps_of(tmp_path: Path, code: str) -> Path:
    """A copy of the check with steps of its own."""
    folder = tmp_path / "gpu"
    folder.mkdir()
    (folder / "check.py").write_text((ROOT / "tools" / "gpu" / "check.py").read_text())
    (folder / "steps.py").write_text(code)
    return folder / "check.py"


def test_a_step_that_hangs_or_fails_is_ended_and_the_others_run(tmp_path: Path) -> None:
    code = """
import subprocess, time
def hangs(note):
    child = subprocess.Popen(["sleep", "60"])
    note("child", child.pid)
    time.sleep(60)
def raises(note):
    note("half", 1)
    raise ValueError("no such luck")
def dies(note):
    import os
    os._exit(3)
def works(note):
    note("all", 2)
STEPS = {"hangs": (hangs, 5.1), "raises": (raises, 20), "dies": (dies, 20), "works": (works, 20)}
"""
    out = tmp_path / "out"
    command = [sys.executable, str(steps_of(tmp_path, code)), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    found = results(out)
    assert found["hangs"]["why"] == "it took longer than its 5 s"
    child = found["hangs"]["found"]["child"]
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE
    assert found["raises"]["why"] == "ValueError: no such luck"
    assert found["raises"]["found"] == {"half": 1}
    assert "Traceback" in found["raises"]["said"]
    assert found["dies"]["why"] == "it said nothing"
    assert (found["works"]["ok"], found["works"]["found"]) == (True, {"all": 2})
    assert [found["summary"][step]["ok"] for step in ("hangs", "raises", "dies", "works")] == [False] * 3 + [True]


def test_what_has_no_time_left_is_left_out_and_told(check: ModuleType, tmp_path: Path) -> None:
    check.STEPS = {"late": (None, 10)}
    assert check.run_all(["late"], tmp_path, until_s=0.0) == 1
    assert json.loads((tmp_path / "summary.json").read_text())["late"]["why"] == "no time was left for it"
    assert "| late | no time was left for it | 0.0 |" in (tmp_path / "table.md").read_text()


def test_the_steps_fit_into_eight_minutes(check: ModuleType) -> None:
    assert check.TOTAL_S + 30 < 8 * 60
