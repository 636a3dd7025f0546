"""The measurement: all loads in turns, a slice each, over and over."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from huterox_bench.loads import Load, SliceLimit
from huterox_bench.summary import SliceFigures, figures_of

SECONDS = 3.0
SLICES = 7
WARM_UP_S_MAX = 0.5
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to measure each load, and in how many slices."""

    seconds: float = SECONDS
    slices: int = SLICES
    calls_max: int = 200_000  # in one slice

    @property
    def slice_limit(self) -> SliceLimit:
        """The limit of one slice."""
        return SliceLimit(self.seconds / self.slices, self.calls_max)

    @property
    def warm_up_limit(self) -> SliceLimit:
        """The limit of the first slice, which counts for nothing: pages are touched, connections made."""
        return SliceLimit(min(WARM_UP_S_MAX, self.seconds / self.slices), self.calls_max)


@dataclass(frozen=True, slots=True)
class Measured:
    """A load and what each of its slices has shown, in order."""

    load: Load
    slices: tuple[SliceFigures, ...]


def interleave(loads: Sequence[Load], plan: Plan, progress: Progress = lambda _: None) -> list[Measured]:
    """Measure all loads in turns: A B C A B C ..., after a slice of each that does not count."""
    for load in loads:
        progress(f"warming up {load.name}, window {load.shape.window}, {load.shape.nbytes} bytes")
        load.run(plan.warm_up_limit)
    slices: list[list[SliceFigures]] = [[] for _ in loads]
    for turn in range(plan.slices):
        progress(f"slice {turn + 1} of {plan.slices}")
        for load, figures in zip(loads, slices, strict=True):
            figures.append(figures_of(load.run(plan.slice_limit)))
    return [Measured(load, tuple(figures)) for load, figures in zip(loads, slices, strict=True)]
