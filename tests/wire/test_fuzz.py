"""Bytes of strangers: whatever comes, decoding raises nothing but the typed errors."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.rounds import seeds

from huterox_wire import leases, meta, nodes
from huterox_wire.errors import HuteroxError
from huterox_wire.header import Buffer, pack_header
from huterox_wire.kinds import Kind
from huterox_wire.message import decode, slice_tensors
from huterox_wire.payload import join_values

FOLDER = Path(__file__).parents[2] / "wire" / "vectors"
DECODERS = (
    meta.decode_call,
    meta.decode_reply,
    meta.decode_error,
    meta.decode_open,
    meta.decode_opened,
    meta.decode_admin,
    meta.decode_admin_reply,
    nodes.decode_register,
    nodes.decode_registered,
    nodes.decode_heartbeat,
    nodes.decode_create,
    nodes.decode_close,
    nodes.decode_container_event,
    leases.decode_lease,
    leases.decode_lease_order,
    leases.decode_leased,
    leases.decode_drain,
    leases.decode_hello,
    leases.decode_granted_or_refused,
)


def receive(frames: Sequence[Buffer]) -> bool:
    """Do all that a receiver does. Whether the message was taken; a refusal that is not typed goes through."""
    try:
        message = decode(frames)
        call = meta.decode_call(message.meta)
        tensors = slice_tensors(message, [spec.nbytes for spec in call.tensors])
        join_values(call.params, call.tensors, tensors)
    except HuteroxError:
        return False
    return True


def good_messages() -> list[list[bytes]]:
    """The frames of every vector that is written as plain hex."""
    return [
        [bytes.fromhex(frame) for frame in vector["frames"]]
        for path in sorted(FOLDER.glob("*.json"))
        for vector in json.loads(path.read_text(encoding="utf-8"))["vectors"]
        if "frames" in vector and all(isinstance(frame, str) for frame in vector["frames"])
    ]


MESSAGES = good_messages()


def mutate(frames: list[bytes], rng: random.Random) -> list[bytes]:
    """A few random changes to bytes and frames."""
    frames = [*frames] or [b""]
    for _ in range(rng.choice([1, 1, 1, 2, 3, 8])):
        index = rng.randrange(len(frames))
        frame = bytearray(frames[index])
        at = rng.randrange(len(frame) + 1)
        match rng.randrange(7):
            case 0 if at < len(frame):
                frame[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(frame):
                frame[at] = rng.choice([0, 1, 0x7F, 0x80, 0x81, 0x91, 0xC1, 0xC6, 0xC9, 0xD9, 0xDD, 0xDF, 0xFF])
            case 2:
                frame[at:at] = rng.randbytes(rng.randrange(1, 9))
            case 3:
                del frame[at : at + rng.randrange(1, 9)]
            case 4:
                del frame[at:]
            case 5:
                frames.insert(index, bytes(frame))
            case 6 if len(frames) > 1:
                frames.pop(rng.randrange(len(frames)))
                continue
        frames[index] = bytes(frame)
    return frames


@pytest.mark.parametrize("seed", seeds(8, 60))
def test_mutated_messages_are_taken_or_refused(seed: int) -> None:
    rng = random.Random(seed)
    taken = sum(receive(mutate(rng.choice(MESSAGES), rng)) for _ in range(4000))
    assert 0 < taken < 4000


@pytest.mark.parametrize("seed", range(4))
def test_mutated_metas_of_every_type_are_taken_or_refused(seed: int) -> None:
    rng = random.Random(seed)
    metas = [frame[40:] for frames in MESSAGES for frame in frames[:1] if len(frame) > 40]
    for _ in range(1000):
        (data,) = mutate([rng.choice(metas)], rng)[:1]
        for decoder in DECODERS:
            try:
                decoder(data)
            except HuteroxError:
                pass


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=200), max_size=5))
def test_random_frames_are_refused(frames: list[bytes]) -> None:
    receive(frames)


@settings(max_examples=300)
@given(st.binary(max_size=300), st.booleans(), st.integers(0, 3), st.lists(st.binary(max_size=50), max_size=3))
def test_random_metas_behind_a_good_header_are_taken_or_refused(
    data: bytes, packed: bool, count: int, tensors: list[bytes]
) -> None:
    header = pack_header(Kind.CALL, int(packed), count, meta_nbytes=len(data))
    receive([header + data + b"".join(tensors)] if packed else [header, data, *tensors])


JSON_LIKE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=9) | st.dictionaries(st.text(max_size=3) | st.integers(0, 9), inner, max_size=4)
    ),
    max_leaves=20,
)


def packable(value: object) -> bytes:
    try:
        return bytes(msgpack.packb(value))
    except UnicodeEncodeError:  # lone surrogates
        return b"\xc1"


@settings(max_examples=300)
@given(JSON_LIKE, JSON_LIKE, JSON_LIKE, JSON_LIKE)
def test_metas_of_the_right_names_and_wrong_values_are_taken_or_refused(
    method: object, params: object, tensors: object, trace: object
) -> None:
    fields = {"method": method, "params": params, "tensors": tensors, "trace": trace}
    for name in fields:
        data = packable({name: fields[name]})
        receive([pack_header(Kind.CALL, 1, meta_nbytes=len(data)) + data])


SPECS = st.lists(
    st.tuples(
        st.text(max_size=3),
        st.sampled_from(
            ["int8", "float32", "bfloat16", "bytes", "bool", "clongdouble-x87", "longdouble-quad", "object"]
        ),
        st.lists(st.integers(0, 3) | st.sampled_from([2**31, 2**32, 2**62, 2**63 - 1, 2**63, -1]), max_size=9),
    ),
    max_size=4,
)


@settings(max_examples=500)
@given(SPECS, st.lists(st.binary(max_size=40), max_size=4), st.booleans())
def test_tensors_of_any_description_are_taken_or_refused(
    specs: list[tuple[str, str, list[int]]], tensors: list[bytes], packed: bool
) -> None:
    data = packable({"tensors": specs})
    header = pack_header(Kind.CALL, int(packed), len(specs), meta_nbytes=len(data))
    receive([header + data + b"".join(tensors)] if packed else [header, data, *tensors])
