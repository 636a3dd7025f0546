"""Rows for people and for programs."""

import json
from collections.abc import Sequence
from typing import Any, Protocol

from huterox_bench.rows import Row

COLUMNS = (
    "name",
    "window",
    "bytes",
    "calls/s",
    "p50 us",
    "p99 us",
    "p50 / eventfd",
    "p50 / apart",
    "rate / proxy",
    "least share",
    "slices",
    "seconds",
)


class Printed(Protocol):
    """A row of any suite."""

    def as_json(self) -> dict[str, Any]:
        """The row as a JSON object."""


def json_lines(rows: Sequence[Printed]) -> str:
    """One JSON object for each row, one a line."""
    return "".join(f"{json.dumps(row.as_json())}\n" for row in rows)


def cells_of(row: Row) -> list[str]:
    """The texts of a row, under `COLUMNS`."""
    return [
        row.name,
        str(row.window),
        f"{row.nbytes:,}",
        f"{row.calls_per_s:,.0f}",
        f"{row.p50_us:,.1f}",
        f"{row.p99_us:,.1f}",
        _ratio(row.ratio_to_eventfd_rtt),
        _ratio(row.ratio_to_eventfd_apart),
        _ratio(row.ratio_to_zmq_proxy),
        _ratio(row.share_min),
        str(row.slices),
        f"{row.seconds:.1f}",
    ]


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def table(rows: Sequence[Row]) -> str:
    """An aligned table of calls."""
    return aligned([list(COLUMNS), *(cells_of(row) for row in rows)])


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """An aligned table with its head: the name to the left, numbers to the right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() + "\n" for line in lines
    )


def markdown(rows: Sequence[Row]) -> str:
    """A Markdown table."""
    head = f"| {' | '.join(COLUMNS)} |\n|---{'|--:' * (len(COLUMNS) - 1)}|\n"
    return head + "".join(f"| {' | '.join(cells_of(row))} |\n" for row in rows)
