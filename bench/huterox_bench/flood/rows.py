"""Rows of floods: what a polite caller's calls take during one, beside what they take without."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Final, NamedTuple

from huterox_bench.printing import aligned
from huterox_bench.summary import SliceFigures

BAR: Final = 3.0
"""A polite caller's p99 may grow by this factor."""


class Turn(NamedTuple):
    """A phase without a flood and the one with it that followed; of the flood, answers a second and errors in them."""

    quiet: SliceFigures
    flooded: SliceFigures
    flood_per_s: float
    flood_errors: float


@dataclass(frozen=True, slots=True)
class FloodRow:
    """One kind of flood. All are medians over `turns`; `calls` are the fewest of one phase.

    `p99_ratio` is p99 over p99, and `bar` what it must stay below. A flood that does not reach the platform has none:
    its ratio is what the machine does to a caller where something else is busy.
    """

    name: str
    turns: int
    calls: int
    quiet_p50_us: float
    quiet_p99_us: float
    p50_us: float
    p99_us: float
    p99_ratio: float
    flood_per_s: float
    flood_errors: float
    bar: float | None

    @property
    def meets_bar(self) -> bool | None:
        """None where there is none."""
        return None if self.bar is None else self.p99_ratio < self.bar

    def as_json(self) -> dict[str, Any]:
        """The row as a JSON object, rounded to what the figures mean."""
        row = {**asdict(self), "meets_bar": self.meets_bar}
        return {key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}


def row_of_turns(name: str, turns: Sequence[Turn], bar: float | None) -> FloodRow:
    """A flood's row."""
    quiet_p99_us, p99_us = (median(one.p99_us for one in side) for side in _sides(turns))
    quiet_p50_us, p50_us = (median(one.p50_us for one in side) for side in _sides(turns))
    return FloodRow(
        name,
        len(turns),
        min(one.calls for side in _sides(turns) for one in side),
        quiet_p50_us,
        quiet_p99_us,
        p50_us,
        p99_us,
        p99_us / quiet_p99_us,
        median(turn.flood_per_s for turn in turns),
        median(turn.flood_errors for turn in turns),
        bar,
    )


def _sides(turns: Sequence[Turn]) -> tuple[list[SliceFigures], list[SliceFigures]]:
    return [turn.quiet for turn in turns], [turn.flooded for turn in turns]


def flood_table(rows: Sequence[FloodRow]) -> str:
    """An aligned table."""
    head = ["flood", "turns", "calls", "quiet p50 us", "p99 us", "flooded p50 us", "p99 us", "p99 / quiet p99"]
    return aligned([[*head, "bar", "met", "flood/s", "errors"], *(_cells(row) for row in rows)])


def _cells(row: FloodRow) -> list[str]:
    times_us = (row.quiet_p50_us, row.quiet_p99_us, row.p50_us, row.p99_us)
    return [
        row.name,
        str(row.turns),
        str(row.calls),
        *(f"{time_us:,.0f}" for time_us in times_us),
        f"{row.p99_ratio:.2f}",
        "-" if row.bar is None else f"{row.bar:g}",
        {None: "-", True: "yes", False: "NO"}[row.meets_bar],
        f"{row.flood_per_s:,.0f}",
        f"{row.flood_errors:.0%}",
    ]
