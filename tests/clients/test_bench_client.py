"""What a call costs the client besides its sockets, in the hot path's pieces."""

from itertools import count

import numpy as np
import pytest

from huterox.codec import decode_result, encode_call
from huterox.core import ClientCore, Limits
from huterox_wire.kinds import Kind
from huterox_wire.message import encode
from huterox_wire.meta import ReplyMeta, encode_meta
from huterox_wire.payload import split_values

pytestmark = pytest.mark.bench

INPUTS = {"x": np.zeros(128)}  # 1 KiB


def test_encode_a_call(benchmark):
    core = ClientCore(Limits())

    def encode_one() -> None:
        meta, tensors = encode_call("predict", INPUTS)
        core.prepare(Kind.CALL, 1, meta, tensors, 60.0)

    benchmark(encode_one)


def test_begin_and_end_a_call(benchmark):
    core = ClientCore(Limits())
    params, specs, buffers = split_values(INPUTS)
    meta = encode_meta(ReplyMeta(params, specs))
    calls = count(1)

    def prepare():
        call = core.prepare(Kind.CALL, 1, b"\x80", (), 60.0)
        assert call.request_id == next(calls)
        return (call, encode(Kind.REPLY, call.request_id, 0, 0, meta, buffers)), {}

    def begin_and_end(call, frames) -> None:
        core.add(call, 1.0)
        core.on_frames(frames)

    benchmark.pedantic(begin_and_end, setup=prepare, rounds=2000)


def test_decode_a_result(benchmark):
    core = ClientCore(Limits())
    params, specs, buffers = split_values(INPUTS)
    call = core.prepare(Kind.CALL, 1, b"\x80", (), 60.0)
    core.add(call, 1.0)
    core.on_frames(encode(Kind.REPLY, call.request_id, 0, 0, encode_meta(ReplyMeta(params, specs)), buffers))
    result = benchmark(lambda: decode_result(call.outcome()))
    assert result["x"].shape == (128,)
