"""Calls in a worker: what goes in, what comes out, what is refused."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from huterox_shm.lane import ERROR
from huterox_wire.arrays import DTYPE_OF_NAME
from huterox_wire.errors import (
    HuteroxError,
    InvalidInput,
    ModelError,
    NotFound,
)
from huterox_wire.header import HEADER_NBYTES, pack_header
from huterox_wire.kinds import Flag, Kind
from huterox_wire.meta import CallMeta, TensorSpec
from huterox_wire.nodes import InputSpec

from .conftest import Bench, packed

Make = Callable[..., Bench]
MIB = 1024 * 1024


# Values.


@pytest.mark.parametrize("dtype", list(DTYPE_OF_NAME))
def test_an_array_of_every_dtype_comes_back_bit_exact(bench: Make, dtype: str) -> None:
    array = np.arange(24).astype(DTYPE_OF_NAME[dtype]).reshape(2, 3, 4)
    result = bench().result(x=array)["x"]
    assert (result.dtype, result.shape, result.tobytes()) == (array.dtype, array.shape, array.tobytes())


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,) * 8])
def test_arrays_of_odd_shapes_come_back(bench: Make, shape: tuple[int, ...]) -> None:
    result = bench().result(x=np.zeros(shape, np.float32))["x"]
    assert (result.shape, result.dtype) == (shape, np.float32)


def test_nan_comes_back_bit_exact(bench: Make) -> None:
    array = np.array([np.nan, -np.nan, np.inf, -0.0])
    assert bench().result(x=array)["x"].tobytes() == array.tobytes()


def test_plain_values_and_bytes_come_back(bench: Make) -> None:
    values = {"text": "ä€", "number": 1.5, "none": None, "list": [1, {"a": True}], "few": b"x", "many": b"y" * 5000}
    assert bench().result("anything", **values) == values


def test_several_arrays_lie_aligned_and_apart(bench: Make) -> None:
    arrays = {f"x{index}": np.full(index * 7 + 1, index, np.uint8) for index in range(5)}
    result = bench().result("anything", **arrays)
    assert all(np.array_equal(result[name], array) for name, array in arrays.items())


def test_what_is_no_mapping_is_called_result(bench: Make) -> None:
    assert np.array_equal(bench(params={"offset": 10}).result("plus", x=np.arange(3), by=2)["result"], [12, 13, 14])


def test_inputs_are_read_only_views_of_the_lane(bench: Make) -> None:
    assert bench().result("writable", x=np.zeros(3)) == {"result": False}


def test_the_gaps_between_results_hold_nothing_of_earlier_answers(bench: Make) -> None:
    worker = bench()
    worker.result("anything", x=np.full(8000, 255, np.uint8))
    worker.send("anything", a=np.zeros(1, np.uint8), b=np.zeros(1, np.uint8))
    worker.run()
    ((*_, offset, nbytes),) = worker.caller.take()
    assert b"\xff" not in bytes(worker.caller.view(offset, nbytes))[HEADER_NBYTES:]


# Wrong calls.


def test_an_unknown_method_names_those_that_there_are(bench: Make) -> None:
    with pytest.raises(NotFound, match=r"no method 'train'; it has anything, forget, keep, knot, plus, predict, "):
        bench().result("train")


@pytest.mark.parametrize("name", ["_secret", "__init__", "offset", "kept"])
def test_what_is_private_or_no_method_cannot_be_called(bench: Make, name: str) -> None:
    with pytest.raises(NotFound):
        bench().result(name)


def test_a_missing_input_says_what_the_method_takes(bench: Make) -> None:
    with pytest.raises(InvalidInput, match=r"plus\(\): no input 'x' was given; it takes x \(required\), by") as caught:
        bench().result("plus", by=2)
    assert caught.value.details["missing"] == ["x"]


def test_an_unknown_input_says_what_the_method_takes(bench: Make) -> None:
    with pytest.raises(InvalidInput, match=r"'y' is not known; it takes x \(required\), by") as caught:
        bench().result("plus", x=np.zeros(1), y=1)
    assert caught.value.details["unknown"] == ["y"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((3, 4), np.float64), r"'x': expected float32 of shape \[3, \?\], got float64 of shape \[3, 4\]"),
        (np.zeros((4, 3), np.float32), r"expected float32 of shape \[3, \?\], got float32 of shape \[4, 3\]"),
        (np.zeros(3, np.float32), r"got float32 of shape \[3\]"),
        ([1.0, 2.0], r"got a plain value of type list"),
        (b"abc" * 1000, r"got bytes of shape \[3000\]"),
    ],
)
def test_an_input_that_is_not_as_the_model_file_says_is_refused(bench: Make, value: Any, message: str) -> None:
    worker = bench(inputs={"x": InputSpec("float32", [3, None])})
    with pytest.raises(InvalidInput, match=message):
        worker.result(x=value)


def test_an_input_that_is_as_the_model_file_says_is_taken(bench: Make) -> None:
    worker = bench(inputs={"x": InputSpec("float32", [3, None]), "any": InputSpec(), "blob": InputSpec("bytes")})
    assert worker.result(x=np.zeros((3, 9), np.float32))["x"].shape == (3, 9)
    assert worker.result("anything", any=1, blob=b"few", x=np.zeros((3, 1), np.float32))["blob"] == b"few"


def test_a_shape_that_no_machine_can_have_is_refused(bench: Make) -> None:
    worker = bench()
    worker.send_tensor(TensorSpec("x", "uint8", [2**62, 2**62, 0]), b"")
    worker.run()
    ((_, _, error, _),) = worker.take()
    assert isinstance(error, InvalidInput)


def test_an_input_given_twice_is_refused(bench: Make) -> None:
    worker = bench()
    worker.put(packed(CallMeta("anything", {"x": 1}, [TensorSpec("x", "uint8", [1])]), [b"a"]))
    worker.run()
    ((_, _, error, _),) = worker.take()
    assert isinstance(error, InvalidInput)
    assert "given twice" in error.message


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"x",
        b"\0" * 39,
        bytes(range(256)),
        pack_header(Kind.CALL, Flag.PACKED, 0, 4711, 77, 0, 9999),
        pack_header(Kind.CALL, Flag.PACKED, 0, 4711, 77, 0, 3) + b"\xc1\xc1\xc1",
        pack_header(Kind.CALL, Flag.PACKED, 3, 4711, 77, 0, 1) + b"\x80",
        pack_header(Kind.REGISTER, Flag.PACKED, 0, 4711, 77, 0, 1) + b"\x80",
        pack_header(Kind.CALL, 0, 0, 4711, 77, 0, 1) + b"\x80",
        packed(CallMeta("predict", {}, [TensorSpec("x", "uint8", [1])]), [b"a"]) + b"more",
        packed(CallMeta("predict", {}, [TensorSpec("x", "uint8", [2])]), [b"a"]),
        packed(CallMeta("predict", {}, [TensorSpec("x", "object", [1])]), [b"a"]),
    ],
)
def test_a_malformed_request_is_answered_and_the_next_one_served(bench: Make, frame: bytes) -> None:
    worker = bench()
    if frame:
        worker.put(frame)
        worker.run()
        ((kind, _, error, released),) = worker.take()
        assert kind == ERROR
        assert isinstance(error, HuteroxError)
        assert error.code == "InvalidInput"
        assert released
    assert worker.result("plus", x=np.arange(2))["result"].tolist() == [1, 2]
    assert worker.lent_count() == 0


# Models that raise.


@pytest.mark.parametrize(
    ("method", "text"),
    [
        ("predict", "ValueError: no good"),
        ("exits", "SystemExit: 3"),
        ("interrupts", "KeyboardInterrupt"),
        ("exhausts", "MemoryError: pretended"),
        ("recurses", "RecursionError: maximum recursion depth exceeded"),
        ("gives_objects", "the model returned what is not carried"),
        ("gives_nested_arrays", "an array inside a list or map"),
        ("gives_odd_names", "name must be text"),
        ("awaits", "coroutine function"),
    ],
)
def test_whatever_a_model_does_wrong_is_a_model_error(bench: Make, method: str, text: str) -> None:
    worker = bench("plain.py:Faulty")
    with pytest.raises(ModelError, match=text):
        worker.result(method)
    with pytest.raises(ModelError, match="no good"):
        worker.result()
    assert worker.lent_count() == 0


def test_a_traceback_shows_the_models_frames_only(bench: Make) -> None:
    with pytest.raises(ModelError) as caught:
        bench("plain.py:Faulty").result(x=np.zeros(3))
    text = caught.value.details["traceback"]
    assert 'raise ValueError("no good")' in text
    assert "huterox_kernel" not in text
    assert text.endswith("ValueError: no good\n")


def test_a_long_traceback_is_cut_to_its_end(bench: Make) -> None:
    with pytest.raises(ModelError) as caught:
        bench("plain.py:Faulty").result("raises_at_length")
    text = caught.value.details["traceback"]
    assert len(text.encode()) <= 16 * 1024
    assert text.endswith("the end\n")


def test_an_error_of_the_callers_making_may_come_from_the_model(bench: Make) -> None:
    with pytest.raises(InvalidInput, match="only square images"):
        bench("plain.py:Faulty").result("refuses")


def test_an_input_is_released_when_the_model_raises(bench: Make) -> None:
    worker = bench("plain.py:Faulty")
    worker.send(x=np.zeros(1000))
    worker.run()
    ((_, _, error, released),) = worker.take()
    assert isinstance(error, ModelError)
    assert released
