"""Rows of starts: medians of their stages, and what a warm start takes of a fresh one."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Final, NamedTuple

from huterox_bench.printing import aligned

MIB: Final = 1024 * 1024
STAGES: Final = ("zygote", "fork", "import", "load", "warmup", "measure")
"""`zygote`: the order's way to the process that forks; `measure`: the kernel counts the new one's memory."""


class Start(NamedTuple):
    """One start. `total_s` is a little more than its stages, `timings_s`, together: messages lie between them.

    `call_s` is the time of the call that led to it, the model's work in it included.
    """

    total_s: float
    timings_s: dict[str, float]
    pss_nbytes: int
    call_s: float | None = None


@dataclass(frozen=True, slots=True)
class ColdRow:
    """One model, started in one way. Times are medians, in milliseconds; of a stage that this way lacks, None.

    `start`: "fresh" in an interpreter of its own, from the command to the loaded model; "warm" through the whole chain,
    from the switchboard's decision to its container's readiness. `call_ms` is what the caller waited for his first
    answer. `ratio_to_fresh` is p50 over p50, and `bar` what it may be at most. `further_mib` is how much the memory of
    all processes together grows with one more container.
    """

    name: str
    start: str
    starts: int
    p50_ms: float
    stages_ms: dict[str, float | None]
    call_ms: float | None = None
    pss_mib: float | None = None
    ratio_to_fresh: float | None = None
    further_mib: float | None = None
    bar: float | None = None

    @property
    def meets_bar(self) -> bool | None:
        """None where there is none."""
        if self.bar is None:
            return None
        value = self.ratio_to_fresh if self.further_mib is None else self.further_mib
        return value is not None and value <= self.bar

    def as_json(self) -> dict[str, Any]:
        """The row as a JSON object, rounded to what the figures mean."""
        row = asdict(self)
        stages = {f"{stage}_ms": took_ms for stage, took_ms in row.pop("stages_ms").items()}
        row |= {**stages, "meets_bar": self.meets_bar}
        return {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}


def rows_of_starts(name: str, fresh: Sequence[Start], warm: Sequence[Start], bar: float | None) -> list[ColdRow]:
    """A model's two rows."""
    ratio = median(start.total_s for start in warm) / median(start.total_s for start in fresh)
    return [
        ColdRow(name, "fresh", len(fresh), **_medians(fresh)),
        ColdRow(name, "warm", len(warm), **_medians(warm), ratio_to_fresh=ratio, bar=bar),
    ]


def row_of_further(name: str, starts: Sequence[Start], grown_nbytes: Sequence[int], bar_mib: float) -> ColdRow:
    """What each container costs beside others of its kind."""
    return ColdRow(name, "warm", len(starts), **_medians(starts), further_mib=median(grown_nbytes) / MIB, bar=bar_mib)


def _medians(starts: Sequence[Start]) -> dict[str, Any]:
    stages: dict[str, float | None] = {}
    for stage in STAGES:
        took_s = [start.timings_s[stage] for start in starts if stage in start.timings_s]
        stages[stage] = median(took_s) * 1e3 if took_s else None
    calls_s = [start.call_s for start in starts if start.call_s is not None]
    return {
        "call_ms": median(calls_s) * 1e3 if calls_s else None,
        "p50_ms": median(start.total_s for start in starts) * 1e3,
        "stages_ms": stages,
        "pss_mib": median(start.pss_nbytes for start in starts) / MIB,
    }


def cold_table(rows: Sequence[ColdRow]) -> str:
    """An aligned table."""
    head = [
        "name",
        "start",
        "starts",
        "p50 ms",
        *STAGES,
        "call",
        "PSS MiB",
        "further MiB",
        "warm / fresh",
        "bar",
        "met",
    ]
    return aligned([head, *(_cells(row) for row in rows)])


def _cells(row: ColdRow) -> list[str]:
    return [
        row.name,
        row.start,
        str(row.starts),
        _number(row.p50_ms, 1),
        *(_number(row.stages_ms[stage], 1) for stage in STAGES),
        _number(row.call_ms, 1),
        _number(row.pss_mib, 1),
        _number(row.further_mib, 1),
        _number(row.ratio_to_fresh, 4),
        _number(row.bar, 2),
        {None: "-", True: "yes", False: "NO"}[row.meets_bar],
    ]


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
