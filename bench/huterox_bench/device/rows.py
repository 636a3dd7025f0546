"""Rows of copies: how fast, and beside torch's own pinned memory."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from huterox_bench.measure import Measured
from huterox_bench.printing import aligned
from huterox_bench.summary import Figures, median_of

YARDSTICKS = ("to_device_pinned", "from_device_pinned")
"""What the others of the same direction and size are compared with."""


@dataclass(frozen=True, slots=True)
class CopyRow:
    """One kind of copy. `gb_per_s` and the times are medians over `slices`; `ratio_to_pinned` is rate over rate."""

    name: str
    window: int
    nbytes: int
    calls_per_s: float
    p50_us: float
    p99_us: float
    gb_per_s: float
    ratio_to_pinned: float
    slices: int
    seconds: float
    calls: int

    def as_json(self) -> dict[str, Any]:
        """The row as a JSON object, rounded to what the figures mean."""
        return {key: round(value, 3) if isinstance(value, float) else value for key, value in asdict(self).items()}


def rows_of_copies(measured: Sequence[Measured]) -> list[CopyRow]:
    """A row for each load, in order."""
    figures = [median_of(one.slices) for one in measured]
    pinned = {
        (one.load.name.split("_")[0], one.load.shape): of
        for one, of in zip(measured, figures, strict=True)
        if one.load.name in YARDSTICKS
    }
    return [
        _row(one, of, pinned[one.load.name.split("_")[0], one.load.shape])
        for one, of in zip(measured, figures, strict=True)
    ]


def _row(measured: Measured, figures: Figures, pinned: Figures) -> CopyRow:
    nbytes = measured.load.shape.nbytes
    return CopyRow(
        measured.load.name,
        measured.load.shape.window,
        nbytes,
        figures.calls_per_s,
        figures.p50_us,
        figures.p99_us,
        figures.calls_per_s * nbytes / 1e9,
        figures.calls_per_s / pinned.calls_per_s,
        len(measured.slices),
        figures.seconds,
        figures.calls,
    )


def copy_table(rows: Sequence[CopyRow]) -> str:
    """An aligned table."""
    head = ["name", "bytes", "GB/s", "p50 us", "p99 us", "rate / pinned"]
    return aligned([head, *(_cells(row) for row in rows)])


def _cells(row: CopyRow) -> list[str]:
    return [
        row.name,
        f"{row.nbytes:,}",
        f"{row.gb_per_s:.2f}",
        f"{row.p50_us:,.1f}",
        f"{row.p99_us:,.1f}",
        f"{row.ratio_to_pinned:.2f}",
    ]
