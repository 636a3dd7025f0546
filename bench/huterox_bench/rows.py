"""Rows: a load's medians, and its ratios to the limits that were measured in turns with it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from huterox_bench.loads import Shape
from huterox_bench.measure import Measured
from huterox_bench.summary import Figures, median_of

EVENTFD_RTT = "eventfd_rtt"
EVENTFD_APART = "eventfd_apart"
ZMQ_PROXY = "zmq_proxy"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a bench's answer. A ratio is None where its limit was not measured with this shape.

    `calls_per_s`, `p50_us` and `p99_us` are medians over `slices`; `seconds` and `calls` are sums over them.
    `ratio_to_eventfd_rtt` is p50 over p50 (small is good), `ratio_to_eventfd_apart` the same to the round trip
    across two processors, and `ratio_to_zmq_proxy` calls/s over calls/s at the same window and size (large is good).
    `window` is that of all `callers` together. `share_min` is the rate of the slowest of several callers over that of
    the average one, a median over slices too.
    """

    name: str
    window: int
    nbytes: int
    calls_per_s: float
    p50_us: float
    p99_us: float
    ratio_to_eventfd_rtt: float | None
    ratio_to_zmq_proxy: float | None
    slices: int
    seconds: float
    calls: int
    calls_per_s_min: float
    calls_per_s_max: float
    callers: int = 1
    share_min: float | None = None
    ratio_to_eventfd_apart: float | None = None

    def as_json(self) -> dict[str, Any]:
        """The row as a JSON object, rounded to what the figures mean."""
        return {key: _rounded(value) for key, value in asdict(self).items()}


def _rounded(value: Any) -> Any:
    return round(value, 3 if abs(value) < 1000 else 1) if isinstance(value, float) else value


def rows_of(measured: Sequence[Measured]) -> list[Row]:
    """A row for each load, in order."""
    figures = [median_of(one.slices) for one in measured]
    known = {(one.load.name, one.load.shape): of for one, of in zip(measured, figures, strict=True)}
    of_name = {name: of for (name, _), of in known.items()}
    eventfd, apart = of_name.get(EVENTFD_RTT), of_name.get(EVENTFD_APART)
    return [
        _row(one, of, eventfd, apart, known.get((ZMQ_PROXY, Shape(*one.load.shape))))
        for one, of in zip(measured, figures, strict=True)
    ]


def _row(
    measured: Measured, figures: Figures, eventfd: Figures | None, apart: Figures | None, proxy: Figures | None
) -> Row:
    return Row(
        measured.load.name,
        *measured.load.shape,
        figures.calls_per_s,
        figures.p50_us,
        figures.p99_us,
        figures.p50_us / eventfd.p50_us if eventfd else None,
        figures.calls_per_s / proxy.calls_per_s if proxy else None,
        len(measured.slices),
        figures.seconds,
        figures.calls,
        figures.calls_per_s_min,
        figures.calls_per_s_max,
        figures.callers,
        figures.share_min,
        figures.p50_us / apart.p50_us if apart else None,
    )
