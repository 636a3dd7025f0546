"""How vectors are made: the wire by hand, from SPEC.md, with `struct` and `msgpack` alone.

Nothing of `huterox_wire` is imported, so that vectors and package check each other. A frame is a list of pieces, each a
byte string and how often it stands there: so a frame of 512 MiB fits in a line.
"""

import math
import struct
from dataclasses import dataclass, field
from typing import Any

import msgpack

Pieces = list[tuple[bytes, int]]

KINDS = {
    "OPEN": 1,
    "CALL": 2,
    "PART": 3,
    "REPLY": 4,
    "ERROR": 5,
    "CANCEL": 6,
    "LEASE": 7,
    "ADMIN": 8,
    "REGISTER": 16,
    "HEARTBEAT": 17,
    "CREATE": 18,
    "CLOSE": 19,
    "SWAP_OUT": 20,
    "SWAP_IN": 21,
    "EVENT": 22,
    "DRAIN": 23,
}
PACKED = 1
STREAM = 2

REPORT = {
    "pid": 0,
    "device": "",
    "device_bytes": 0,
    "pid_started": 0,
    "service": 0,
    "started_s": 0.0,
    "host_bytes": 0,
    "requests": 0,
    "errors": 0,
    "busy_us": 0,
    "reason": "",
    "lanes": 0,
    "lane_calls": 0,
    "lane_usage": [],
    "lane_services": [],
    "revision": "",
}
MODEL = {
    "version": "1",
    "algorithm": "",
    "runtime": "python",
    "device": "cpu",
    "idempotent": False,
    "services_per_container": 10,
    "replicas_max": 8,
    "idle_timeout_s": 600.0,
    "load_timeout_s": 120.0,
    "interpreter": "",
    "source_dir": "",
    "params": {},
    "resources": {"host_mb": 256, "gpu_mb": 0},
    "inputs": {},
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "CallMeta": {"method": "predict", "params": {}, "tensors": [], "trace": ""},
    "ReplyMeta": {"params": {}, "tensors": []},
    "ErrorMeta": {"message": "", "retryable": False, "details": {}},
    "OpenMeta": {"tenant": ""},
    "OpenedMeta": {},
    "AdminMeta": {"args": {}},
    "AdminReplyMeta": {"result": None},
    "RegisterMeta": {
        "containers": [],
        "version": "",
        "host_id": "",
        "host_bytes_free": 0,
        "devices": [],
        "epoch_seen": 0,
        "store_seen": "",
        "mark_seen": 0,
        "base_bytes": 0,
    },
    "RegisteredMeta": {"again": False, "store": "", "mark": 0},
    "HeartbeatMeta": {"host_bytes_free": 0, "containers": [], "devices": [], "calls": None, "base_bytes": 0},
    "CreateMeta": {
        "device": "",
        "host_bytes": 0,
        "device_bytes": 0,
        "load_timeout_s": 0.0,
        "service": 0,
        "revision": "",
    },
    "CloseMeta": {"reason": "", "grace_s": 5.0},
    "ContainerEvent": {
        "pid": 0,
        "cause": "",
        "reason": "",
        "traceback": "",
        "host_bytes": 0,
        "device_bytes": 0,
        "pid_started": 0,
        "timings_s": {},
        "requests": 0,
        "lane_usage": [],
    },
    "LeaseMeta": {"host_id": "", "pid": 0, "half_mb": 0, "ring_entries": 0},
    "LeaseOrderMeta": {"half_mb": 0, "ring_entries": 0, "pid": 0},
    "LeasedMeta": {},
    "DrainMeta": {"reason": "", "service": 0},
}


@dataclass(frozen=True)
class Repeat:
    """A text too long to write down, in a meta whose bytes are given raw."""

    text: str
    count: int


@dataclass(frozen=True)
class Tensor:
    name: str
    dtype: str
    shape: list[int]
    data: bytes = b""
    zeros: int = 0  # so many zero bytes follow `data`

    @property
    def nbytes(self) -> int:
        return len(self.data) + self.zeros

    @property
    def spec(self) -> list[Any]:
        return [self.name, self.dtype, self.shape]

    @property
    def pieces(self) -> Pieces:
        return [(self.data, 1), (b"\0", self.zeros)]


@dataclass(frozen=True)
class Head:
    """Every field of the header, wrong ones included. `count` and `meta_nbytes` are filled in where they are None."""

    kind: str | int = "CALL"
    flags: int = 0
    count: int | None = None
    request_id: int = 1
    handle: int = 0
    budget_us: int = 0
    meta_nbytes: int | None = None
    magic: int = 0x5848
    version: int = 1
    reserved: int = 0

    def pack(self, flags: int = 0, count: int = 0, meta_nbytes: int = 0) -> bytes:
        kind = self.kind if isinstance(self.kind, int) else KINDS[self.kind]
        return struct.pack(
            "<HBBHHQQQII",
            self.magic,
            self.version,
            kind,
            self.flags | flags,
            count if self.count is None else self.count,
            self.request_id,
            self.handle,
            self.budget_us,
            meta_nbytes if self.meta_nbytes is None else self.meta_nbytes,
            self.reserved,
        )


@dataclass
class Body:
    """What a message says: its meta map as sent, and its tensors."""

    type: str | None = "CallMeta"
    meta: dict[str, Any] | None = field(default_factory=dict)
    tensors: list[Tensor] = field(default_factory=list)
    raw: bytes | Pieces | None = None  # the meta's bytes, where msgpack would not write them so

    def meta_pieces(self) -> Pieces:
        if isinstance(self.raw, bytes):
            return [(self.raw, 1)]
        if self.raw is not None:
            return self.raw
        return [] if self.meta is None else [(msgpack.packb(self.as_sent()), 1)]

    def as_sent(self) -> dict[str, Any]:
        meta = dict(self.meta or {})
        if self.tensors and "tensors" not in meta:
            trace = {"trace": meta.pop("trace")} if "trace" in meta else {}
            meta = {**meta, "tensors": [tensor.spec for tensor in self.tensors], **trace}
        return meta

    def decoded(self) -> dict[str, Any] | None:
        if self.type is None or self.meta is None:
            return None
        decoded = {**DEFAULTS[self.type], **self.as_sent()}
        if "containers" in decoded:
            decoded["containers"] = [{**REPORT, **report} for report in decoded["containers"]]
        if "capacity" in decoded:
            decoded["capacity"] = {"devices": [], **decoded["capacity"]}
        if self.type == "CreateMeta":
            decoded["model"] = complete_model(decoded["model"])
        return decoded


def complete_model(model: dict[str, Any]) -> dict[str, Any]:
    complete = {**MODEL, **model}
    complete["resources"] = {"host_mb": 256, "gpu_mb": 0, **complete["resources"]}
    complete["inputs"] = {
        name: {"dtype": "", "shape": None, "writable": False, **spec}
        for name, spec in sorted(complete["inputs"].items())
    }
    return complete


def nbytes_of(pieces: Pieces) -> int:
    return sum(len(data) * count for data, count in pieces)


def packed(head: Head, body: Body, pad: bytes = b"\0") -> list[Pieces]:
    meta = body.meta_pieces()
    frame: Pieces = [(head.pack(PACKED, len(body.tensors), nbytes_of(meta)), 1), *meta]
    for tensor in body.tensors:
        frame.append((pad, -nbytes_of(frame) % 64))
        frame.extend(tensor.pieces)
    return [frame]


def split(head: Head, body: Body) -> list[Pieces]:
    meta = body.meta_pieces()
    header = head.pack(0, len(body.tensors), nbytes_of(meta))
    return [[(header, 1)], meta, *(tensor.pieces for tensor in body.tensors)]


def frame_json(pieces: Pieces) -> str | list[list[Any]]:
    """A hex string; where that would be long, a list of [hex, count] whose repetitions are to be joined."""
    if nbytes_of(pieces) <= 4096:
        return b"".join(data * count for data, count in pieces).hex()
    joined: list[list[Any]] = []
    for data, count in pieces:
        if data and count:
            if count == 1 and joined and joined[-1][1] == 1:
                joined[-1][0] += data.hex()
            else:
                joined.append([data.hex(), count])
    return joined


def plain_json(value: Any) -> Any:
    """A msgpack value as JSON: bytes, NaN, infinities and integers over 2^53 become maps of one `$` key."""
    if isinstance(value, bytes):
        return {"$bytes": value.hex()}
    if isinstance(value, Repeat):
        return {"$repeat": [value.text, value.count]}
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": struct.pack(">d", value).hex()}
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 2**53:
        return {"$int": str(value)}
    if isinstance(value, dict):
        return {key: plain_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item) for item in value]
    return value


def good(name: str, description: str, head: Head, body: Body, form: str = "", **extra: Any) -> dict[str, Any]:
    """A vector that decodes. `form` "" is what a sender writes; "packed" and "split" force one."""
    sent = "packed" if nbytes_of(packed(head, body)[0]) <= 65536 else "split"
    form = form or sent
    frames = packed(head, body, extra.pop("pad", b"\0")) if form == "packed" else split(head, body)
    meta_nbytes = nbytes_of(body.meta_pieces())
    return {
        "name": name,
        "description": description,
        "canonical": extra.pop("canonical", form == sent and body.raw is None),
        "frames": [frame_json(frame) for frame in frames],
        "header": plain_json(
            {
                "kind": head.kind,
                "flags": head.flags | (PACKED if form == "packed" else 0),
                "tensor_count": len(body.tensors),
                "request_id": head.request_id,
                "handle": head.handle,
                "budget_us": head.budget_us,
                "meta_nbytes": meta_nbytes,
            }
        ),
        "meta_type": body.type,
        "decoded": plain_json(body.decoded()),
        "tensors": [
            {"name": t.name, "dtype": t.dtype, "shape": plain_json(t.shape), "bytes": frame_json(t.pieces)}
            for t in body.tensors
        ],
        **extra,
    }


def malformed(
    name: str, description: str, frames: list[Pieces] | list[bytes], step: int, code: str = "InvalidInput"
) -> dict[str, Any]:
    """A vector that must be refused with `code`, by check number `step` of SPEC.md section 10, as a CALL."""
    pieces = [[(frame, 1)] if isinstance(frame, bytes) else frame for frame in frames]
    return {
        "name": name,
        "description": description,
        "step": step,
        "code": code,
        "meta_type": "CallMeta",
        "frames": [frame_json(frame) for frame in pieces],
    }
