"""From latencies to figures: percentiles of a slice, medians over slices."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median

from huterox_bench.errors import BenchError
from huterox_bench.loads import Slice


@dataclass(frozen=True, slots=True)
class SliceFigures:
    """One slice in numbers. `share_min`: the rate of the slowest of several callers, over that of the average one."""

    calls: int
    seconds: float
    calls_per_s: float
    p50_us: float
    p99_us: float
    callers: int = 1
    share_min: float | None = None


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The least value that `percent` of all do not exceed (nearest rank). `ordered` is ascending and not empty."""
    return ordered[max(0, ceil(len(ordered) * percent / 100) - 1)]


def figures_of(slice_: Slice) -> SliceFigures:
    """The figures of one slice. Raises BenchError for one without a call."""
    calls = len(slice_.latencies_ns)
    if not calls or slice_.elapsed_ns <= 0:
        raise BenchError("a slice has ended without a call")
    ordered = sorted(slice_.latencies_ns)
    seconds = slice_.elapsed_ns / 1e9
    return SliceFigures(
        calls,
        seconds,
        calls / seconds,
        percentile(ordered, 50) / 1e3,
        percentile(ordered, 99) / 1e3,
        len(slice_.shares) or 1,
        min(slice_.shares, default=None),
    )


@dataclass(frozen=True, slots=True)
class Figures:
    """A load in numbers: medians over its slices, and how far the slices lie apart."""

    calls: int
    seconds: float
    calls_per_s: float
    calls_per_s_min: float
    calls_per_s_max: float
    p50_us: float
    p99_us: float
    callers: int
    share_min: float | None


def median_of(slices: Sequence[SliceFigures]) -> Figures:
    """The medians over slices; calls and seconds are sums."""
    rates = [one.calls_per_s for one in slices]
    shares = [one.share_min for one in slices if one.share_min is not None]
    return Figures(
        sum(one.calls for one in slices),
        sum(one.seconds for one in slices),
        median(rates),
        min(rates),
        max(rates),
        median(one.p50_us for one in slices),
        median(one.p99_us for one in slices),
        max(one.callers for one in slices),
        median(shares) if shares else None,
    )
