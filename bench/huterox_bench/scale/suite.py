"""Measures platforms of several sizes, one after another, and sets the times of each kind of decision side by side."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Any

from huterox_bench.scale.clocked import Clocked
from huterox_bench.scale.platform import Platform
from huterox_bench.scale.shape import NODES, WARM_CALLS, Shape
from huterox_bench.scale.traffic import Traffic

LISTS = ("services", "ps", "nodes", "models", "usage")

NODES_LOST = 3
"""At the end of each measurement."""


@dataclass(frozen=True, slots=True)
class Times:
    """One kind of decision on one platform, in microseconds."""

    nodes: int
    services: int
    containers: int
    kind: str
    decisions: int
    p50_us: float
    p99_us: float
    max_us: float

    def as_json(self) -> dict[str, Any]:
        names = ("nodes", "services", "containers", "kind", "decisions")
        times = {f"{name}_us": round(getattr(self, f"{name}_us"), 2) for name in ("p50", "p99", "max")}
        return {**{name: getattr(self, name) for name in names}, **times}


def measure_scale(
    shapes: Sequence[Shape] = tuple(map(Shape.of, NODES)), progress: Callable[[str], None] = lambda _: None
) -> list[Times]:
    """The times of every kind of decision on every platform."""
    return [times for shape in shapes for times in measure(shape, progress)]


def measure(shape: Shape, progress: Callable[[str], None] = lambda _: None) -> list[Times]:
    """Build a platform, fill its memory, and measure what comes then. Building is measured too: its verbs are."""
    clocked = Clocked()
    platform = Platform(shape, clocked)
    progress(f"{shape.nodes} nodes: building")
    platform.build()
    traffic = Traffic(platform)
    progress(f"{shape.nodes} nodes: filling")
    traffic.run(WARM_CALLS * shape.nodes)
    clocked.forget_all_but("verb")
    gc.collect()  # what was built stays: a collection that finds it is the interpreter's time and not the core's
    gc.freeze()
    try:
        progress(f"{shape.nodes} nodes: measuring")
        traffic.run(shape.calls)
        read_lists(platform)
        containers = len(platform.board.registry.containers)
        platform.lose_nodes(NODES_LOST)
        return times_of(shape, containers, clocked)
    finally:
        gc.unfreeze()


def read_lists(platform: Platform) -> None:
    """Every list, page by page to its end."""
    for verb in LISTS:
        after = ""
        while after := platform.ask(verb, after=after)["next"]:
            pass


def times_of(shape: Shape, containers: int, clocked: Clocked) -> list[Times]:
    """A row for each kind, by its name."""
    made = []
    for kind, times in sorted(clocked.kinds().items()):
        cuts = quantiles(times, n=100, method="inclusive") if len(times) > 1 else [times[0]] * 99
        figures = (len(times), cuts[49], cuts[98], max(times))
        made.append(Times(shape.nodes, shape.services, containers, kind, *figures))
    return made


def table(rows: Sequence[Times]) -> str:
    """A line for each kind: its median and p99 on each platform, and how they grew from the first to the last."""
    platforms = list(dict.fromkeys((row.nodes, row.services, row.containers) for row in rows))
    known = {(row.kind, row.nodes, row.services): row for row in rows}
    heads = [f"{nodes:,} nodes, {services:,} services, {held:,} containers" for nodes, services, held in platforms]
    lines = [f"p50 / p99 in us on: {'; '.join(heads)}"]
    for kind in dict.fromkeys(row.kind for row in rows):
        found = [known.get((kind, nodes, services)) for nodes, services, _ in platforms]
        cells = [f"{row.p50_us:11,.1f} /{row.p99_us:11,.1f}" if row else f"{'-':>25}" for row in found]
        lines.append(f"{kind:28}{''.join(cells)}   {_growth(found[0], found[-1])}")
    return "\n".join(lines) + "\n"


def _growth(first: Times | None, last: Times | None) -> str:
    if first is None or last is None or first is last:
        return ""
    return f"x {last.p50_us / first.p50_us:6.1f} / {last.p99_us / first.p99_us:6.1f}"
