"""Percentiles and medians."""

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from huterox_bench.errors import BenchError
from huterox_bench.loads import Slice
from huterox_bench.summary import SliceFigures, figures_of, median_of, percentile


def test_percentiles_are_nearest_ranks() -> None:
    values = list(range(1, 101))
    assert [percentile(values, percent) for percent in (0, 1, 50, 99, 99.5, 100)] == [1, 1, 50, 99, 100, 100]
    assert percentile([7], 50) == percentile([7], 99) == 7
    assert percentile([1, 2], 50) == 1


@given(st.lists(st.integers(), min_size=1), st.floats(0, 100))
def test_a_percentile_is_one_of_the_values_and_enough_lie_below(values: list[int], percent: float) -> None:
    values.sort()
    found = percentile(values, percent)
    assert found in values
    assert sum(value <= found for value in values) * 100 >= percent * len(values) * (1 - 1e-9)


def test_a_slice_in_numbers() -> None:
    latencies = array("q", [4000, 1000, 3000, 2000])
    assert figures_of(Slice(latencies, 10_000)) == SliceFigures(4, 1e-5, pytest.approx(400_000), 2.0, 4.0)
    assert list(latencies) == [4000, 1000, 3000, 2000]


@pytest.mark.parametrize("slice_", [Slice(array("q"), 10), Slice(array("q", [1]), 0)])
def test_a_slice_without_calls_or_time_is_an_error(slice_: Slice) -> None:
    with pytest.raises(BenchError):
        figures_of(slice_)


def test_the_figures_of_a_load_are_medians_and_sums() -> None:
    slices = [
        SliceFigures(10, 1.0, 10.0, 5.0, 9.0),
        SliceFigures(90, 1.0, 90.0, 1.0, 2.0),
        SliceFigures(20, 1.0, 20.0, 4.0, 8.0),
    ]
    figures = median_of(slices)
    assert (figures.calls, figures.seconds) == (120, 3.0)
    assert (figures.calls_per_s, figures.calls_per_s_min, figures.calls_per_s_max) == (20.0, 10.0, 90.0)
    assert (figures.p50_us, figures.p99_us) == (4.0, 8.0)
