"""Named values and their tensors."""

import enum
import tracemalloc
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from huterox_wire.arrays import BFLOAT16, DTYPE_OF_NAME
from huterox_wire.errors import HuteroxError, InvalidInput, TooLarge
from huterox_wire.limits import BLOB_NBYTES_MIN, DEPTH_MAX, MESSAGE_NBYTES_MAX, NAME_NBYTES_MAX, RANK_MAX, TENSORS_MAX
from huterox_wire.meta import CallMeta, TensorSpec, decode_call, encode_meta
from huterox_wire.payload import array_from, join_values, split_values


def carried(values: dict[str, Any]) -> dict[str, Any]:
    """What arrives of `values`."""
    params, specs, buffers = split_values(values)
    meta = decode_call(encode_meta(CallMeta(params=params, tensors=specs)))
    return join_values(meta.params, meta.tensors, [bytes(buffer) for buffer in buffers])


def test_arrays_become_tensors_and_the_rest_params() -> None:
    image = np.arange(6, dtype=np.uint8).reshape(2, 3)
    params, specs, buffers = split_values({"image": image, "threshold": 0.5, "tags": ["a"]})
    assert params == {"threshold": 0.5, "tags": ["a"]}
    assert specs == [TensorSpec("image", "uint8", [2, 3])]
    assert bytes(buffers[0]) == bytes(range(6))


@pytest.mark.parametrize("name", sorted(DTYPE_OF_NAME))
def test_every_dtype_comes_back_bit_by_bit(name: str) -> None:
    dtype = DTYPE_OF_NAME[name]
    array = np.frombuffer(bytes(range(7, 7 + dtype.itemsize)) * 2, dtype)
    back = carried({"x": array})["x"]
    assert back.dtype == dtype
    assert back.tobytes() == array.tobytes()


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (0, 2**40), (1,), (2, 3), (1,) * RANK_MAX])
def test_every_shape_comes_back(shape: tuple[int, ...]) -> None:
    back = carried({"x": np.ones(shape, np.uint8)})["x"]
    assert back.shape == shape
    assert (back == 1).all()


def test_a_contiguous_array_is_borrowed_and_another_is_copied() -> None:
    array = np.zeros((4, 4), np.int32)
    _, _, (borrowed,) = split_values({"x": array})
    _, _, (copied,) = split_values({"x": array.T[::2]})
    array[:] = 1
    assert any(borrowed)
    assert not any(copied)


@pytest.mark.parametrize(
    "make",
    [
        lambda a: a.T,
        lambda a: a[::2],
        lambda a: a[:, ::-1],
        lambda a: a.astype(">i4"),
        lambda a: np.asfortranarray(a),
        lambda a: np.broadcast_to(a[0], (2, 4)),
        lambda a: a.view(np.matrix),
        lambda a: a.view(np.recarray),
    ],
    ids=["transposed", "strided", "reversed", "big-endian", "fortran", "broadcast", "matrix", "recarray"],
)
def test_arrays_of_any_layout_are_carried_by_value(make: Callable[[Any], Any]) -> None:
    array = make(np.arange(16, dtype=np.int32).reshape(4, 4))
    back = carried({"x": array})["x"]
    assert type(back) is np.ndarray
    assert back.dtype == np.dtype("<i4")
    np.testing.assert_array_equal(back, np.asarray(array))


def test_results_are_views_on_the_bytes_that_came() -> None:
    data = bytearray(8)
    view = array_from(TensorSpec("x", "int32", [2]), data)
    data[0] = 7
    assert view.tolist() == [7, 0]
    assert view.flags.writeable
    assert not array_from(TensorSpec("x", "int32", [2]), memoryview(data).toreadonly()).flags.writeable


def test_a_long_byte_string_is_a_tensor_and_a_short_one_a_param() -> None:
    for kind in (bytes, bytearray, memoryview, np.bytes_):
        params, specs, _ = split_values({"x": kind(b"a" * (BLOB_NBYTES_MIN - 1)), "y": kind(b"b" * BLOB_NBYTES_MIN)})
        assert params == {"x": b"a" * (BLOB_NBYTES_MIN - 1)}
        assert type(params["x"]) is bytes
        assert specs == [TensorSpec("y", "bytes", [BLOB_NBYTES_MIN])]
    assert carried({"x": b"\0" * 10, "y": b"\1" * 1000}) == {"x": b"\0" * 10, "y": b"\1" * 1000}


class Color(str, enum.Enum):  # noqa: UP042 - a subclass of str, as older code has them
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ((1, (2, "a")), [1, [2, "a"]]),
        ({"a": (1,)}, {"a": [1]}),
        ([np.float32(0.5), np.int64(3), np.bool_(True)], [0.5, 3, True]),
        (np.str_("text"), "text"),
        ([np.str_("a"), np.bytes_(b"b"), bytearray(b"c"), memoryview(b"d")], ["a", b"b", b"c", b"d"]),
        (Color.RED, "red"),
        (Level.HIGH, 3),
        (2**64 - 1, 2**64 - 1),
        (None, None),
    ],
)
def test_plain_values_become_those_of_msgpack(value: Any, expected: Any) -> None:
    back = carried({"x": value})["x"]
    assert back == expected
    assert type(back) is type(expected)


@pytest.mark.parametrize("value", [np.float32(0.5), np.int8(-1), np.bool_(True), ml_dtypes.bfloat16(1.5)])
def test_a_numpy_scalar_is_an_array_of_no_dimension(value: Any) -> None:
    back = carried({"x": value})["x"]
    assert (back.shape, back.dtype) == ((), value.dtype)
    assert back == value


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


def test_the_sender_takes_exactly_the_depth_that_the_receiver_takes() -> None:
    deepest = nested(DEPTH_MAX - 1)
    assert carried({"x": deepest}) == {"x": deepest}
    with pytest.raises(InvalidInput, match="nested deeper than 32"):
        split_values({"x": [deepest]})


def test_a_scalar_in_the_deepest_list_is_carried() -> None:
    value: Any = np.float32(1)
    for _ in range(DEPTH_MAX - 1):
        value = [value]
    assert carried({"x": value})["x"] != []


class Metres(np.ndarray[Any, Any]):
    """Numbers that mean something more."""


LOOP: list[Any] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.array([object()]), "dtype object are not carried"),
        (np.ma.array([1, 2]), "MaskedArray is not carried: its mask would be lost"),
        (np.ma.masked, "MaskedConstant is not carried: its mask would be lost"),
        (np.zeros(2).view(Metres), "Metres is not carried: what it adds"),
        (np.array(["a"], np.dtypes.StringDType()), "StringDType.. are not carried"),
        (np.array(["a"], np.dtypes.StringDType(na_object=[])), "are not carried"),
        (np.array([5], "timedelta64[ns]"), "and the unit beside it"),
        (np.datetime64(5, "ns"), "datetime64"),
        ([np.datetime64(5, "ns")], "type datetime64 is not carried"),
        ([np.timedelta64(5, "ns")], "type timedelta64 is not carried"),
        ([np.void(b"ab")], "type void is not carried"),
        (np.zeros(2, ml_dtypes.float8_e4m3fn), "float8_e4m3fn are not carried"),
        (memoryview(np.zeros(2, np.int32)), "format 'i' and 1 dimensions is not carried"),
        ([memoryview(np.zeros((2, 2), np.uint8))], "2 dimensions is not carried"),
        (np.array(["a"]), "send text as str"),
        (np.array([b"a"]), "send text as str"),
        (np.array(["2020-01-01"], "datetime64[D]"), "datetime64"),
        (np.zeros(2, [("a", "f4")]), "send each field as an array"),
        (np.zeros((1,) * (RANK_MAX + 1)), "rank 9; at most 8"),
        ([np.zeros(2)], "give it a name of its own"),
        ({"a": np.zeros(2)}, "give it a name of its own"),
        ({1: 2}, "map key must be text, got int"),
        ({1, 2}, "type set is not carried"),
        (1j, "type complex is not carried"),
        (object(), "type object is not carried"),
        (LOOP, "nested deeper"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_a_value_that_is_not_carried_is_refused_with_what_would_help(value: Any, said: str) -> None:
    with pytest.raises(InvalidInput, match=said) as refusal:
        split_values({"who": value})
    assert "'who'" in refusal.value.message


@pytest.mark.parametrize(
    "name", ["", "n" * (NAME_NBYTES_MAX + 1), 1, None, b"x"], ids=["empty", "long", "1", "nil", "b"]
)
@pytest.mark.parametrize("value", [1, np.zeros(1), b"x" * 1000, [1]], ids=["scalar", "array", "blob", "list"])
def test_a_bad_name_is_refused_for_every_value(name: Any, value: Any) -> None:
    with pytest.raises(InvalidInput, match="value's name"):
        split_values({name: value})


def test_the_longest_name_is_carried() -> None:
    name = "ü" * NAME_NBYTES_MAX
    assert carried({name: 1}) == {name: 1}
    assert list(carried({name: np.zeros(1)})) == [name]


def test_one_tensor_too_many_is_too_large() -> None:
    arrays = {f"a{i}": np.zeros(1) for i in range(TENSORS_MAX + 1)}
    with pytest.raises(TooLarge) as refusal:
        split_values(arrays)
    assert refusal.value.details["limit"] == TENSORS_MAX
    arrays.popitem()
    assert len(carried(arrays)) == TENSORS_MAX


def test_what_is_too_large_is_refused_before_any_of_it_is_copied() -> None:
    half = np.broadcast_to(np.zeros(1, np.uint8), (MESSAGE_NBYTES_MAX // 2 + 1,))  # takes no memory, until it is copied
    whole = np.broadcast_to(np.zeros(1, ">f8"), (MESSAGE_NBYTES_MAX // 8 + 1,))
    many = {f"a{i}": half[: MESSAGE_NBYTES_MAX // 4] for i in range(TENSORS_MAX + 1)}
    for values in ({"x": half, "y": half}, {"x": whole}, {"x": half, "n": 1, "y": bytes(10), "z": half}, many):
        tracemalloc.start()
        try:
            with pytest.raises(TooLarge):
                split_values(values)
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()


def test_a_name_given_twice_is_refused() -> None:
    spec = TensorSpec("x", "uint8", [1])
    for params, specs in (({"x": 1}, [spec]), ({}, [spec, spec])):
        with pytest.raises(InvalidInput, match="'x' is given twice"):
            join_values(params, specs, [b"a"] * len(specs))


def test_a_dtype_of_another_machine_is_refused() -> None:
    (absent,) = {"longdouble-x87", "longdouble-quad"} - set(DTYPE_OF_NAME)
    with pytest.raises(InvalidInput, match="this machine has no dtype"):
        array_from(TensorSpec("x", absent, [1]), bytes(16))


@pytest.mark.parametrize("shape", [[], [2, 2]])
def test_bytes_have_one_dimension(shape: list[int]) -> None:
    with pytest.raises(InvalidInput, match="bytes have one dimension"):
        array_from(TensorSpec("x", "bytes", shape), b"abcd")


@pytest.mark.parametrize("shape", [[2**63 - 1, 0], [0, 2**40, 2**40], [2**62, 2**62, 0]])
def test_a_shape_without_items_that_cannot_be_indexed_is_refused(shape: list[int]) -> None:
    with pytest.raises(HuteroxError) as refusal:
        array_from(TensorSpec("x", "float64", shape), b"")
    assert refusal.value.code == "InvalidInput"


@pytest.mark.torch
def test_torch_tensors_are_carried_over_the_same_bytes() -> None:
    torch = pytest.importorskip("torch")
    for dtype in (torch.float32, torch.int64, torch.bool, torch.complex64, torch.float16, torch.uint8):
        tensor = torch.ones(2, 3).to(dtype)
        back = carried({"x": tensor})["x"]
        assert back.shape == (2, 3)
        assert (back == 1).all()
    tensor = torch.zeros(4)
    _, _, (buffer,) = split_values({"x": tensor})
    tensor += 1
    assert any(buffer)


@pytest.mark.torch
def test_torch_bfloat16_keeps_its_bits() -> None:
    torch = pytest.importorskip("torch")
    for tensor in (torch.tensor([1.5, float("nan")]).bfloat16(), torch.ones(4, 4).bfloat16().T[::2], torch.tensor(2.0)):
        tensor = tensor.bfloat16()
        back = carried({"x": tensor})["x"]
        assert back.dtype == BFLOAT16
        assert back.tobytes() == tensor.contiguous().view(torch.uint16).numpy().tobytes()


@pytest.mark.torch
def test_torch_tensors_that_ask_for_gradients_or_are_lazy_conjugates_are_carried() -> None:
    torch = pytest.importorskip("torch")
    assert carried({"x": torch.ones(2, requires_grad=True)})["x"].tolist() == [1, 1]
    assert carried({"x": torch.tensor([1 + 2j]).conj()})["x"].tolist() == [1 - 2j]


@pytest.mark.torch
def test_torch_tensors_without_plain_bytes_are_refused() -> None:
    torch = pytest.importorskip("torch")
    for tensor, said in (
        (torch.empty(2, device="meta"), "torch tensor"),
        (torch.eye(2).to_sparse(), "layout torch.sparse_coo is not carried: send .to_dense"),
        (torch.zeros(2, dtype=torch.float8_e5m2), "torch.float8_e5m2 is not carried"),
        (torch.zeros(2).as_subclass(type("Metres", (torch.Tensor,), {})), "Metres is not carried: what it adds"),
    ):
        with pytest.raises(InvalidInput, match=said):
            split_values({"x": tensor})
    with pytest.raises(InvalidInput, match="name of its own"):
        split_values({"x": [torch.zeros(2)]})
