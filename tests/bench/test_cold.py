"""Cold starts: what their rows say, and real ones."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from huterox_bench.cold import suite
from huterox_bench.cold.fresh import start_fresh
from huterox_bench.cold.rows import MIB, STAGES, ColdRow, Start, cold_table, row_of_further, rows_of_starts
from huterox_bench.errors import BenchError
from huterox_bench.suites import all_suites
from huterox_wire.nodes import ModelSpec

STAGES_S = {"fork": 0.01, "import": 0.02, "load": 0.03, "warmup": 0.0}
WARM_S = {"zygote": 0.001, **STAGES_S, "measure": 0.005}


def fresh(*totals_s: float) -> list[Start]:
    return [Start(total_s, STAGES_S, 400 * MIB) for total_s in totals_s]


def warm(*totals_s: float) -> list[Start]:
    return [Start(total_s, WARM_S, 50 * MIB, total_s + 0.01) for total_s in totals_s]


def test_a_models_rows_are_medians_and_the_ratio_of_medians() -> None:
    rows = rows_of_starts("tensor", fresh(4.0, 2.0, 9.0), warm(0.1, 0.7, 0.2), 1 / 20)
    assert [(row.name, row.start, row.starts, row.p50_ms) for row in rows] == [
        ("tensor", "fresh", 3, 4000.0),
        ("tensor", "warm", 3, 200.0),
    ]
    assert rows[1].ratio_to_fresh == 0.05
    assert rows[1].call_ms == pytest.approx(210.0)
    assert [row.meets_bar for row in rows] == [None, True]


@pytest.mark.parametrize(("warm_s", "meets"), [(0.2, True), (0.21, False)])
def test_a_bar_is_met_or_not(warm_s: float, meets: bool) -> None:
    assert rows_of_starts("tensor", fresh(4.0), warm(warm_s), 1 / 20)[1].meets_bar is meets


def test_a_model_without_a_bar_meets_none() -> None:
    assert rows_of_starts("reader", fresh(4.0), warm(3.9), None)[1].meets_bar is None


def test_further_containers_are_measured_by_what_all_grow() -> None:
    row = row_of_further("tensor-further", warm(0.1, 0.1, 0.1), [5 * MIB, 30 * MIB, 7 * MIB], 10.0)
    assert (row.further_mib, row.meets_bar, row.ratio_to_fresh) == (7.0, True, None)
    assert not row_of_further("tensor-further", warm(0.1), [11 * MIB], 10.0).meets_bar


def test_json_has_every_stage_and_null_for_those_that_a_way_lacks() -> None:
    row = rows_of_starts("tensor", fresh(4.0), warm(0.1), 1 / 20)[0].as_json()
    assert json.loads(json.dumps(row)) == row
    assert {f"{stage}_ms" for stage in STAGES} <= set(row)
    assert (row["zygote_ms"], row["import_ms"], row["pss_mib"]) == (None, 20.0, 400.0)


def test_the_table_says_which_bars_are_missed() -> None:
    rows = [*rows_of_starts("tensor", fresh(1.0), warm(0.5), 1 / 20), row_of_further("more", warm(0.1), [MIB], 10.0)]
    head, first, second, third = cold_table(rows).splitlines()
    assert head.split()[:4] == ["name", "start", "starts", "p50"]
    assert [line.split()[-1] for line in (first, second, third)] == ["-", "NO", "yes"]


def test_cold_starts_are_no_part_of_the_report() -> None:
    assert not all_suites()["cold"].in_report


def test_what_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "find_spec", lambda name: None if name == "silero_vad" else object())
    assert [subject.spec.name for subject in suite.subjects()] == ["tensor", "embedder", "reader"]
    monkeypatch.setattr(suite, "_DEMO", Path("/no/such/folder"))
    assert [subject.spec.name for subject in suite.subjects()] == ["tensor"]


def model(folder: Path, code: str) -> ModelSpec:
    (folder / "model.py").write_text(code)
    return ModelSpec(name="model", entry="model.py:Model", source_dir=str(folder))


@pytest.mark.system
def test_a_fresh_start_tells_all_stages_and_leaves_no_process(tmp_path: Path) -> None:
    start = start_fresh(model(tmp_path, "import time\ntime.sleep(0.05)\nclass Model:\n    pass\n"))
    assert list(start.timings_s) == ["fork", "import", "load", "warmup"]
    assert 0.05 <= start.timings_s["import"] < start.total_s
    assert sum(start.timings_s.values()) <= start.total_s
    assert start.pss_nbytes > MIB


@pytest.mark.system
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise ValueError('no good')", "cannot be loaded in a fresh interpreter: ValueError: no good"),
        ("import os; os._exit(3)", "has ended in a fresh interpreter before it was ready"),
    ],
)
def test_a_model_that_does_not_come_up_is_one_clear_line(tmp_path: Path, code: str, said: str) -> None:
    with pytest.raises(BenchError, match=said):
        start_fresh(model(tmp_path, code))


@pytest.mark.system
@pytest.mark.torch
@pytest.mark.timeout(180)
def test_the_suite_runs_against_a_node_of_its_own(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """The trivial model alone, once: the demo's folder is hidden."""
    code = (
        "import sys; from pathlib import Path; from huterox_bench.cold import suite; "
        "suite._DEMO = Path('/no/such/folder'); suite.FURTHER = 2; "
        "from huterox_bench.__main__ import main; sys.exit(main(['cold', '--slices', '1', '-o', 'json']))"
    )
    monkeypatch.setenv("TMPDIR", str(folder))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=170, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    rows: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["name"], row["start"]) for row in rows] == [
        ("tensor", "fresh"),
        ("tensor", "warm"),
        ("tensor-further", "warm"),
    ]
    assert rows[1]["ratio_to_fresh"] > 0
    assert rows[2]["further_mib"] > 0
    assert list(folder.iterdir()) == []


def test_a_row_is_rounded_and_keeps_its_keys() -> None:
    row = ColdRow("a", "warm", 1, 1.23456, dict.fromkeys(STAGES)).as_json()
    assert row["p50_ms"] == 1.2346
    assert {"name", "start", "starts", "ratio_to_fresh", "bar", "meets_bar", "further_mib"} <= set(row)
