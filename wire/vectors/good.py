"""Vectors that decode, by theme."""

import math
import struct
from typing import Any

import msgpack
from building import STREAM, Body, Head, Repeat, Tensor, good

Vector = dict[str, Any]

ERRORS = {  # code: retryable
    "NotFound": False,
    "InvalidInput": False,
    "TooLarge": False,
    "Unauthorized": False,
    "Conflict": False,
    "Cancelled": False,
    "Unavailable": True,
    "Busy": True,
    "ResourceInterrupt": True,
    "DeadlineExceeded": True,
    "WorkerLost": True,
    "ModelError": False,
    "Internal": False,
}
NAN = struct.unpack(">d", bytes.fromhex("7ff8000000000000"))[0]
BLOB = bytes(range(256))


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def nested(depth: int) -> Any:
    """`depth` lists, one in the other."""
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


def kinds() -> list[Vector]:
    """Every kind, with the meta that belongs to it."""
    handle = 1 << 32 | 7
    report = {"container": handle, "model": "vad", "version": "1", "state": "ready", "pid": 4711, "requests": 3}
    model = {
        "name": "vad",
        "entry": "vad.py:Vad",
        "params": {"threshold": 0.5},
        "resources": {"host_mb": 300},
        "inputs": {"audio": {"dtype": "float32", "shape": [None, 512]}, "state": {"writable": True}},
    }
    dedicated = {"device": "GPU-1", "device_bytes": 1 << 30, "load_timeout_s": 150.5, "service": 3 << 32 | 9}
    ready = {"container": 1, "what": "ready", "pid": 7}
    one = [Tensor("result", "float32", [2], floats(1, 2))]
    return [
        good("open", "OPEN with a tenant", Head("OPEN"), Body("OpenMeta", {"service": "cam", "tenant": "acme"})),
        good("open-default-tenant", "OPEN; the tenant is left out", Head("OPEN"), Body("OpenMeta", {"service": "cam"})),
        good(
            "opened",
            "REPLY to OPEN: the handle stands in header and meta",
            Head("REPLY", handle=handle),
            Body("OpenedMeta", {"handle": handle, "service": "c", "tenant": "t", "model": "vad", "tier": "shared"}),
        ),
        good("call-empty", "CALL without anything: the default method, no values", Head("CALL", handle=handle), Body()),
        good(
            "call",
            "CALL of a named method with plain values, a tensor, a trace id, a budget and STREAM",
            Head("CALL", STREAM, handle=handle, request_id=9, budget_us=2_500_000),
            Body(
                meta={"method": "detect", "params": {"threshold": 0.5, "tags": ["a", "b"]}, "trace": "abc-1"},
                tensors=[Tensor("image", "uint8", [1, 2, 3], bytes(range(6)))],
            ),
        ),
        good(
            "part", "PART of a streamed answer", Head("PART", request_id=9), Body("ReplyMeta", {"params": {"t": "a"}})
        ),
        good("reply", "REPLY with one tensor", Head("REPLY", request_id=9), Body("ReplyMeta", {}, one)),
        good("reply-empty", "REPLY that ends a stream: no values", Head("REPLY"), Body("ReplyMeta", {})),
        good(
            "error",
            "ERROR with facts",
            Head("ERROR", request_id=9),
            Body(
                "ErrorMeta", {"code": "Busy", "message": "full", "retryable": True, "details": {"retry_after_s": 0.5}}
            ),
        ),
        good("cancel", "CANCEL: no meta at all", Head("CANCEL", request_id=9), Body(None, None)),
        good("cancel-split", "CANCEL, split: the meta's frame is empty", Head("CANCEL"), Body(None, None), "split"),
        good("admin", "ADMIN verb with arguments", Head("ADMIN"), Body("AdminMeta", {"verb": "ps", "args": {"a": 1}})),
        good(
            "admin-reply",
            "REPLY to ADMIN: any plain value",
            Head("REPLY"),
            Body("AdminReplyMeta", {"result": [{"id": "c1.2", "pid": 5}]}),
        ),
        good("admin-reply-nil", "REPLY to ADMIN: nil is left out", Head("REPLY"), Body("AdminReplyMeta", {})),
        good(
            "register",
            "REGISTER of a kernel that runs a container",
            Head("REGISTER"),
            Body(
                "RegisterMeta",
                {
                    "node": "n1",
                    "boot": "00ff",
                    "pid": 12,
                    "host": "h",
                    "capacity": {"slots": 2, "host_bytes": 1 << 40},
                    "containers": [report],
                },
            ),
            canonical=False,
        ),
        good(
            "registered",
            "REGISTER, the answer",
            Head("REGISTER"),
            Body("RegisteredMeta", {"epoch": 3, "heartbeat_s": 1.0}),
        ),
        good(
            "registered-again",
            "REGISTER that asks a kernel to register, and says whose epoch it is",
            Head("REGISTER"),
            Body("RegisteredMeta", {"epoch": 3, "heartbeat_s": 1.0, "again": True, "store": "a1b2", "mark": 2**31 - 1}),
        ),
        good(
            "register-seen",
            "REGISTER of a kernel that was commanded before, with a container of a revision that has lanes",
            Head("REGISTER"),
            Body(
                "RegisterMeta",
                {
                    "node": "n1",
                    "boot": "00ff",
                    "pid": 12,
                    "host": "h",
                    "capacity": {"slots": 2, "host_bytes": 1 << 40},
                    "containers": [{**report, "lanes": 1, "lane_services": [handle], "revision": "5f0c"}],
                    "epoch_seen": 2**53,
                    "store_seen": "a1b2",
                    "mark_seen": 2**31 - 1,
                },
            ),
            canonical=False,
        ),
        good(
            "heartbeat",
            "HEARTBEAT of a kernel",
            Head("HEARTBEAT"),
            Body(
                "HeartbeatMeta",
                {
                    "node": "n1",
                    "boot": "00ff",
                    "host_bytes_free": 123456,
                    "containers": [report],
                    "base_bytes": 1 << 25,
                },
            ),
            canonical=False,
        ),
        good(
            "heartbeat-calls",
            "HEARTBEAT after a registration: two of the switchboard's calls are here",
            Head("HEARTBEAT"),
            Body("HeartbeatMeta", {"node": "n1", "boot": "00ff", "calls": [3298534883335, 2**63]}),
        ),
        good("heartbeat-echo", "HEARTBEAT, the echo: empty meta", Head("HEARTBEAT"), Body(None, None)),
        good(
            "create",
            "CREATE",
            Head("CREATE"),
            Body("CreateMeta", {"epoch": 3, "container": handle, "model": model}),
            canonical=False,
        ),
        good(
            "create-dedicated",
            "CREATE on a device, of a container that is dedicated to one service",
            Head("CREATE"),
            Body("CreateMeta", {"epoch": 3, "container": handle, "model": model, **dedicated}),
            canonical=False,
        ),
        good(
            "close", "CLOSE", Head("CLOSE"), Body("CloseMeta", {"epoch": 3, "container": handle, "reason": "evicted"})
        ),
        good("swap-out", "SWAP_OUT is a known kind", Head("SWAP_OUT"), Body(None, None)),
        good("swap-in", "SWAP_IN is a known kind", Head("SWAP_IN"), Body(None, None)),
        good(
            "event",
            "EVENT: a container has gone",
            Head("EVENT"),
            Body("ContainerEvent", {"container": handle, "what": "gone", "cause": "crashed", "reason": "SIGKILL"}),
        ),
        good(
            "event-ready",
            "EVENT: a container is ready; an integer stands for a float",
            Head("EVENT"),
            Body(
                "ContainerEvent",
                {**ready, "timings_s": {"fork": 0.01, "load": 2.0}},
                raw=msgpack.packb({**ready, "timings_s": {"fork": 0.01, "load": 2}}),
            ),
        ),
    ]


def errors() -> list[Vector]:
    """One ERROR for each code, with the `retryable` that senders write."""
    vectors = []
    for code, retryable in ERRORS.items():
        meta: dict[str, Any] = {"code": code, "message": "no"}
        if retryable:
            meta["retryable"] = True
        vectors.append(good(f"error-{code}", f"ERROR {code}", Head("ERROR"), Body("ErrorMeta", meta)))
    unknown = {"code": "Shiny", "message": "new", "retryable": True, "details": {"n": 1}}
    vectors.append(
        good("error-unknown-code", "a code of a later version is carried", Head("ERROR"), Body("ErrorMeta", unknown))
    )
    return vectors


def dtypes() -> list[Vector]:
    """Every element type, with its extremes."""
    x87 = bytes.fromhex("00000000000000c0004000000000000000000000000000800080000000000000")[:32]
    quad = bytes.fromhex("00000000000000000000000000000040")
    samples: dict[str, tuple[int, bytes]] = {
        "bool": (1, b"\0\1"),
        "int8": (1, struct.pack("<3b", -128, -1, 127)),
        "int16": (2, struct.pack("<3h", -(2**15), -1, 2**15 - 1)),
        "int32": (4, struct.pack("<3i", -(2**31), -1, 2**31 - 1)),
        "int64": (8, struct.pack("<3q", -(2**63), -1, 2**63 - 1)),
        "uint8": (1, struct.pack("<2B", 0, 255)),
        "uint16": (2, struct.pack("<2H", 1, 2**16 - 1)),
        "uint32": (4, struct.pack("<2I", 1, 2**32 - 1)),
        "uint64": (8, struct.pack("<2Q", 1, 2**64 - 1)),
        "float16": (2, struct.pack("<4e", 1.5, -0.0, 65504.0, math.inf)),
        "bfloat16": (2, bytes.fromhex("803f 0080 807f c07f")),
        "float32": (4, floats(1.5, -0.0, 3.0e38, -math.inf)),
        "float64": (8, struct.pack("<4d", 1.5, -0.0, 5e-324, 1.7976931348623157e308)),
        "longdouble-x87": (16, x87),
        "longdouble-quad": (16, quad + quad),
        "complex64": (8, floats(1, -2, -0.0, math.inf)),
        "complex128": (16, struct.pack("<4d", 1, -2, -0.0, math.inf)),
        "clongdouble-x87": (32, x87),
        "clongdouble-quad": (32, quad + quad),
        "bytes": (1, BLOB),
    }
    vectors = []
    for dtype, (item_nbytes, data) in samples.items():
        tensor = Tensor("x", dtype, [len(data) // item_nbytes], data)
        optional = {"optional_dtype": dtype} if "longdouble" in dtype else {}
        vectors.append(
            good(f"dtype-{dtype}", f"{dtype}, little-endian", Head("CALL"), Body(tensors=[tensor]), **optional)
        )
    return vectors


def tensors() -> list[Vector]:
    """Shapes, layouts and bits that are easily lost."""
    f32 = Tensor("a", "float32", [2, 2], floats(1, 2, 3, 4))
    i8 = Tensor("b", "int8", [3], b"\1\2\3")
    empty = Tensor("e", "float64", [0])
    nan32 = bytes.fromhex("0100807f 0000c07f 010080ff efbeaddf")
    nan64 = bytes.fromhex("0100000000 00f07f 0000000000 00f87f efbeadde00 00f8ff")
    head = Head("CALL", handle=5)
    big = Tensor("image", "uint8", [3, 640, 640], zeros=3 * 640 * 640)
    return [
        good("scalar", "no dimension: one item", head, Body(tensors=[Tensor("x", "int32", [], b"\1\0\0\0")])),
        good("empty", "zero items; the frame ends on a multiple of 64", head, Body(tensors=[empty])),
        good("empty-split", "zero items, split: an empty frame", head, Body(tensors=[empty]), "split"),
        good("empty-2d", "a zero among the dimensions", head, Body(tensors=[Tensor("x", "float32", [3, 0, 7])])),
        good("empty-first", "an empty tensor before a full one", head, Body(tensors=[empty, f32])),
        good("empty-last", "an empty tensor after a full one", head, Body(tensors=[f32, empty])),
        good("empty-bytes", "a byte string of no bytes, sent as a tensor", head,
             Body(tensors=[Tensor("x", "bytes", [0])]), canonical=False),
        good("two", "two tensors: the second begins at the next multiple of 64", head, Body(tensors=[i8, f32])),
        good("two-split", "the same, split although small", head, Body(tensors=[i8, f32]), "split"),
        good("aligned-meta", "header and meta end on a multiple of 64: no padding", head,
             Body(tensors=[Tensor("four", "uint8", [1], b"\7")])),
        good("padding-ignored", "padding that is not zero", head, Body(tensors=[i8, f32]), pad=b"\xa5",
             canonical=False),
        good("nan32", "signalling, quiet and negative NaNs of binary32 keep their bits", head,
             Body(tensors=[Tensor("x", "float32", [4], nan32)])),
        good("nan64", "NaNs of binary64 keep their bits", head, Body(tensors=[Tensor("x", "float64", [3], nan64)])),
        good("nan16", "NaNs of binary16", head, Body(tensors=[Tensor("x", "float16", [2], b"\1\x7c\xff\xff")])),
        good("nan-bfloat16", "NaNs of bfloat16", head,
             Body(tensors=[Tensor("x", "bfloat16", [2], b"\x81\x7f\xff\xff")])),
        good("rank-8", "eight dimensions", head,
             Body(tensors=[Tensor("x", "uint8", [1, 2, 1, 2, 1, 1, 2, 1], BLOB[:8])])),
        good("tensors-64", "as many tensors as a message has", head,
             Body(tensors=[Tensor(f"t{i}", "uint8", [1], bytes([i])) for i in range(64)])),
        good("no-dimension-bool", "a bool of no dimension", head, Body(tensors=[Tensor("x", "bool", [], b"\1")])),
        good("big", "an image: split, 1,228,800 bytes", head, Body(tensors=[big])),
        good("big-packed", "the same in the packed form, as answers out of shared memory are", Head("REPLY"),
             Body("ReplyMeta", {}, [big]), "packed"),
        good("spec-extra", "entries after a tensor description's third are ignored", head,
             Body(raw=msgpack.packb({"tensors": [["x", "uint8", [1], {"later": 1}]]}),
                  tensors=[Tensor("x", "uint8", [1], b"\7")])),
    ]  # fmt: skip


def values() -> list[Vector]:
    """Plain values and the encodings of msgpack."""

    def call(name: str, description: str, params: dict[str, Any], **extra: Any) -> Vector:
        raw = extra.pop("raw", None)
        return good(name, description, Head("CALL"), Body(meta={"params": params}, raw=raw), **extra)

    def raw(name: str, description: str, data: str, **meta: Any) -> Vector:
        return good(name, description, Head("CALL"), Body(meta=meta, raw=bytes.fromhex(data)))

    params = "81a6706172616d73"
    return [
        call("plain", "nil, booleans, text", {"a": None, "b": True, "c": False, "d": "", "e": "Grüße \U0001f600 \0"}),
        call("integers", "from the least to the greatest", {"a": -(2**63), "b": -1, "c": 0, "d": 2**64 - 1}),
        call("floats", "NaN, infinities, the negative zero", {"a": NAN, "b": math.inf, "c": -math.inf, "d": -0.0}),
        call("maps", "lists and maps in each other", {"a": [[], {}, {"b": [1, {"c": None}]}], "d": {"": 1}}),
        call("bytes-255", "a byte string one short of a tensor", {"x": BLOB[:255]}),
        call("bytes-256-plain", "a long byte string in `params` is taken all the same", {"x": BLOB}, canonical=False),
        call("bytes-nested", "a byte string in a list stands there at any size", {"x": [BLOB]}),
        good("bytes-256", "a byte string of 256 bytes travels as a tensor", Head("CALL"),
             Body(tensors=[Tensor("x", "bytes", [256], BLOB)])),
        call("depth-32", "as deep as it goes: params and 31 lists", {"x": nested(31)}),
        call("name-128", "a parameter's name of 128 code points, 512 bytes", {"\U0001f600" * 128: 1}),
        raw("unknown-field", "a field of a later version is ignored",
            "82a56c6174657281a16101a66d6574686f64a166", method="f"),
        raw("field-twice", "the last of two counts", "82a66d6574686f64a161a66d6574686f64a162", method="b"),
        raw("long-integer", "an integer in nine bytes", params + "81a161cf0000000000000007", params={"a": 7}),
        raw("long-text", "a text with a four-byte length", "81a66d6574686f64db0000000166", method="f"),
        raw("long-map", "a map with a four-byte count", "df00000001a66d6574686f64a166", method="f"),
        raw("float32-value", "a 32-bit float is taken as its value", params + "81a161ca3fc00000", params={"a": 1.5}),
        raw("default-sent", "a default may be sent",
            "82a66d6574686f64a770726564696374a57472616365a0", method="predict"),
    ]  # fmt: skip


def limits() -> list[Vector]:
    """Limits exactly hit."""
    fill = 1048576 - len(msgpack.packb({"params": {"x": ""}})) - 4
    text = (b"\x81\xa6params\x81\xa1x\xdb" + struct.pack(">I", fill), 1)
    meta = Body(meta={"params": {"x": Repeat("a", fill)}}, raw=[text, (b"a", fill)])
    head = Head("CALL")

    def filled(total: int) -> Body:
        """A body whose packed form has `total` bytes: header and meta end just before byte 64."""
        return Body(tensors=[Tensor("x", "uint8", [total - 64], zeros=total - 64)])

    return [
        good("request-id-max", "the greatest request id", Head("CALL", request_id=2**64 - 1), Body()),
        good("handle-max", "the greatest handle", Head("CALL", handle=2**64 - 1), Body()),
        good("budget-max", "a time budget of a day", Head("CALL", budget_us=86_400_000_000), Body()),
        good("method-128", "a method's name of 128 code points", head, Body(meta={"method": "ü" * 128})),
        good("trace-64", "a trace id of 64 code points", head, Body(meta={"trace": "ü" * 64})),
        good("tensor-name-128", "a tensor's name of 128 code points", head,
             Body(tensors=[Tensor("ü" * 128, "uint8", [1], b"\1")])),
        good("tenant-128", "a tenant's name of 128 code points", Head("OPEN"),
             Body("OpenMeta", {"service": "s", "tenant": "ü" * 128})),
        good("packed-65536", "the largest message that a sender packs", head, filled(65536)),
        good("packed-65537", "one byte more: split", head, filled(65537)),
        good("packed-65537-packed", "the same packed: receivers take it", head, filled(65537), "packed"),
        good("meta-max", "a meta of 1 MiB", head, meta, canonical=True),
        good("message-max", "a message of 512 MiB in its packed form, split", head,
             Body(tensors=[Tensor("x", "uint8", [536870912 - 128], zeros=536870912 - 128)])),
    ]  # fmt: skip


GOOD = {
    "good-kinds": kinds,
    "good-errors": errors,
    "good-dtypes": dtypes,
    "good-tensors": tensors,
    "good-values": values,
    "good-limits": limits,
}
