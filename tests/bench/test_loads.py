"""The sliding window that every load but the barest uses."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from huterox_bench.loads import LARGE_NBYTES, SHAPES, SMALL_NBYTES, SliceLimit, slide


class Recorder:
    """A service that answers in order, and remembers how many calls were in flight."""

    def __init__(self) -> None:
        self.in_flight: deque[int] = deque()
        self.in_flight_max = 0
        self.taken: list[int] = []

    def submit(self, index: int) -> None:
        self.in_flight.append(index)
        self.in_flight_max = max(self.in_flight_max, len(self.in_flight))

    def take(self, index: int) -> None:
        assert self.in_flight.popleft() == index
        self.taken.append(index)


@given(st.integers(1, 70), st.integers(1, 300))
def test_the_window_is_kept_full_and_every_call_is_taken_in_order(window: int, calls_max: int) -> None:
    recorder = Recorder()
    slice_ = slide(recorder.submit, recorder.take, window, SliceLimit(60.0, calls_max))
    assert recorder.taken == list(range(calls_max))
    assert recorder.in_flight_max == min(window, calls_max)
    assert len(slice_.latencies_ns) == calls_max
    assert not recorder.in_flight


def test_a_slice_ends_with_its_time_and_leaves_nothing_in_flight() -> None:
    recorder = Recorder()
    slice_ = slide(recorder.submit, recorder.take, 8, SliceLimit(0.002, 10**9))
    assert slice_.elapsed_ns >= 2_000_000
    assert len(slice_.latencies_ns) == len(recorder.taken) >= 8
    assert not recorder.in_flight


def test_a_slice_of_no_time_still_takes_one_window() -> None:
    recorder = Recorder()
    slide(recorder.submit, recorder.take, 4, SliceLimit(1e-9))
    assert recorder.taken == [0, 1, 2, 3]


def test_latencies_lie_within_the_time_of_the_slice() -> None:
    recorder = Recorder()
    slice_ = slide(recorder.submit, recorder.take, 1, SliceLimit(60.0, 50))
    assert all(latency > 0 for latency in slice_.latencies_ns)
    assert sum(slice_.latencies_ns) <= slice_.elapsed_ns


def test_an_error_of_the_load_goes_through() -> None:
    def fail(index: int) -> None:
        raise ValueError(index)

    with pytest.raises(ValueError, match="0"):
        slide(lambda index: None, fail, 4, SliceLimit(1.0))


def test_the_shapes_are_those_that_users_compare() -> None:
    assert SHAPES == ((1, 1024), (64, 1024), (1, 4_915_200), (4, 4_915_200))
    assert (SMALL_NBYTES, LARGE_NBYTES) == (1024, 4 * 3 * 640 * 640)
