"""The report: every suite, with the machine that it ran on, as Markdown for people and JSON for programs."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from huterox_bench.printing import markdown
from huterox_bench.rows import Row

RESULTS = Path("bench/results")

READING = """
`calls/s`, `p50` and `p99` are medians over the slices. *p50 / eventfd*: the p50 over that of a bare eventfd round trip
between two processes (small is good); *p50 / apart*: the same where these run on two processors. *rate / proxy*: calls
per second over those of libzmq's C proxy with an echo worker, at the same window and size (large is good). *least
share*: where several processes call at the same time, the rate of the slowest over that of the average one. All rows of
a table were measured in turns.

`lane_peek` calls a method that only looks at its input's first element: what is left is the price of the way, whatever
the size. `lane_shared`: four callers of one container; `lane_crowd`: eight containers with one caller each.
"""


def write_report(
    suites: Mapping[str, Sequence[Row]], machine: Mapping[str, Any], command: str, now: datetime, folder: Path = RESULTS
) -> list[Path]:
    """Write `<utc time>.md` and `.json` into the folder and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = now.astimezone(UTC).strftime("%Y-%m-%dT%H%M%SZ")
    paths = [folder / f"{stem}.md", folder / f"{stem}.json"]
    paths[0].write_text(as_markdown(suites, machine, command, stem), encoding="utf-8")
    document = {
        "at": stem,
        "command": command,
        "machine": dict(machine),
        "suites": {name: [row.as_json() for row in rows] for name, rows in suites.items()},
    }
    paths[1].write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return paths


def as_markdown(suites: Mapping[str, Sequence[Row]], machine: Mapping[str, Any], command: str, at: str) -> str:
    """The report's text."""
    facts = "".join(f"| {name} | {'-' if value is None else value} |\n" for name, value in machine.items())
    tables = "".join(f"## {name}\n\n{markdown(rows)}\n" for name, rows in suites.items())
    return (
        f"# Huterox bench, {at}\n\n`{command}`\n\n{tables}{READING.strip()}\n\n## Machine\n\n| | |\n|---|---|\n{facts}"
    )
