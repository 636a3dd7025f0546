"""Verdicts for people and for programs."""

import json
from collections.abc import Sequence
from itertools import groupby

from huterox_bench.court.tally import Verdict

COLUMNS = (
    "policy",
    "requests",
    "hits",
    "misses",
    "joined",
    "refused",
    "miss %",
    "evictions",
    "load s",
    "x bound",
    "p50 wait s",
    "p99 wait s",
)
ABOUT_BOUND = """\
x bound: seconds of loading, as a multiple of what no schedule can do without that serves the same calls in the same
order. The row `bound` is the least of these, and of that for all calls, each served as it comes.
"""


def as_json(verdicts: Sequence[Verdict], *, one: bool) -> str:
    """A JSON document: one object, or a list of them."""
    objects = [verdict.as_json() for verdict in verdicts]
    return json.dumps(objects[0] if one else objects, indent=2, allow_nan=False) + "\n"


def cells_of(verdict: Verdict) -> list[str]:
    """The texts of a row, under `COLUMNS`."""
    return [
        verdict.policy,
        str(verdict.requests),
        str(verdict.hits),
        str(verdict.misses),
        str(verdict.joined),
        str(verdict.refused),
        f"{100 * verdict.miss_ratio:.1f}",
        "-" if verdict.evictions is None else str(verdict.evictions),
        f"{verdict.load_seconds:.1f}",
        _number(verdict.ratio_to_bound, 2),
        _number(verdict.p50_wait_s, 3),
        _number(verdict.p99_wait_s, 3),
    ]


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def table(verdicts: Sequence[Verdict]) -> str:
    """Aligned columns, one block for each capacity."""
    blocks = [
        f"{_title(block[0])}\n{_aligned([list(COLUMNS), *map(cells_of, block)])}"
        for block in (list(group) for _, group in groupby(verdicts, lambda verdict: verdict.capacity_mb))
    ]
    about = [ABOUT_BOUND] if any(verdict.bound_loads is not None for verdict in verdicts) else []
    return "\n".join([*blocks, *about])


def _title(verdict: Verdict) -> str:
    nodes = f"{verdict.nodes} nodes of " if verdict.nodes > 1 else ""
    return f"{nodes}{verdict.capacity_mb:g} MB"


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    """The name to the left, numbers to the right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    return "".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() + "\n" for line in lines
    )
