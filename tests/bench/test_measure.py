"""Loads are measured in turns."""

from array import array

import pytest

from huterox_bench.errors import BenchError
from huterox_bench.loads import Shape, Slice, SliceLimit
from huterox_bench.measure import Plan, interleave


class Fake:
    """A load whose slices are given: calls, each of one microsecond."""

    def __init__(self, name: str, journal: list[tuple[str, float]], calls: int = 10) -> None:
        self.name = name
        self.shape = Shape(1, 8)
        self._journal = journal
        self._calls = calls

    def run(self, limit: SliceLimit) -> Slice:
        self._journal.append((self.name, limit.seconds))
        return Slice(array("q", [1000] * self._calls), 1000 * max(1, self._calls))


def test_every_load_is_warmed_up_and_then_they_take_turns() -> None:
    journal: list[tuple[str, float]] = []
    loads = [Fake("a", journal), Fake("b", journal), Fake("c", journal)]
    measured = interleave(loads, Plan(seconds=9.0, slices=3))
    assert [name for name, _ in journal] == [*"abc", *"abc", *"abc", *"abc"]
    assert [seconds for _, seconds in journal] == [0.5] * 3 + [3.0] * 9
    assert [one.load for one in measured] == loads
    assert all(len(one.slices) == 3 for one in measured)


def test_the_warm_up_does_not_count() -> None:
    class Cold(Fake):
        def run(self, limit: SliceLimit) -> Slice:
            self._calls += 1
            return super().run(limit)

    (measured,) = interleave([Cold("cold", [], calls=0)], Plan(seconds=1.0, slices=2))
    assert [slice_.calls for slice_ in measured.slices] == [2, 3]


def test_progress_is_told() -> None:
    said: list[str] = []
    interleave([Fake("a", [])], Plan(seconds=1.0, slices=2), said.append)
    assert said == ["warming up a, window 1, 8 bytes", "slice 1 of 2", "slice 2 of 2"]


def test_a_load_that_fails_ends_the_measurement() -> None:
    with pytest.raises(BenchError):
        interleave([Fake("empty", [], calls=0)], Plan(seconds=1.0, slices=2))
