"""The vectors against the package, and against a second reader written from SPEC.md with `msgpack` alone."""

import json
import math
import mmap
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgpack
import msgspec
import pytest

from huterox_wire import leases, meta, nodes
from huterox_wire.arrays import DTYPE_OF_NAME
from huterox_wire.errors import HuteroxError, InvalidInput
from huterox_wire.header import Buffer, Header, pack_header
from huterox_wire.kinds import Flag, Kind
from huterox_wire.message import Message, decode, encode, slice_tensors
from huterox_wire.payload import join_values

FOLDER = Path(__file__).parents[2] / "wire" / "vectors"
LONG_NBYTES = 1 << 24
DECODERS = {
    "CallMeta": meta.decode_call,
    "ReplyMeta": meta.decode_reply,
    "ErrorMeta": meta.decode_error_meta,
    "OpenMeta": meta.decode_open,
    "OpenedMeta": meta.decode_opened,
    "AdminMeta": meta.decode_admin,
    "AdminReplyMeta": meta.decode_admin_reply,
    "RegisterMeta": nodes.decode_register,
    "RegisteredMeta": nodes.decode_registered,
    "HeartbeatMeta": nodes.decode_heartbeat,
    "CreateMeta": nodes.decode_create,
    "CloseMeta": nodes.decode_close,
    "ContainerEvent": nodes.decode_container_event,
    "LeaseMeta": leases.decode_lease,
    "LeaseOrderMeta": leases.decode_lease_order,
    "LeasedMeta": leases.decode_leased,
    "DrainMeta": leases.decode_drain,
}


def load(theme: str) -> list[Any]:
    return [
        pytest.param(vector, id=f"{path.stem}-{vector['name']}")
        for path in sorted(FOLDER.glob(f"{theme}-*.json"))
        for vector in json.loads(path.read_text(encoding="utf-8"))["vectors"]
    ]


GOOD = load("good")
MALFORMED = load("malformed")
PACKETS = json.loads((FOLDER / "handover.json").read_text(encoding="utf-8"))["vectors"]


def frame_of(written: str | list[list[Any]]) -> Buffer:
    """The bytes of a frame. Long ones end in zeros that are never touched."""
    if isinstance(written, str):
        return bytes.fromhex(written)
    nbytes = sum(len(data) // 2 * count for data, count in written)
    if nbytes < LONG_NBYTES:
        return b"".join(bytes.fromhex(data) * count for data, count in written)
    *head, (last, _) = written
    assert last == "00"
    memory = mmap.mmap(-1, nbytes)
    memory.write(b"".join(bytes.fromhex(data) * count for data, count in head))
    return memoryview(memory)


def value_of(written: Any) -> Any:
    """The value that a vector's JSON stands for."""
    match written:
        case {"$bytes": data}:
            return bytes.fromhex(data)
        case {"$float": data}:
            return struct.unpack(">d", bytes.fromhex(data))[0]
        case {"$int": digits}:
            return int(digits)
        case {"$repeat": [text, count]}:
            return text * count
        case dict():
            return {key: value_of(item) for key, item in written.items()}
        case list():
            return [value_of(item) for item in written]
    return written


def plain_of(value: Any) -> Any:
    """A decoded meta as plain maps and lists, defaults included."""
    if isinstance(value, msgspec.Struct) and value.__struct_config__.array_like:
        return [getattr(value, name) for name in value.__struct_fields__]
    if isinstance(value, msgspec.Struct):
        return {name: plain_of(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, dict):
        return {key: plain_of(item) for key, item in value.items()}
    return [plain_of(item) for item in value] if isinstance(value, list) else value


def exact(value: Any) -> Any:
    """Something equal only to values of the same types and bits: 1, 1.0 and True differ, and NaN equals itself."""
    if isinstance(value, dict):
        return {key: exact(item) for key, item in value.items()}
    if isinstance(value, list):
        return [exact(item) for item in value]
    return (type(value), struct.pack(">d", value) if isinstance(value, float) else value)


def contains(whole: Any, part: Any) -> bool:
    """Whether `part` is `whole` with defaults left out and unknown fields added, as a meta on the wire may be."""
    if isinstance(whole, dict) and isinstance(part, dict):
        return all(contains(whole[key], item) for key, item in part.items() if key in whole)
    if isinstance(whole, list) and isinstance(part, list):
        return all(contains(*pair) for pair in zip(whole, part, strict=False)) and len(whole) <= len(part)
    if isinstance(whole, float) and isinstance(part, float) and math.isnan(whole):
        return math.isnan(part)
    return bool(whole == part)


def frames_of(vector: dict[str, Any]) -> list[Buffer]:
    return [frame_of(frame) for frame in vector["frames"]]


def decode_meta(vector: dict[str, Any], message: Message) -> Any:
    return DECODERS[vector["meta_type"]](message.meta) if vector["meta_type"] else None


def tensors_of(decoded: Any, message: Message) -> list[Buffer]:
    specs = getattr(decoded, "tensors", [])
    return list(slice_tensors(message, [spec.nbytes for spec in specs]))


def same_bytes(left: Buffer, right: Buffer) -> bool:
    return len(left) == len(right) and (len(left) >= LONG_NBYTES or bytes(left) == bytes(right))


@pytest.mark.parametrize("vector", GOOD)
def test_a_good_vector_decodes_to_its_value(vector: dict[str, Any]) -> None:
    message = decode(frames_of(vector))
    decoded = decode_meta(vector, message)
    tensors = tensors_of(decoded, message)

    assert message.header._asdict() == {**value_of(vector["header"]), "kind": Kind[vector["header"]["kind"]]}
    assert exact(plain_of(decoded)) == exact(value_of(vector["decoded"]))
    assert len(tensors) == len(vector["tensors"])
    for tensor, expected in zip(tensors, vector["tensors"], strict=True):
        assert same_bytes(tensor, frame_of(expected["bytes"]))


@pytest.mark.parametrize("vector", GOOD)
def test_a_good_vector_gives_arrays_of_its_bytes(vector: dict[str, Any]) -> None:
    message = decode(frames_of(vector))
    decoded = decode_meta(vector, message)
    specs = getattr(decoded, "tensors", [])
    tensors = tensors_of(decoded, message)
    if "optional_dtype" in vector and vector["optional_dtype"] not in DTYPE_OF_NAME:
        with pytest.raises(InvalidInput):
            join_values({}, specs, tensors)
        return
    values = join_values({}, specs, tensors)
    for expected in vector["tensors"]:
        value, data = values[expected["name"]], frame_of(expected["bytes"])
        if expected["dtype"] == "bytes":
            assert value == data
        else:
            assert value.dtype == DTYPE_OF_NAME[expected["dtype"]]
            assert list(value.shape) == expected["shape"]
            assert value.nbytes == len(data)
            assert value.nbytes >= LONG_NBYTES or value.tobytes() == data


@pytest.mark.parametrize("vector", [p for p in GOOD if p.values[0]["canonical"]])
def test_a_canonical_vector_is_what_is_encoded_for_its_value(vector: dict[str, Any]) -> None:
    frames = frames_of(vector)
    message = decode(frames)
    decoded = decode_meta(vector, message)
    head: Header = message.header
    data = b"" if decoded is None else meta.encode_meta(decoded)
    tensors = tensors_of(decoded, message)
    encoded = encode(
        head.kind, head.request_id, head.handle, head.budget_us, data, tensors, head.flags & ~int(Flag.PACKED)
    )
    if vector["name"] == "cancel-split":
        encoded = [pack_header(head.kind, request_id=head.request_id), b""]

    assert len(encoded) == len(frames)
    assert all(same_bytes(one, other) for one, other in zip(encoded, frames, strict=True))


@pytest.mark.parametrize("vector", GOOD)
def test_a_good_vector_is_read_the_same_by_an_independent_reader(vector: dict[str, Any]) -> None:
    header, meta_bytes, tail = read_frames(frames_of(vector))

    assert header == {**value_of(vector["header"]), "kind": Kind[vector["header"]["kind"]].value}
    if vector["meta_type"] is None:
        assert meta_bytes == b""
        return
    written = msgpack.unpackb(meta_bytes)
    assert contains(value_of(vector["decoded"]), written)
    specs = written.get("tensors", [])
    assert [spec[:3] for spec in specs] == [[t["name"], t["dtype"], value_of(t["shape"])] for t in vector["tensors"]]
    for tensor, expected in zip(cut(tail, header, vector["tensors"]), vector["tensors"], strict=True):
        assert same_bytes(tensor, frame_of(expected["bytes"]))


def read_frames(frames: list[Buffer]) -> tuple[dict[str, int], bytes, list[Buffer]]:
    """SPEC.md sections 2 and 3, by hand: the header, the meta, and the frames that hold tensors."""
    magic, version, *fields, reserved = struct.unpack_from("<HBBHHQQQII", frames[0])
    assert (magic, version, reserved) == (0x5848, 1, 0)
    names = ("kind", "flags", "tensor_count", "request_id", "handle", "budget_us", "meta_nbytes")
    header = dict(zip(names, fields, strict=True))
    if header["flags"] & 1:
        assert len(frames) == 1
        return header, bytes(frames[0][40 : 40 + header["meta_nbytes"]]), frames
    assert len(frames[0]) == 40
    assert len(frames[1]) == header["meta_nbytes"]
    return header, bytes(frames[1]), frames[2:]


def cut(frames: list[Buffer], header: dict[str, int], tensors: list[dict[str, Any]]) -> list[Buffer]:
    if not header["flags"] & 1:
        return frames
    cuts, end = [], 40 + header["meta_nbytes"]
    for tensor in tensors:
        start = math.ceil(end / 64) * 64
        end = start + len(frame_of(tensor["bytes"]))
        cuts.append(frames[0][start:end])
    assert end == len(frames[0])
    return cuts


@pytest.mark.parametrize("vector", MALFORMED)
def test_a_malformed_vector_is_refused_with_its_code_by_its_check(vector: dict[str, Any]) -> None:
    frames = frames_of(vector)
    step = 4
    with pytest.raises(HuteroxError) as refusal:
        message = decode(frames)
        step = 5
        decoded = decode_meta(vector, message)
        step = 6
        tensors = tensors_of(decoded, message)
        step = 7
        join_values(decoded.params, decoded.tensors, tensors)

    assert refusal.value.code == vector["code"]
    assert step == max(4, vector["step"])


def read_packet(vector: dict[str, Any], packet: Buffer) -> Any:
    """What its receiver makes of a packet of the hand-over socket."""
    if vector["meta_type"] == "LaneHello":
        return leases.decode_hello(packet)
    return leases.decode_granted_or_refused(packet)


@pytest.mark.parametrize("vector", [v for v in PACKETS if "decoded" in v], ids=lambda vector: str(vector["name"]))
def test_a_packet_of_the_handover_is_what_is_encoded_for_its_value(vector: dict[str, Any]) -> None:
    packet, expected = frame_of(vector["packet"]), value_of(vector["decoded"])
    if vector["meta_type"] == "ErrorMeta":
        with pytest.raises(HuteroxError) as refusal:
            read_packet(vector, packet)
        error = refusal.value
        facts = {"message": error.message, "retryable": error.retryable, "details": error.details}
        assert exact({"code": error.code, **facts}) == exact(expected)
        assert leases.encode_refused(error) == packet
        return
    decoded = read_packet(vector, packet)
    assert exact(plain_of(decoded)) == exact(expected)
    encoded = leases.encode_hello(decoded.token) if "token" in expected else leases.encode_granted(decoded)
    assert encoded == packet


@pytest.mark.parametrize("vector", [v for v in PACKETS if "code" in v], ids=lambda vector: str(vector["name"]))
def test_a_malformed_packet_of_the_handover_is_refused_with_its_code(vector: dict[str, Any]) -> None:
    with pytest.raises(HuteroxError) as refusal:
        read_packet(vector, frame_of(vector["packet"]))
    assert refusal.value.code == vector["code"]


def test_the_vectors_cover_every_kind_in_both_forms() -> None:
    headers = [param.values[0]["header"] for param in GOOD]
    assert {header["kind"] for header in headers} == {kind.name for kind in Kind}
    assert {header["flags"] & 1 for header in headers} == {0, 1}


def test_the_vectors_cover_every_meta_type() -> None:
    assert {param.values[0]["meta_type"] for param in GOOD} == {*DECODERS, None}


def test_the_vectors_are_enough_and_each_has_its_own_name() -> None:
    for vectors in (GOOD, MALFORMED):
        assert len(vectors) >= 40
        assert len({param.id for param in vectors}) == len(vectors)


def test_the_generator_writes_the_files_that_are_checked_in(tmp_path: Path) -> None:
    subprocess.run([sys.executable, FOLDER / "generate.py", tmp_path], check=True, timeout=60)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in FOLDER.glob("*.json")}
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (FOLDER / path.name).read_bytes()
