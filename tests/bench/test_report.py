"""The report and the facts of the machine."""

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from huterox_bench.machine import cpu_model, machine_facts
from huterox_bench.report import write_report
from huterox_bench.rows import Row

ROW = Row("routed", 1, 1024, 2000.0, 400.0, 900.0, 40.0, 0.4, 7, 3.0, 6000, 1900.0, 2100.0)
NOW = datetime(2031, 2, 3, 4, 5, 6, tzinfo=timezone(timedelta(hours=1)))


def test_a_report_is_written_as_text_and_as_json_under_its_time(tmp_path: Path) -> None:
    facts = {"cpu": "A fast one", "torch": None}
    text, data = write_report({"routed": [ROW], "limits": []}, facts, "bench it", NOW, tmp_path / "new" / "results")
    assert text.name == "2031-02-03T030506Z.md"
    assert data == text.with_suffix(".json")

    written = text.read_text(encoding="utf-8")
    for part in (
        "`bench it`",
        "## routed",
        "## limits",
        "| routed | 1 | 1,024 | 2,000 |",
        "| cpu | A fast one |",
        "| torch | - |",
    ):
        assert part in written
    document = json.loads(data.read_text(encoding="utf-8"))
    assert document["at"] == "2031-02-03T030506Z"
    assert document["machine"] == facts
    assert document["suites"] == {"routed": [ROW.as_json()], "limits": []}


def test_the_facts_of_this_machine_are_plain_values() -> None:
    facts = machine_facts()
    assert json.loads(json.dumps(facts)) == facts
    assert {"cpu", "cores", "kernel", "python", "libzmq", "pyzmq", "numpy", "huterox"} <= set(facts)
    assert facts["cores"] >= 1
    assert datetime.now(UTC).tzinfo is UTC


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("processor: 0\nmodel name\t: Xeon @ 2: fast\nmodel name: other\n", "Xeon @ 2: fast"),
        ("processor: 0\n", None),
        (None, None),
    ],
)
def test_the_processor_is_named_where_the_system_tells(tmp_path: Path, text: str | None, model: str | None) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    if text is not None:
        cpuinfo.write_text(text)
    assert cpu_model(cpuinfo) == (model or machine_facts()["architecture"])
