"""Copies to a device that is a double: the host's memory. The real one is measured by `huterox bench device`."""

from contextlib import ExitStack

import pytest

from huterox_bench.device import suite
from huterox_bench.device.rows import copy_table
from huterox_bench.device.suite import measure_device, open_copies
from huterox_bench.errors import BenchError, WrongAnswer
from huterox_bench.loads import SliceLimit
from huterox_bench.measure import Plan
from huterox_bench.options import Options

from ..kernel.driver.cuda import Cuda

pytestmark = pytest.mark.torch
KINDS = ["pinned", "lane", "pageable_lane", "pageable"]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "SIZES", (1000, 1 << 20))
    monkeypatch.setattr(suite, "HALF_NBYTES", 1 << 20)


def test_every_kind_of_memory_is_copied_in_both_directions_and_sizes() -> None:
    cuda = Cuda()
    with ExitStack() as stack:
        rows = measure_device(Options(Plan(0.02, 2)), stack, lambda _: None, cuda)
        assert len(cuda.cudart().registered) == 1
    assert not cuda.cudart().registered
    names = [f"{way}_device_{kind}" for kind in KINDS for way in ("to", "from")]
    assert [(row.name, row.nbytes) for row in rows] == [(name, size) for size in (1000, 1 << 20) for name in names]
    for row in rows:
        told = row.as_json()
        assert told["gb_per_s"] == pytest.approx(told["calls_per_s"] * told["nbytes"] / 1e9, abs=0.01)
        assert (told["ratio_to_pinned"] == 1.0) == row.name.endswith("_device_pinned")
        assert {"name", "window", "nbytes", "calls_per_s", "p50_us", "p99_us"} <= told.keys()
    assert len(copy_table(rows).splitlines()) == 1 + len(rows)


def test_a_lane_that_cannot_be_registered_is_an_error() -> None:
    cuda = Cuda()
    cuda.cudart().register_code = 2
    with ExitStack() as stack, pytest.raises(BenchError, match=r"not registered .* error 2"):
        open_copies(stack, cuda)


def test_a_copy_that_does_not_arrive_is_an_error() -> None:
    class Lossy(Cuda):
        def wait(self) -> None:
            self.lost[3] = 0x77

    cuda = Lossy()
    with ExitStack() as stack:
        copy = open_copies(stack, cuda)[0]
        cuda.lost = copy.target
        with pytest.raises(WrongAnswer):
            copy.run(SliceLimit(1.0, 2))


def test_without_a_device_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with ExitStack() as stack, pytest.raises(BenchError, match="no CUDA device"):
        measure_device(Options(), stack, lambda _: None)
