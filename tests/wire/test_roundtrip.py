"""Whole messages with any values: what is sent arrives, in both forms."""

import math
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from huterox_wire.arrays import DTYPE_OF_NAME
from huterox_wire.header import Buffer, pack_header
from huterox_wire.kinds import Flag, Kind
from huterox_wire.limits import DEPTH_MAX, NAME_NBYTES_MAX
from huterox_wire.message import align, decode, encode, slice_tensors
from huterox_wire.meta import CallMeta, decode_call, encode_meta
from huterox_wire.payload import join_values, split_values

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=NAME_NBYTES_MAX)
SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | TEXT | st.binary(max_size=600)
PLAIN = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4))


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    """Arrays of every dtype and shape, with any bits, in any layout."""
    dtype = DTYPE_OF_NAME[draw(st.sampled_from(sorted(DTYPE_OF_NAME)))]
    shape = draw(st.lists(st.integers(0, 4), max_size=4) | st.lists(st.integers(0, 2), max_size=8))
    nbytes = math.prod(shape) * dtype.itemsize
    seed = draw(st.binary(min_size=1, max_size=64))
    array = np.frombuffer((seed * (nbytes // len(seed) + 1))[:nbytes], dtype).reshape(shape)
    match draw(st.sampled_from(["plain", "transposed", "strided", "big-endian"])):
        case "transposed":
            return array.T
        case "strided" if array.ndim:
            return array[::-1]
        case "big-endian" if array.dtype.kind in "iufc" and array.dtype.itemsize <= 8:
            return array.byteswap().view(array.dtype.newbyteorder(">"))
    return array


VALUES = st.dictionaries(NAMES, arrays() | PLAIN, max_size=5)


def packed_frames(meta: bytes, buffers: list[Buffer]) -> list[Buffer]:
    """The packed form at any size, as answers out of shared memory have it."""
    frame = bytearray(pack_header(Kind.CALL, Flag.PACKED, len(buffers), meta_nbytes=len(meta)) + meta)
    for buffer in buffers:
        frame.extend(bytes(align(len(frame)) - len(frame)))
        frame.extend(buffer)
    return [frame]


def split_frames(meta: bytes, buffers: list[Buffer]) -> list[Buffer]:
    return [pack_header(Kind.CALL, 0, len(buffers), meta_nbytes=len(meta)), meta, *buffers]


def received(frames: list[Buffer]) -> dict[str, Any]:
    message = decode([bytes(frame) for frame in frames])
    meta = decode_call(message.meta)
    return join_values(meta.params, meta.tensors, slice_tensors(message, [spec.nbytes for spec in meta.tensors]))


def same(one: Any, other: Any) -> bool:
    """Equal in type and bits."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return one.shape == other.shape and one.dtype == other.dtype and one.tobytes() == other.tobytes()
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float):
        return (math.isnan(one) and math.isnan(other)) or (
            one == other and math.copysign(1, one) == math.copysign(1, other)
        )
    return bool(one == other)


def little(value: Any) -> Any:
    return value.astype(value.dtype.newbyteorder("<"), copy=False) if isinstance(value, np.ndarray) else value


@settings(max_examples=400)
@given(VALUES)
def test_any_values_arrive_in_every_form(values: dict[str, Any]) -> None:
    params, specs, buffers = split_values(values)
    meta = encode_meta(CallMeta(params=params, tensors=specs))
    expected = {name: little(value) for name, value in values.items()}
    for frames in (
        encode(Kind.CALL, 1, 2, 3, meta, buffers),
        packed_frames(meta, buffers),
        split_frames(meta, buffers),
    ):
        assert same(received(frames), expected)


@settings(max_examples=50)
@given(arrays(), st.integers(1, 5))
def test_packed_tensors_are_aligned_in_aligned_memory(array: np.ndarray[Any, Any], count: int) -> None:
    _, specs, buffers = split_values({f"t{i}": array for i in range(count)})
    (frame,) = packed_frames(encode_meta(CallMeta(tensors=specs)), buffers)
    memory = np.zeros(len(frame) + 64, np.uint8)
    start = -memory.ctypes.data % 64
    place = memory[start : start + len(frame)]
    place[:] = np.frombuffer(frame, np.uint8)
    message = decode([place.data])
    for tensor in slice_tensors(message, [spec.nbytes for spec in specs]):
        assert not len(tensor) or np.frombuffer(tensor, np.uint8).ctypes.data % 64 == 0


@given(st.integers(1, DEPTH_MAX - 1), SCALARS)
def test_lists_of_every_depth_arrive(depth: int, value: Any) -> None:
    for _ in range(depth):
        value = [value]
    params, specs, buffers = split_values({"x": value})
    assert same(
        received(encode(Kind.CALL, 1, 2, 3, encode_meta(CallMeta(params=params, tensors=specs)), buffers)), {"x": value}
    )
