"""pytest-benchmarks of what every call does to its message."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from huterox_wire.header import Buffer, pack_header, unpack_header
from huterox_wire.kinds import Kind
from huterox_wire.message import decode, encode, slice_tensors
from huterox_wire.meta import CallMeta, decode_call, encode_meta
from huterox_wire.payload import Values, join_values, split_values

pytestmark = pytest.mark.bench
Benchmark = Callable[..., Any]

SMALL = {"x": np.zeros(256, np.float32)}
LARGE = {"x": np.zeros((1, 3, 640, 640), np.float32)}
MIXED = {**SMALL, "y": np.zeros(16, np.int64), "threshold": 0.5, "labels": ["cat", "dog"], "name": "street"}
CASES = pytest.mark.parametrize(
    "values", [{}, SMALL, MIXED, LARGE], ids=["empty", "1-KiB", "two-tensors-and-params", "4.9-MB"]
)


def sent(values: Values) -> list[Buffer]:
    params, specs, buffers = split_values(values)
    return encode(Kind.CALL, 1, 2, 3, encode_meta(CallMeta(params=params, tensors=specs)), buffers)


def received(frames: list[Buffer]) -> dict[str, Any]:
    message = decode(frames)
    meta = decode_call(message.meta)
    return join_values(meta.params, meta.tensors, slice_tensors(message, [spec.nbytes for spec in meta.tensors]))


@CASES
def test_encode(benchmark: Benchmark, values: Values) -> None:
    assert benchmark(sent, values)


@CASES
def test_decode(benchmark: Benchmark, values: Values) -> None:
    assert benchmark(received, sent(values)).keys() == values.keys()


def test_pack_header(benchmark: Benchmark) -> None:
    assert len(benchmark(pack_header, 2, 1, 3, 4, 5, 6, 7)) == 40


def test_unpack_header(benchmark: Benchmark) -> None:
    assert benchmark(unpack_header, pack_header(2, 1, 3, 4, 5, 6, 7)).request_id == 4
