"""Calls that name their form by a number, as callers in lanes of their own make them; the caller is the SDK's core."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from huterox.core import Limits
from huterox.lane_core import LaneCall, LaneCore
from huterox_kernel.worker import answers
from huterox_shm.lane import CALL, DEFINES, ERROR, INDIRECT, PART, REPLY
from huterox_wire.arrays import DTYPE_OF_NAME
from huterox_wire.errors import Busy, HuteroxError, InvalidInput, ModelError, NotFound
from huterox_wire.message import decode
from huterox_wire.meta import CallMeta, TensorSpec, decode_error, encode_meta
from huterox_wire.nodes import InputSpec

from .conftest import Bench

ENTRY = "numbered.py:Numbered"


class Lane:
    """A worker's bench with the SDK's core as its caller."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.core = LaneCore(bench.caller, Limits())

    def start(self, method: str, stream: bool = False, timeout_s: float = 60.0, **inputs: Any) -> LaneCall:
        from collections import deque

        call = LaneCall()
        if stream:
            call.parts = deque()
        self.core.publish(call, method, inputs, timeout_s, time.monotonic())
        self.core.flush()
        return call

    def run(self) -> None:
        self.bench.run()
        self.core.take()
        self.core.news.clear()

    def call(self, method: str, **inputs: Any) -> Any:
        call = self.start(method, **inputs)
        self.run()
        return self.core.outcome(call)

    def define(self, number: int, meta: bytes) -> list[Any]:
        """Tell a form by hand; what comes back."""
        caller = self.bench.caller
        offset = caller.claim(len(meta))
        caller.write_view(offset, len(meta))[:] = meta
        caller.publish_call("definition", offset, len(meta), number, DEFINES)
        return self.exchange()

    def send(self, number: int, data: bytes, flags: int = 0) -> list[Any]:
        """A call of any number with any bytes; what comes back."""
        caller = self.bench.caller
        offset = caller.claim(len(data) or 1)
        caller.write_view(offset, len(data))[:] = data
        caller.publish_call("call", offset, len(data), number, flags)
        return self.exchange()

    def exchange(self) -> list[Any]:
        self.bench.caller.flush()
        self.bench.run()
        return [reply for reply in self.bench.caller.take() if not reply[3] & DEFINES]

    def error_in(self, reply: Any) -> HuteroxError:
        _, _, kind, _, _, offset, nbytes = reply
        assert kind == ERROR
        return decode_error(decode([bytes(self.bench.caller.view(offset, nbytes))]).meta)


@pytest.fixture
def lane(bench: Callable[..., Bench]) -> Iterator[Callable[..., Lane]]:
    def make(entry: str = ENTRY, **options: Any) -> Lane:
        return Lane(bench(entry, **options))

    return make


def address(array: np.ndarray[Any, Any]) -> int:
    return int(array.__array_interface__["data"][0])


# Forms.


def test_a_form_is_told_once_and_counts_as_no_call(lane: Callable[..., Lane]) -> None:
    one = lane()
    entries = []
    for value in range(3):
        call = one.start("plus", x=np.full(4, value, np.float32))
        entries.append(one.bench.caller.calls.copy())
        one.run()
        assert one.core.outcome(call)["result"].tolist() == [value + 1] * 4
    assert [len(calls) for calls in entries] == [2, 1, 1]
    counters = one.bench.caller.counters()
    assert (counters.calls_taken, counters.calls_done, counters.errors) == (3, 3, 0)


def test_results_of_every_form_arrive(lane: Callable[..., Lane]) -> None:
    one = lane()
    arrays = {
        "empty": np.zeros((0, 3), np.int8),
        "scalar": np.array(7.5),
        "big_endian": np.arange(5, dtype=">f4"),
        "strided": np.arange(20, dtype=np.int16)[::3],
        "transposed": np.arange(6.0).reshape(2, 3).T,
        "bools": np.array([True, False]),
        "complex": np.array([1 + 2j]),
    }
    for _ in range(3):
        result = one.call("same", **arrays)
        assert list(result) == list(arrays)
        for name, array in arrays.items():
            assert np.array_equal(result[name], array), name
            assert not result[name].flags.writeable


def test_plain_values_bytes_and_nothing_arrive_again_and_again(lane: Callable[..., Lane]) -> None:
    one = lane()
    for _ in range(4):
        for values in (
            {"flag": True, "count": 1, "ratio": 1.0, "minus": -0.0, "text": "hi", "none": None, "short": b"x"},
            {"long": b"y" * 1000, "a": np.arange(3)},
            {"nested": {"list": [1, 2]}},
            {},
        ):
            result = one.call("same", **values)
            assert repr(result) == repr(values)


def test_values_that_compare_equal_are_not_confused(lane: Callable[..., Lane]) -> None:
    one = lane()
    for _ in range(3):
        for value in (1, True, 1.0, 0.0, -0.0, False, 0):
            assert repr(one.call("same", v=value)["v"]) == repr(value)


def test_more_forms_than_there_are_numbers_take_turns(lane: Callable[..., Lane]) -> None:
    one = lane()
    for turn in range(2):
        for size in range(1, 300):
            assert one.call("plus", x=np.full(size, turn, np.int32))["result"].shape == (size,)


def test_queued_calls_keep_the_meaning_that_their_number_had(lane: Callable[..., Lane]) -> None:
    one = lane()
    caller = one.bench.caller
    metas = [encode_meta(CallMeta("same", {"turn": turn}, [TensorSpec("x", "int64", [1])])) for turn in range(3)]
    for meta in metas:
        offset = caller.claim(len(meta))
        caller.write_view(offset, len(meta))[:] = meta
        caller.publish_call("definition", offset, len(meta), 7, DEFINES)
        for _ in range(2):
            caller.publish_call("call", caller.claim(8), 8, 7)
    one.exchange()  # the answers that are forms, too
    turns = [one.call("same", turn=turn, x=np.zeros(1)) for turn in range(3)]
    assert [result["turn"] for result in turns] == [0, 1, 2]


def test_a_form_that_is_wrong_is_wrong_in_every_call(lane: Callable[..., Lane]) -> None:
    one = lane()
    for _ in range(3):
        with pytest.raises(NotFound, match="no method 'nothing'"):
            one.call("nothing", x=np.zeros(3))
    with pytest.raises(InvalidInput, match="is not known"):
        one.call("plus", x=np.zeros(3), y=np.zeros(3))


# What a caller may get wrong on purpose.


def test_a_number_that_was_never_told_is_an_error_of_that_call(lane: Callable[..., Lane]) -> None:
    one = lane()
    (reply,) = one.send(9, b"12345678")
    assert isinstance(one.error_in(reply), InvalidInput)


@pytest.mark.parametrize("number", [257, 2**32 - 1])
def test_a_definition_of_a_number_that_is_none_is_refused(lane: Callable[..., Lane], number: int) -> None:
    one = lane()
    (reply,) = one.define(number, encode_meta(CallMeta("plus", {}, [TensorSpec("x", "float32", [2])])))
    assert "no number for a form" in str(one.error_in(reply))


@pytest.mark.parametrize("meta", [b"", b"\xff\xff", b"\x80" * 50, b"\xc1"])
def test_a_definition_that_makes_no_sense_is_refused(lane: Callable[..., Lane], meta: bytes) -> None:
    one = lane()
    (reply,) = one.define(3, meta or b"\x00")
    assert isinstance(one.error_in(reply), HuteroxError)
    (reply,) = one.send(3, b"12345678")
    assert isinstance(one.error_in(reply), HuteroxError)


@pytest.mark.parametrize("nbytes", [1, 7, 9, 4096])
def test_bytes_that_do_not_fit_the_form_are_refused(lane: Callable[..., Lane], nbytes: int) -> None:
    one = lane()
    (reply,) = one.define(1, encode_meta(CallMeta("plus", {}, [TensorSpec("x", "float32", [2])])))
    assert reply[2] == REPLY
    (reply,) = one.send(1, bytes(nbytes))
    assert "has 8 bytes" in str(one.error_in(reply))


@pytest.mark.parametrize("shape", [[2**62], [2**31, 2**31], [0, 2**62], [2**63 - 1, 2**63 - 1, 2]])
def test_shapes_beyond_all_memory_are_refused(lane: Callable[..., Lane], shape: list[int]) -> None:
    one = lane()
    one.define(1, encode_meta(CallMeta("plus", {}, [TensorSpec("x", "float32", shape)])))
    (reply,) = one.send(1, b"")
    assert isinstance(one.error_in(reply), InvalidInput)


def test_references_outside_of_the_callers_half_end_the_lane(lane: Callable[..., Lane]) -> None:
    from huterox_shm.errors import PeerProtocolError

    one = lane()
    specs = [TensorSpec("x", "float32", [2]), TensorSpec("y", "float32", [2])]
    one.define(1, encode_meta(CallMeta("same", {}, specs)))
    reply_half = one.bench.caller.layout.reply_half
    table = b"".join(value.to_bytes(8, "little") for value in (reply_half, 8, reply_half + 64, 8))
    with pytest.raises(PeerProtocolError):
        one.send(1, table, INDIRECT)


def test_references_of_other_sizes_are_refused(lane: Callable[..., Lane]) -> None:
    one = lane()
    one.define(1, encode_meta(CallMeta("plus", {}, [TensorSpec("x", "float32", [2])])))
    for table in (b"", bytes(8), bytes(16), bytes(32)):
        (reply,) = one.send(1, table, INDIRECT)
        assert isinstance(one.error_in(reply), InvalidInput)


# Memory.


def test_an_array_in_the_lane_reaches_the_model_where_it_lies(lane: Callable[..., Lane]) -> None:
    one = lane()
    array = one.core.empty((100, 100), "float32")
    array[...] = 3
    base = address(np.frombuffer(one.bench.caller.readable, np.uint8))
    seen = address(np.frombuffer(one.bench.container.readable, np.uint8))
    for _ in range(3):
        assert one.call("where", x=array)["address"] - seen == address(array) - base


def test_several_arrays_some_in_the_lane_arrive_uncopied_and_right(lane: Callable[..., Lane]) -> None:
    one = lane()
    inside = one.core.empty(1000, "int64")
    inside[...] = np.arange(1000)
    for _ in range(3):
        result = one.call("same", a=np.arange(3), b=inside, c=b"z" * 500)
        assert np.array_equal(result["a"], [0, 1, 2])
        assert np.array_equal(result["b"], inside)
        assert result["c"] == b"z" * 500
    del inside, result
    one.call("plus", x=np.zeros(1))
    assert one.bench.caller.slab_stats().out_count == 0


def test_a_large_result_lies_in_the_lane_and_goes_with_its_last_view(lane: Callable[..., Lane]) -> None:
    one = lane()
    result = one.call("plus", x=np.zeros(100_000))["result"]
    base = address(np.frombuffer(one.bench.caller.readable, np.uint8))
    assert 0 <= address(result) - base < one.bench.caller.layout.segment_nbytes
    view = result[5:50].reshape(9, 5)
    del result
    assert one.core.held
    assert view.sum() == 45
    del view
    assert not one.core.held


def test_inputs_are_read_only_unless_the_model_file_says_otherwise(lane: Callable[..., Lane]) -> None:
    one = lane(inputs={"y": InputSpec(writable=True)})
    for _ in range(3):
        assert one.call("writable", x=np.zeros(3), y=np.zeros(3)) == {"x": False, "y": True}
        assert one.call("writable", x=np.zeros(3)) == {"x": False}
        assert one.call("writable", y=np.zeros(3)) == {"y": True}
    array = one.core.empty(3, "float64")
    array[...] = 1
    one.call("double_in_place", y=array)
    assert array.tolist() == [2, 2, 2]


def test_an_input_that_the_model_keeps_is_not_overwritten(lane: Callable[..., Lane]) -> None:
    one = lane()
    for value in range(5):
        assert one.call("keep", x=np.full(8, value, np.float64))["result"].tolist() == [value + 1]
    for _ in range(10):
        one.call("plus", x=np.full(8, 99.0))
    assert one.call("kept")["result"].tolist() == [0, 1, 2, 3, 4]
    assert one.bench.caller.slab_stats().out_count >= 5
    one.call("forget")
    one.run()
    one.bench.run()
    one.core.take()
    assert one.bench.caller.slab_stats().out_count == 0


def test_an_output_that_the_model_allocates_is_the_answer_where_it_lies(lane: Callable[..., Lane]) -> None:
    one = lane()
    one.call("allocated", size=5000)  # plain values are numbered from the second time on
    for _ in range(3):
        result = one.call("allocated", size=5000)
        ours = address(np.frombuffer(one.bench.caller.readable, np.uint8))
        theirs = address(np.frombuffer(one.bench.container.readable, np.uint8))
        assert address(result["result"]) - ours == one.bench.model._instance.last_address - theirs  # type: ignore[attr-defined]
        assert np.array_equal(result["result"], np.arange(5000, dtype=np.float32))


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "bool", "complex64"])
def test_a_tensor_that_the_model_allocates_is_the_answer_where_it_lies(lane: Callable[..., Lane], dtype: str) -> None:
    pytest.importorskip("torch")
    one = lane("tensors.py:Tensors")
    x = np.zeros((2, 9000), DTYPE_OF_NAME[dtype])
    for _ in range(4):
        result = one.call("allocated", x=x)["result"]
        ours = address(np.frombuffer(one.bench.caller.readable, np.uint8))
        theirs = address(np.frombuffer(one.bench.container.readable, np.uint8))
        assert address(result) - ours == one.bench.model._instance.last_address - theirs  # type: ignore[attr-defined]
        assert (result.dtype, result.shape, (result == 1).all()) == (x.dtype, x.shape, True)
        del result
    assert one.bench.container.slab_stats().out_count <= 2


@pytest.mark.torch
@pytest.mark.parametrize("kind", ["transposed", "part", "conjugated", "numpy"])
def test_a_view_of_an_allocated_tensor_is_carried_as_what_it_is(lane: Callable[..., Lane], kind: str) -> None:
    pytest.importorskip("torch")
    one = lane("tensors.py:Tensors")
    for n in range(4):
        x = (np.arange(6) + 1j * n).astype(np.complex64).reshape(2, 3)
        expected = {"transposed": x.T, "part": x[:1], "conjugated": x.conj(), "numpy": x}[kind]
        assert np.array_equal(one.call("allocated_view", x=x, kind=kind)["result"], expected)
    assert one.bench.container.slab_stats().out_count <= 2
    with pytest.raises(InvalidInput, match="quint8"):
        one.call("odd")


@pytest.mark.torch
def test_a_bfloat16_result_is_written_straight_into_the_lane(
    lane: Callable[..., Lane], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not taken apart: that is done once, for its form."""
    pytest.importorskip("torch")
    one = lane("tensors.py:Tensors")
    one.call("half", x=np.zeros(3, np.float32))
    monkeypatch.setattr(answers, "take_apart", None)
    result = one.call("half", x=np.array([1.5, -2, np.inf], np.float32))["result"]
    assert (result.dtype, result.tolist()) == (DTYPE_OF_NAME["bfloat16"], [1.5, -2, np.inf])


def test_allocated_memory_that_is_no_answer_comes_back(lane: Callable[..., Lane]) -> None:
    one = lane()
    for _ in range(20):
        one.call("scratch", size=1000)
        assert one.bench.container.slab_stats().out_count <= 2
    one.call("plus", x=np.zeros(1))


def test_an_error_leaves_no_input_behind(lane: Callable[..., Lane]) -> None:
    one = lane()
    for _ in range(3):
        with pytest.raises(ModelError, match="never"):
            one.call("fail", x=np.zeros(1000))
    assert one.bench.caller.slab_stats().out_count == 0
    assert not one.bench.calls.kept


def test_an_answer_without_room_waits_in_its_lane_and_says_so_in_the_end(
    lane: Callable[..., Lane],
) -> None:
    one = lane(half_mb=1)
    held = one.call("zeros", x=np.array([300_000]))
    call = one.start("zeros", x=np.array([300_001]), timeout_s=0.05)
    assert not one.bench.calls.step(16)
    assert one.bench.calls.retry_at_s < time.monotonic() + 1
    time.sleep(0.06)
    one.bench.calls.step(16)
    one.core.take()
    with pytest.raises(Busy, match=r"still holds \d answers"):
        one.core.outcome(call)
    del held
    assert one.call("zeros", x=np.array([300_002]))["result"].nbytes == 300_002


def test_streams_have_numbered_parts(lane: Callable[..., Lane]) -> None:
    one = lane()
    call = one.start("count", stream=True, x=np.array([3]))
    one.run()
    assert call.parts is not None
    from huterox.lane_core import values_of

    assert [values_of(part)["i"].tolist() for part in call.parts] == [[0], [1], [2]]
    assert one.core.outcome(call) == {}


def test_kinds_are_what_the_ring_says() -> None:
    assert (CALL, REPLY, ERROR, PART) == (1, 4, 5, 6)
