"""Values of all kinds through one lane, one after another: what is remembered of one call must not show in the next.

Each sequence has a seed of its own, which is in the test's name.
"""

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.rounds import seeds
from tests.values import KINDS, REFUSED, WITH_TORCH, Kinds, Sample, Source, result, same, several

from huterox.lane_core import values_of
from huterox_shm.lane import REPLY
from huterox_wire.errors import HuteroxError, TooLarge
from huterox_wire.limits import MESSAGE_NBYTES_MAX
from huterox_wire.message import decode
from huterox_wire.meta import CallMeta, decode_reply, encode_meta

from .conftest import MIB, Bench
from .test_numbered import Lane

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning:torch", "ignore:.*:UserWarning"
)  # torch's, of what is in beta
CALLS = 40
Make = Callable[..., Bench]

by_kinds = pytest.mark.parametrize(
    "kinds", [pytest.param(KINDS, id="numpy"), pytest.param(WITH_TORCH, id="torch", marks=pytest.mark.torch)]
)
by_seeds = pytest.mark.parametrize("seed", seeds(6, 60))
by_modes = pytest.mark.parametrize("copies", [False, True], ids=["uncopied", "copied"])
by_ways = pytest.mark.parametrize("way", ["whole", "numbered"])


class Caller:
    """Calls by whole messages, as the kernel makes them, or by numbered forms, as callers do in their own lanes."""

    def __init__(self, bench: Bench, way: str) -> None:
        self.bench = bench
        self.lane = Lane(bench) if way == "numbered" else None

    def call(self, method: str, **inputs: Any) -> Any:
        """The result; REFUSED where an error came that has a type."""
        try:
            return self.lane.call(method, **inputs) if self.lane else self.bench.result(method, **inputs)
        except HuteroxError:
            return REFUSED

    def part(self, method: str) -> Any:
        """The one part of a stream; REFUSED where the stream ended with an error instead."""
        if self.lane:
            call = self.lane.start(method, stream=True)
            self.lane.run()
            parts = [values_of(part) for part in call.parts or ()]
            error = call.error
        else:
            self.bench.send(method, stream=True)
            self.bench.run()
            *others, (_, _, last, _) = self.bench.take()
            parts = [values for _, _, values, _ in others]
            error = last if isinstance(last, HuteroxError) else None
        assert isinstance(error, HuteroxError) is not bool(parts)
        return parts[0] if parts else REFUSED

    def check_memory(self) -> None:
        """All blocks have come back, also those of what was refused."""
        gc.collect()
        if self.lane:
            self.lane.core.tell_releases()
        self.bench.run()
        assert self.bench.container.slab_stats().out_count == 0
        if self.lane:
            self.lane.core.take()
        assert self.bench.lent_count() == 0


def check(got: Any, sample: Sample) -> None:
    expected = sample.expected
    if expected is REFUSED or got is REFUSED:
        assert got is expected, sample.value
        return
    assert set(got) == set(expected), sample.value
    for name, value in expected.items():
        assert same(got[name], value), (name, got[name], sample.value)


@by_seeds
@by_ways
@by_modes
@by_kinds
def test_results_of_all_kinds_arrive_as_they_are_or_are_refused(
    bench: Make, kinds: Kinds, way: str, copies: bool, seed: int
) -> None:
    rng = Source(seed)
    worker = bench("given.py:Given", copies=copies)
    model: Any = worker.model
    caller = Caller(worker, way)
    for _ in range(CALLS):
        sample = result(rng, kinds)
        model._instance.result = sample.value
        check(caller.call("predict"), sample)
    caller.check_memory()


@pytest.mark.parametrize("seed", seeds(4, 60))
@by_ways
def test_parts_of_streams_of_all_kinds_arrive_as_they_are_or_are_refused(bench: Make, way: str, seed: int) -> None:
    rng = Source(seed)
    worker = bench("given.py:Given")
    model: Any = worker.model
    caller = Caller(worker, way)
    for _ in range(CALLS):
        sample = result(rng, KINDS)
        model._instance.result = sample.value
        check(caller.part("parts"), sample)
    caller.check_memory()


@by_seeds
@by_ways
@by_modes
@by_kinds
def test_inputs_of_all_kinds_arrive_as_they_are_or_are_refused(
    bench: Make, kinds: Kinds, way: str, copies: bool, seed: int
) -> None:
    rng = Source(seed)
    worker = bench("given.py:Given", copies=copies)
    model: Any = worker.model
    caller = Caller(worker, way)
    for _ in range(CALLS):
        sample = several(rng, kinds)
        got = caller.call("note", **sample.value)
        if got is not REFUSED:
            got = model._instance.seen
        check(got, sample)
    caller.check_memory()


@by_ways
def test_arrays_of_foreign_byte_order_are_right_each_time(bench: Make, way: str) -> None:
    worker = bench("given.py:Given")
    model: Any = worker.model
    caller = Caller(worker, way)
    for turn in range(3):
        for dtype in (">f4", "<f4", ">i2", ">c16"):
            model._instance.result = np.arange(turn, turn + 3).astype(dtype)
            assert caller.call("predict")["result"].tolist() == [turn, turn + 1, turn + 2]


@by_modes
@by_ways
@pytest.mark.parametrize("dtype", ["float32", ">f4", ">i8", "bfloat16"])
def test_what_a_model_fills_itself_is_right_in_every_byte_order(
    bench: Make, way: str, dtype: str, copies: bool
) -> None:
    caller = Caller(bench("given.py:Given", copies=copies), way)
    for _ in range(3):
        assert caller.call("filled", dtype=dtype)["result"].tolist() == [1, 2, 3]


def test_lists_in_a_form_are_each_calls_own(bench: Make) -> None:
    lane = Lane(bench("given.py:Given"))
    lane.define(1, encode_meta(CallMeta("grow", {"items": [0]})))
    for _ in range(3):
        (reply,) = lane.send(1, b"")
        _, _, kind, _, _, offset, nbytes = reply
        assert kind == REPLY
        answer = decode([bytes(lane.bench.caller.view(offset, nbytes))])
        assert decode_reply(answer.meta).params == {"result": [0, 1]}


class _Stubborn(dict[str, Any]):
    """A mapping of a model's own that ends the process when it is looked into."""

    def items(self) -> Any:
        raise SystemExit(3)


@by_ways
def test_a_result_that_raises_when_it_is_looked_at_ends_its_call_only(bench: Make, way: str) -> None:
    worker = bench("given.py:Given")
    model: Any = worker.model
    caller = Caller(worker, way)
    model._instance.result = _Stubborn(x=1)
    assert caller.call("predict") is REFUSED
    model._instance.result = 7
    assert caller.call("predict") == {"result": 7}
    caller.check_memory()


def large(nbytes: int) -> Any:
    """An array that takes no memory until it is copied."""
    return np.broadcast_to(np.zeros(1, np.uint8), (nbytes,))


@by_ways
def test_the_largest_result_is_the_same_each_time(bench: Make, way: str) -> None:
    worker = bench("given.py:Given", half_mb=1024)
    model: Any = worker.model
    caller = Caller(worker, way)
    over, whole = large(MESSAGE_NBYTES_MAX), np.zeros(MESSAGE_NBYTES_MAX - 64, np.uint8)
    for values in (over, {"x": over, "n": 1}, {"x": over[::2], "y": over[1::2]}, {"x": whole}, [b"x" * 600_000] * 2):
        for _ in range(3):
            model._instance.result = values
            with pytest.raises(TooLarge):
                caller.lane.call("predict") if caller.lane else worker.result()
            model._instance.result = np.ones(3)
            assert caller.call("predict")["result"].tolist() == [1, 1, 1]
    caller.check_memory()
    assert worker.container.slab_stats().reserved_nbytes < MIB


def test_the_largest_call_is_the_same_each_time(bench: Make) -> None:
    worker = bench("given.py:Given", half_mb=1024)
    lane = Lane(worker)
    over = large(MESSAGE_NBYTES_MAX)
    inside = lane.core.empty(MESSAGE_NBYTES_MAX // 2, "uint8")
    for inputs in ({"x": over}, {"x": over, "n": 1}, {"x": over, "n": [1]}, {"x": inside, "y": inside}):
        for _ in range(3):
            with pytest.raises(TooLarge, match="at most 536870912 are carried"):
                lane.call("note", **inputs)
            assert lane.call("note", x=np.ones(3), n=1) == {"result": None}
    del inside, inputs
    gc.collect()
    lane.core.tend()
    lane.core.tend()
    worker.caller.trim()
    assert worker.lent_count() == 0
