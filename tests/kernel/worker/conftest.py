"""A worker's half of a lane, run in the test's own process step by step, and the caller opposite to it."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from huterox_kernel.worker import runtimes
from huterox_kernel.worker.calls import Calls
from huterox_kernel.worker.inputs import Expected
from huterox_shm.lane import (
    ERROR,
    PART,
    REQUEST_RELEASED,
    STREAM,
    CallerEnd,
    ContainerEnd,
    LaneConfig,
    create_lane,
)
from huterox_wire.errors import HuteroxError
from huterox_wire.kinds import Kind
from huterox_wire.message import decode, encode, packed_nbytes, slice_tensors
from huterox_wire.meta import CallMeta, TensorSpec, decode_error, decode_reply, encode_meta
from huterox_wire.nodes import InputSpec, ModelSpec
from huterox_wire.payload import join_values, split_values

MODELS = Path(__file__).parents[1] / "models"
MIB = 1024 * 1024
REQUEST_ID = 4711
HANDLE = 77


class Bench:
    """Both ends of one lane, and a model behind it."""

    def __init__(self, spec: ModelSpec, half_mb: int = 16, copies: bool = False) -> None:
        descriptors = create_lane(LaneConfig(128, half_mb * MIB, half_mb * MIB), generation=1)
        self.caller = CallerEnd.attach(descriptors.duplicate())
        self.container = ContainerEnd.attach(descriptors)
        self.stages: list[str] = []
        self.model = runtimes.RUNTIMES[spec.runtime](spec, self.stages.append)
        self.calls = Calls(self.container, self.model, Expected(spec.inputs), copies=copies)
        self.busy_us: list[int] = []  # as the answers tell it

    def close(self) -> None:
        self.caller.close()
        self.container.close()

    def put(self, frame: bytes, *, deadline_us: int = 0, stream: bool = False) -> int:
        """Publish any bytes as a call."""
        offset = self.caller.claim(len(frame))
        self.caller.write_view(offset, len(frame))[:] = frame
        flags = STREAM if stream else 0
        call_id = self.caller.publish_call(None, offset, len(frame), flags=flags, deadline_us=deadline_us)
        self.caller.flush()
        return call_id

    def send(self, method: str = "predict", *, deadline_us: int = 0, stream: bool = False, **values: Any) -> int:
        params, specs, buffers = split_values(values)
        frame = packed(CallMeta(method, params, specs), buffers)
        return self.put(frame, deadline_us=deadline_us, stream=stream)

    def send_tensor(self, spec: TensorSpec, data: bytes, method: str = "predict") -> int:
        return self.put(packed(CallMeta(method, {}, [spec]), [data]))

    def run(self) -> None:
        """Let the worker do what there is to do."""
        while self.calls.look():
            self.calls.step(16)
        if self.container.releases_pending:
            self.container.flush_releases()

    def take(self, *, keep: bool = False) -> list[tuple[int, int, Any, bool]]:
        """Answers: ring kind, call id, values or error, was the request released with it. Blocks are given back."""
        answers = []
        for _, call_id, kind, flags, _, offset, nbytes in self.caller.take():
            released = flags & REQUEST_RELEASED != 0
            if not nbytes:
                answers.append((kind, call_id, None, released))
                continue
            message = decode([bytes(self.caller.view(offset, nbytes))])
            assert message.header.request_id in (REQUEST_ID, 0)
            self.busy_us.append(message.header.budget_us)
            answers.append((kind, call_id, values_of(kind, message), released))
            if not keep:
                self.caller.release(offset)
        self.caller.flush_releases()
        return answers

    def result(self, method: str = "predict", **values: Any) -> Any:
        """One call, one answer; raises what came back as an error."""
        self.send(method, **values)
        self.run()
        ((_, _, answer, _),) = self.take()
        if isinstance(answer, HuteroxError):
            raise answer
        return answer

    def lent_count(self) -> int:
        """Request blocks that the container still has."""
        return self.caller.slab_stats().out_count


def packed(meta: CallMeta, buffers: list[Any]) -> bytes:
    """A whole call in the packed form, at any size."""
    data = encode_meta(meta)
    frames = encode(Kind.CALL, REQUEST_ID, HANDLE, 0, data, buffers)
    if len(frames) == 1:
        return bytes(frames[0])
    from huterox_wire.header import HEADER_NBYTES, pack_header
    from huterox_wire.kinds import Flag
    from huterox_wire.message import align

    sizes = [len(buffer) for buffer in buffers]
    frame = bytearray(packed_nbytes(len(data), sizes))
    end = HEADER_NBYTES + len(data)
    frame[:HEADER_NBYTES] = pack_header(Kind.CALL, Flag.PACKED, len(sizes), REQUEST_ID, HANDLE, 0, len(data))
    frame[HEADER_NBYTES:end] = data
    for buffer in buffers:
        start = align(end)
        end = start + len(buffer)
        frame[start:end] = buffer
    return bytes(frame)


def values_of(kind: int, message: Any) -> Any:
    if kind == ERROR:
        assert message.header.kind is Kind.ERROR
        return decode_error(message.meta)
    assert message.header.kind is (Kind.PART if kind == PART else Kind.REPLY)
    assert message.header.handle == HANDLE
    meta = decode_reply(message.meta)
    tensors = slice_tensors(message, [spec.nbytes for spec in meta.tensors])
    return join_values(meta.params, meta.tensors, tensors)


def now_us() -> int:
    return time.monotonic_ns() // 1000


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    """Makes benches: `bench("plain.py:Echo", inputs=..., half_mb=..., copies=...)`."""
    made: list[Bench] = []

    def make(
        entry: str = "plain.py:Echo",
        half_mb: int = 16,
        inputs: dict[str, InputSpec] | None = None,
        copies: bool = False,
        **spec: Any,
    ) -> Bench:
        values = {"name": "model", "source_dir": str(MODELS), "inputs": inputs or {}, **spec}
        made.append(Bench(ModelSpec(entry=entry, **values), half_mb, copies))
        return made[-1]

    yield make
    for one in made:
        one.close()
