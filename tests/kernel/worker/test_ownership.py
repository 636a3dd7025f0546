"""Who holds memory of a lane: told by reference counts where they are exact, and copied where they are not."""

import gc
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from huterox_kernel.worker import calls, outputs
from huterox_kernel.worker.ownership import counts_are_exact
from huterox_wire.nodes import InputSpec

from .conftest import Bench
from .test_numbered import Lane

Make = Callable[..., Bench]
ENTRY = "numbered.py:Numbered"


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="later interpreters lend references: there the answer is open")
def test_counts_are_exact_in_the_interpreters_that_are_known_to_count() -> None:
    assert counts_are_exact()


@pytest.mark.parametrize(
    ("module", "off_by"),
    [(calls, -1), (calls, 1), (outputs, -1)],  # an output that only seems to be held does no harm
    ids=["inputs lent", "inputs held", "outputs lent"],
)
def test_an_interpreter_that_counts_otherwise_is_found_out(
    monkeypatch: pytest.MonkeyPatch, module: Any, off_by: int
) -> None:
    monkeypatch.setattr(module, "getrefcount", lambda item: sys.getrefcount(item) - 1 + off_by)  # one is the lambda's
    assert not counts_are_exact.__wrapped__()


def test_what_cannot_be_tried_is_not_relied_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_descriptors(*_: Any) -> Any:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("huterox_kernel.worker.ownership.create_lane", no_descriptors)
    assert not counts_are_exact.__wrapped__()


def test_a_copied_input_is_given_back_at_once_and_stays_what_it_was(bench: Make) -> None:
    worker = bench(ENTRY, copies=True)
    lane = Lane(worker)
    for value in range(5):
        assert lane.call("keep", x=np.full(8, value, np.float64))["result"].tolist() == [value + 1]
    assert not worker.calls.kept
    assert worker.lent_count() == 0
    for _ in range(10):
        lane.call("plus", x=np.full(8, 99.0))
    assert lane.call("kept")["result"].tolist() == [0, 1, 2, 3, 4]


def test_copied_inputs_of_every_way_are_aligned_and_read_only(bench: Make) -> None:
    worker = bench(ENTRY, copies=True)
    lane = Lane(worker)
    inside = lane.core.empty(1000, "int64")
    inside[...] = np.arange(1000)
    for _ in range(3):
        assert lane.call("where", x=np.zeros(9))["address"] % 64 == 0
        assert lane.call("writable", x=np.zeros(3), y=inside) == {"x": False, "y": False}
        result = lane.call("same", a=np.arange(3), b=inside, c=b"z" * 500)
        assert (result["a"].tolist(), result["c"]) == ([0, 1, 2], b"z" * 500)
        assert np.array_equal(result["b"], inside)
    del inside, result
    gc.collect()
    lane.core.tend()
    worker.caller.trim()
    assert worker.lent_count() == 0


def test_what_a_model_writes_into_a_copied_input_comes_back(bench: Make) -> None:
    lane = Lane(bench(ENTRY, copies=True, inputs={"y": InputSpec(writable=True)}))
    array = lane.core.empty(3, "float64")
    array[...] = 1
    for turn in range(1, 4):
        lane.call("double_in_place", y=array)
        assert array.tolist() == [2**turn] * 3


def test_outputs_are_no_memory_of_the_lane_where_they_are_copied(bench: Make) -> None:
    worker = bench(ENTRY, copies=True)
    lane = Lane(worker)
    for size in (3, 5000):
        assert lane.call("allocated", size=size)["result"].tolist() == list(range(size))
        lane.call("scratch", size=size)
        lane.call("plus", x=np.zeros(1))
    gc.collect()
    lane.core.tell_releases()
    worker.run()
    assert worker.container.slab_stats().out_count == 0


@pytest.mark.torch
@pytest.mark.parametrize("copies", [False, True])
def test_tensors_come_in_either_way(bench: Make, copies: bool) -> None:
    pytest.importorskip("torch")
    worker = bench("tensors.py:Tensors", copies=copies)
    for value in range(3):
        assert worker.result(x=np.full(3, value, np.float32))["y"].tolist() == [value + 1] * 3
