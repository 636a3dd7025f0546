"""Rows and their ratios, and how they are printed."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from huterox_bench.loads import Shape, Slice, SliceLimit
from huterox_bench.measure import Measured
from huterox_bench.printing import COLUMNS, cells_of, json_lines, markdown, table
from huterox_bench.rows import Row, rows_of
from huterox_bench.summary import SliceFigures

KEYS = {
    *("name", "window", "nbytes", "calls_per_s", "p50_us", "p99_us"),
    *("ratio_to_eventfd_rtt", "ratio_to_zmq_proxy", "slices", "seconds"),
}


class Named:
    def __init__(self, name: str, window: int, nbytes: int) -> None:
        self.name = name
        self.shape = Shape(window, nbytes)

    def run(self, limit: SliceLimit) -> Slice:
        raise AssertionError(limit)


def measured(name: str, window: int, nbytes: int, calls_per_s: float, p50_us: float) -> Measured:
    slices = [SliceFigures(10, 0.5, calls_per_s * factor, p50_us * factor, p50_us * 9) for factor in (0.5, 1, 3)]
    return Measured(Named(name, window, nbytes), tuple(slices))


@pytest.fixture
def rows() -> list[Row]:
    return rows_of(
        [
            measured("eventfd_rtt", 1, 8, 50_000, 10),
            measured("zmq_proxy", 1, 1024, 5_000, 200),
            measured("zmq_proxy", 64, 1024, 20_000, 3_000),
            measured("routed", 1, 1024, 2_000, 400),
            measured("routed", 64, 1024, 15_000, 4_000),
            measured("routed", 4, 4_915_200, 100, 40_000),
        ]
    )


def test_ratios_are_taken_at_the_same_window_and_size(rows: list[Row]) -> None:
    assert [row.ratio_to_eventfd_rtt for row in rows] == [1, 20, 300, 40, 400, 4000]
    assert [row.ratio_to_zmq_proxy for row in rows] == [None, 1, 1, 0.4, 0.75, None]


def test_figures_are_medians_over_the_slices(rows: list[Row]) -> None:
    routed = rows[3]
    assert (routed.calls_per_s, routed.p50_us, routed.p99_us) == (2000, 400, 3600)
    assert (routed.slices, routed.seconds, routed.calls) == (3, 1.5, 30)
    assert (routed.calls_per_s_min, routed.calls_per_s_max) == (1000, 6000)


def test_without_limits_there_are_no_ratios() -> None:
    (row,) = rows_of([measured("routed", 1, 1024, 2_000, 400)])
    assert row.ratio_to_eventfd_rtt is None
    assert row.ratio_to_zmq_proxy is None


def test_a_row_is_a_json_object_a_line(rows: list[Row]) -> None:
    objects = [json.loads(line) for line in json_lines(rows).splitlines()]
    assert len(objects) == len(rows)
    assert all(set(one) >= KEYS for one in objects)
    assert objects[0]["ratio_to_zmq_proxy"] is None
    assert objects[4]["ratio_to_zmq_proxy"] == 0.75


def test_the_table_is_aligned(rows: list[Row]) -> None:
    lines = table(rows).splitlines()
    assert len(lines) == len(rows) + 1
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split("  ")[0] == "name"
    assert "4,915,200" in lines[-1]


def test_the_markdown_table_has_a_cell_for_each_column(rows: list[Row]) -> None:
    lines = markdown(rows).splitlines()
    assert {line.count("|") for line in lines} == {len(COLUMNS) + 1}
    assert len(lines) == len(rows) + 2


def test_cells_have_a_dash_where_there_is_no_ratio(rows: list[Row]) -> None:
    cells = dict(zip(COLUMNS, cells_of(rows[0]), strict=True))
    assert cells["rate / proxy"] == "-"
    assert cells["p50 / eventfd"] == "1.00"
    assert cells["calls/s"] == "50,000"


def _floats(row: dict[str, Any]) -> Iterator[float]:
    return (value for value in row.values() if isinstance(value, float))


def test_json_figures_are_rounded(rows: list[Row]) -> None:
    (row,) = rows_of([measured("routed", 1, 1024, 1 / 3, 12345.6789)])
    assert row.as_json()["p50_us"] == 12345.7
    assert row.as_json()["calls_per_s"] == 0.333
    assert all(value == round(value, 3) for value in _floats(rows[0].as_json()))


def test_a_crowd_tells_its_callers_and_the_median_of_its_least_shares() -> None:
    slices = [SliceFigures(10, 0.5, 100, 9, 9, 4, share) for share in (0.9, 0.6, 0.8)]
    (row,) = rows_of([Measured(Named("lane_shared", 64, 1024), tuple(slices))])
    assert (row.callers, row.share_min) == (4, 0.8)
    assert dict(zip(COLUMNS, cells_of(row), strict=True))["least share"] == "0.80"


def test_one_caller_has_no_share(rows: list[Row]) -> None:
    assert {(row.callers, row.share_min) for row in rows} == {(1, None)}


def test_the_ratio_to_the_round_trip_across_processors_stands_beside_the_other() -> None:
    loads = [("eventfd_rtt", 10), ("eventfd_apart", 50), ("lane", 100)]
    rows = rows_of([measured(name, 1, 8, 1000, p50_us) for name, p50_us in loads])
    assert [row.ratio_to_eventfd_apart for row in rows] == [0.2, 1, 2]
    assert [row.ratio_to_eventfd_rtt for row in rows] == [1, 5, 10]
