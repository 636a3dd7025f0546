"""Verdicts as a picture: misses, seconds of loading and waits, policy by policy, over the capacities."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from huterox_bench.court.bound import check_court_extra
from huterox_bench.court.tally import Verdict
from huterox_bench.court.trial import BOUND, JUDGED
from huterox_wire.errors import InvalidInput

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE_INCHES: Final = (12.0, 8.0)
DPI: Final = 120
FORMATS: Final = (".png", ".pdf", ".svg")

Panel = tuple[str, Callable[[Verdict], float | None]]
PANELS: Final[tuple[Panel, ...]] = (
    ("misses, % of requests", lambda verdict: 100 * verdict.miss_ratio),
    ("loading, seconds", lambda verdict: verdict.load_seconds),
    ("mean wait of served calls, seconds", lambda verdict: verdict.mean_wait_s),
    ("99th percentile of their waits, seconds", lambda verdict: verdict.p99_wait_s),
)


def check_plot(path: Path) -> None:
    """Raise InvalidInput where no picture can be drawn, before anything is replayed."""
    check_court_extra()
    if path.suffix.lower() not in FORMATS:
        raise InvalidInput(f"{path}: a plot's name ends in one of {', '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise InvalidInput(f"{path.parent}: no such folder")


def draw(verdicts: Sequence[Verdict], title: str, path: Path) -> None:
    """Write the picture. Bars where there is one capacity, lines over the capacities where there are more."""
    from matplotlib.figure import Figure

    policies = [name for name in JUDGED if any(verdict.policy == name for verdict in verdicts)]
    colours = _colours(policies)
    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    one = len({verdict.capacity_mb for verdict in verdicts}) == 1
    for axes, (label, value) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        (_bars if one else _lines)(axes, verdicts, policies, value, colours)
        axes.set_title(label, fontsize=11)
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    if not one:
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", frameon=False)
    figure.suptitle(title, fontsize=12)
    try:
        figure.savefig(path, dpi=DPI)
    except OSError as exc:
        raise InvalidInput(f"{path}: {exc.strerror or exc}") from exc


def _colours(policies: Sequence[str]) -> dict[str, Any]:
    """Those who know the future are black and grey."""
    from matplotlib import colormaps

    shades = colormaps["tab10"].colors  # type: ignore[attr-defined]
    return {name: shades[JUDGED.index(name) % 10] for name in policies} | {BOUND: "black", "opt": "dimgrey"}


def _bars(
    axes: "Axes",
    verdicts: Sequence[Verdict],
    policies: Sequence[str],
    value: Callable[[Verdict], float | None],
    colours: dict[str, Any],
) -> None:
    known = [(verdict.policy, number) for verdict in verdicts if (number := value(verdict)) is not None]
    names = [name for name, _ in known]
    bars = axes.bar(names, [number for _, number in known], color=[colours[name] for name in names])
    axes.bar_label(bars, fmt="%.3g", fontsize=8)
    axes.tick_params(axis="x", labelrotation=45)


def _lines(
    axes: "Axes",
    verdicts: Sequence[Verdict],
    policies: Sequence[str],
    value: Callable[[Verdict], float | None],
    colours: dict[str, Any],
) -> None:
    for name in policies:
        mine = sorted((v for v in verdicts if v.policy == name), key=lambda v: v.capacity_mb)
        known = [(verdict.capacity_mb, number) for verdict in mine if (number := value(verdict)) is not None]
        if known:
            dashes = "--" if name in (BOUND, "opt") else "-"
            axes.plot(*zip(*known, strict=True), dashes, marker="o", markersize=4, label=name, color=colours[name])
    axes.set_xticks(sorted({verdict.capacity_mb for verdict in verdicts}))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("memory of a node, MB")
