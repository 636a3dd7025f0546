"""Vectors that must be refused, by the check of SPEC.md section 10 that finds them."""

import struct
from typing import Any

import msgpack
from building import PACKED, Body, Head, Pieces, Tensor, malformed, packed, split

Vector = dict[str, Any]

ONE = Tensor("x", "float32", [2], struct.pack("<2f", 1, 2))
EMPTY = b"\x80"  # a map of nothing


def header() -> list[Vector]:
    """Checks 1 to 3: the header alone decides."""

    def refused(name: str, description: str, step: int, code: str = "InvalidInput", **fields: Any) -> Vector:
        return malformed(name, description, [Head(**fields).pack(PACKED, 0, 1) + EMPTY], step, code)

    whole = Head().pack(PACKED, 0, 1) + EMPTY
    return [
        malformed("no-frame", "a message without frames", [b""][:0], 1),
        malformed("empty-frame", "a frame without bytes", [b""], 1),
        malformed("one-byte", "a frame of one byte", [b"\x48"], 1),
        malformed("header-39", "a header one byte short", [whole[:39]], 1),
        malformed("random-40", "forty bytes of something else", [bytes(range(200, 240))], 2),
        malformed("zeros-40", "forty zeros", [bytes(40)], 2),
        malformed("http", "a request of another protocol", [b"GET / HTTP/1.1\r\nHost: huterox.example.org\r\n\r\n"], 2),
        refused("magic", "a foreign magic", 2, magic=0x5849),
        refused("magic-swapped", "the magic in big-endian order", 2, magic=0x4858),
        refused("version-0", "version 0", 2, version=0),
        refused("version-2", "a later version", 2, version=2),
        refused("kind-0", "kind 0", 2, kind=0),
        refused("kind-9", "a kind between the two groups", 2, kind=9),
        refused("kind-24", "a kind after the last", 2, kind=24),
        refused("kind-255", "the greatest kind", 2, kind=255),
        refused("flag-4", "an unknown flag", 2, flags=4),
        refused("flag-32768", "the highest flag", 2, flags=0x8000),
        refused("reserved", "the reserved field is not 0", 2, reserved=1),
        refused("budget-over", "a time budget of a day and a microsecond", 2, budget_us=86_400_000_001),
        refused("budget-max-u64", "the greatest time budget", 2, budget_us=2**64 - 1),
        refused("tensors-65", "more tensors than a message has", 3, "TooLarge", count=65),
        refused("tensors-65535", "the greatest tensor count", 3, "TooLarge", count=65535),
        refused("meta-over", "a meta of 1 MiB and a byte", 3, "TooLarge", meta_nbytes=1048577),
        refused("meta-4-gib", "the greatest meta", 3, "TooLarge", meta_nbytes=2**32 - 1),
        refused(
            "both-over", "version and tensor count are wrong: the version is checked first", 2, version=3, count=99
        ),
    ]


def frames() -> list[Vector]:
    """Check 4: frames against the header."""
    call = split(Head(), Body(tensors=[ONE]))
    small = packed(Head(), Body())[0]
    plain = Head().pack(0, 0, 1)
    giant = 536870912
    return [
        malformed("packed-two-frames", "packed, and another frame", [small, [(b"", 1)]], 4),
        malformed("packed-meta-short", "packed: the meta ends early", [Head().pack(PACKED, 0, 2) + EMPTY], 4),
        malformed("packed-meta-missing", "packed: a header alone that promises meta", [Head().pack(PACKED, 0, 1)], 4),
        malformed("packed-trailing", "packed, no tensors: a byte too many", [[*small, (b"\0", 1)]], 4),
        malformed("packed-count-no-bytes", "packed: a tensor count, and the meta not there",
                  [Head(count=1).pack(PACKED, 0, 9)], 4),
        malformed("packed-over", "packed: 512 MiB and a byte",
                  [[(Head(count=1).pack(PACKED, 0, 1) + EMPTY, 1), (b"\0", giant - 40)]], 4, "TooLarge"),
        malformed("split-one-frame", "split: a header alone", [plain], 4),
        malformed("split-tensor-missing", "split: a tensor's frame is not there", call[:2], 4),
        malformed("split-frame-extra", "split: a frame too many", [*call, [(b"", 1)]], 4),
        malformed("split-header-41", "split: a header frame of 41 bytes", [plain + b"\0", EMPTY], 4),
        malformed("split-packed-bytes", "split, but the meta stands in the header's frame", [plain + EMPTY], 4),
        malformed("split-meta-short", "split: the meta's frame is one byte short", [Head().pack(0, 0, 2), EMPTY], 4),
        malformed("split-meta-long", "split: the meta's frame is one byte long", [plain, EMPTY + b"\0"], 4),
        malformed("split-meta-empty", "split: the meta's frame is empty", [plain, b""], 4),
        malformed("split-over", "split: 512 MiB and a byte",
                  [[(Head(count=1).pack(0, 0, 1), 1)], [(EMPTY, 1)], [(b"\0", giant - 40)]], 4, "TooLarge"),
        malformed("split-over-with-padding", "split: 512 MiB, and a byte more with padding",
                  [[(Head(count=1).pack(0, 0, 1), 1)], [(EMPTY, 1)], [(b"\0", giant - 63)]], 4, "TooLarge"),
    ]  # fmt: skip


def refuse(name: str, description: str, meta: bytes | dict[str, Any], kind: str = "CallMeta") -> Vector:
    """A packed message without tensors whose meta is refused."""
    data = msgpack.packb(meta) if isinstance(meta, dict) else meta
    kinds = {
        "OpenMeta": "OPEN",
        "ErrorMeta": "ERROR",
        "AdminMeta": "ADMIN",
        "AdminReplyMeta": "REPLY",
        "LeaseMeta": "LEASE",
        "LeasedMeta": "REPLY",
    }
    head = Head(kinds.get(kind, "CALL"))
    return {**malformed(name, description, [head.pack(PACKED, 0, len(data)) + data], 5), "meta_type": kind}


def msgpack_bytes() -> list[Vector]:
    """Check 5: meta that is not one msgpack map of plain values."""
    param = b"\x81\xa6params\x81\xa1x"
    ext = msgpack.ExtType
    deep: Pieces = [(Head().pack(PACKED, 0, 11 + 500_001), 1), (param, 1), (b"\x91", 500_000), (b"\xc0", 1)]
    list_of = param + b"\xdd\xff\xff\xff\xff"
    return [
        refuse("meta-empty", "no bytes where a map is due", b""),
        refuse("meta-never-used", "the byte that msgpack never uses", b"\xc1"),
        refuse("meta-truncated", "a map that ends early", b"\x81\xa6meth"),
        refuse("meta-trailing", "a byte after the map", EMPTY + b"\0"),
        refuse("meta-two-maps", "two maps", EMPTY + EMPTY),
        refuse("meta-list", "a list", msgpack.packb(["predict", {}])),
        refuse("meta-nil", "nil", b"\xc0"),
        refuse("meta-json", "JSON", b'{"method": "f"}'),
        refuse("map-claims-4-gi", "a map that claims 2^32-1 entries", b"\xdf\xff\xff\xff\xff"),
        refuse("list-claims-4-gi", "a list that claims 2^32-1 entries", list_of),
        refuse("text-claims-4-gib", "a text that claims 2^32-1 bytes", param + b"\xdb\xff\xff\xff\xff"),
        refuse("bytes-claim-4-gib", "a byte string that claims 2^32-1 bytes", param + b"\xc6\xff\xff\xff\xff"),
        refuse("method-not-utf8", "text that is not UTF-8", b"\x81\xa6method\xa2\xc3\x28"),
        refuse("method-surrogate", "a surrogate in UTF-8", b"\x81\xa6method\xa3\xed\xa0\x80"),
        refuse("value-not-utf8", "a plain value that is not UTF-8", param + b"\xa1\xff"),
        refuse("key-not-utf8", "a nested key that is not UTF-8", param + b"\x81\xa1\xff\xc0"),
        refuse("ext", "an extension type", {"params": {"x": ext(5, b"x")}}),
        refuse("timestamp", "a timestamp", param + b"\xd6\xff\0\0\0\1"),
        refuse("key-integer", "a map key that is a number", param + b"\x81\x01\xc0"),
        refuse("key-bytes", "a map key that is a byte string", param + b"\x81\xc4\x01a\xc0"),
        refuse("key-list", "a map key that is a list", param + b"\x81\x90\xc0"),
        refuse("key-map", "a map key that is a map", param + b"\x81\x80\xc0"),
        refuse("field-key-integer", "a field's name that is a number", b"\x81\x01\xc0"),
        refuse("depth-33", "one list too deep", {"params": {"x": _nested(32)}}),
        refuse("depth-33-maps", "one map too deep", {"params": {"x": _nested_maps(32)}}),
        refuse("depth-admin", "one list too deep, in a result", {"result": _nested(33)}, "AdminReplyMeta"),
        refuse("depth-error", "one list too deep, in an error's facts",
               {"code": "Busy", "details": {"x": _nested(32)}}, "ErrorMeta"),
        malformed("depth-500000", "nested so deep that a recursive reader would fall", [deep], 5),
        malformed("depth-unknown-field", "the same in a field that would be ignored",
                  [[(Head().pack(PACKED, 0, 500_005), 1), (b"\x81\xa2zz", 1), (b"\x91", 500_000), (b"\xc0", 1)]], 5),
    ]  # fmt: skip


def _nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


def _nested_maps(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth - 1):
        value = {"k": value}
    return value


def fields() -> list[Vector]:
    """Check 5: fields of a wrong type or length."""
    spec = ["x", "float32", [2]]

    def tensor(name: str, description: str, *spec: Any) -> Vector:
        return refuse(name, description, {"tensors": [list(spec)]})

    return [
        refuse("method-bytes", "a byte string is not text", b"\x81\xa6method\xc4\x01f"),
        refuse("method-number", "a number is not text", {"method": 7}),
        refuse("method-nil", "nil is not text", {"method": None}),
        refuse("method-no-text", "a name without characters", {"method": ""}),
        refuse("method-129", "a name of 129 code points", {"method": "m" * 129}),
        refuse("trace-65", "a trace id of 65 code points", {"trace": "t" * 65}),
        refuse("params-list", "params that are a list", {"params": [1]}),
        refuse("params-nil", "params that are nil", {"params": None}),
        refuse("param-name-empty", "a parameter without a name", {"params": {"": 1}}),
        refuse("param-name-129", "a parameter's name of 129 code points", {"params": {"p" * 129: 1}}),
        refuse("param-name-bytes", "a parameter's name that is a byte string", b"\x81\xa6params\x81\xc4\x01x\xc0"),
        refuse("tensors-map", "tensors that are a map", {"tensors": {"x": spec}}),
        refuse("tensors-65-described", "65 tensors described", {"tensors": [spec] * 65}),
        refuse("spec-map", "a tensor description that is a map",
               {"tensors": [{"name": "x", "dtype": "float32", "shape": [2]}]}),
        tensor("spec-two", "a tensor description of two entries", "x", "float32"),
        tensor("spec-name-empty", "a tensor without a name", "", "float32", [2]),
        tensor("spec-name-129", "a tensor's name of 129 code points", "x" * 129, "float32", [2]),
        tensor("spec-dtype-number", "a dtype that is a number", "x", 11, [2]),
        tensor("shape-number", "a shape that is a number", "x", "float32", 2),
        tensor("shape-rank-9", "nine dimensions", "x", "float32", [1] * 9),
        tensor("shape-negative", "a negative dimension", "x", "float32", [-1]),
        tensor("shape-float", "a dimension that is a float", "x", "float32", [2.0]),
        tensor("shape-bool", "a dimension that is a boolean", "x", "float32", [True]),
        tensor("shape-over", "a dimension of 2^63", "x", "float32", [2**63]),
        refuse("open-no-service", "OPEN without a service", {"tenant": "t"}, "OpenMeta"),
        refuse("open-tenant-129", "OPEN with a tenant of 129 code points", {"service": "s", "tenant": "t" * 129},
               "OpenMeta"),
        refuse("error-no-code", "ERROR without a code", {"message": "no"}, "ErrorMeta"),
        refuse("error-retryable-number", "a number is not a boolean", {"code": "Busy", "retryable": 1}, "ErrorMeta"),
        refuse("admin-no-verb", "ADMIN without a verb", {"args": {}}, "AdminMeta"),
        refuse("admin-args-list", "arguments that are a list", {"verb": "ps", "args": []}, "AdminMeta"),
        refuse("lease-host-id-65", "LEASE with a host id of 65 code points", {"host_id": "h" * 65}, "LeaseMeta"),
        refuse("lease-half-over", "LEASE of halves of 64 GiB and a MiB", {"half_mb": 65537}, "LeaseMeta"),
        refuse("lease-ring-over", "LEASE of a ring of 65537 entries", {"ring_entries": 65537}, "LeaseMeta"),
        refuse("lease-half-negative", "LEASE of halves of -1 MiB", {"half_mb": -1}, "LeaseMeta"),
        refuse("lease-pid-over", "LEASE by a process id of 2^31", {"pid": 2**31}, "LeaseMeta"),
        refuse("leased-path-108", "a socket's path of 108 code points",
               {"path": "p" * 108, "token": b"t", "container": 1}, "LeasedMeta"),
        refuse("leased-token-empty", "a token of no bytes", {"path": "p", "token": b"", "container": 1}, "LeasedMeta"),
    ]  # fmt: skip


def tensors() -> list[Vector]:
    """Checks 6 and 7: tensors against their descriptions, and the named values."""

    def described(name: str, description: str, shape: list[int], dtype: str = "float32", step: int = 6) -> Vector:
        body = Body(meta={"tensors": [["x", dtype, shape]]}, tensors=[ONE])
        return malformed(name, description, packed(Head(), body), step)

    def twice(first: Tensor, second: Tensor) -> list[Pieces]:
        return packed(Head(), Body(tensors=[first, second]))

    two = Body(meta={"tensors": [ONE.spec]}, tensors=[ONE, ONE])
    none = Body(meta={"tensors": [ONE.spec]})
    frame = packed(Head(), Body(tensors=[ONE]))[0]
    long = split(Head(), Body(meta={"tensors": [["x", "float32", [3]]]}, tensors=[ONE]))
    no_bytes = Tensor("x", "float32", [2**63 - 1, 2, 0])
    return [
        described("dtype-unknown", "a dtype that nobody has", [2], "float33"),
        described("dtype-object", "Python objects are no dtype", [1], "object"),
        described("dtype-empty", "a dtype without a name", [2], ""),
        described("shape-too-large", "packed: a shape that needs more bytes", [3]),
        described("shape-too-small", "packed: a shape that needs fewer bytes", [1]),
        described("shape-overflow-64", "a shape whose size is 0 modulo 2^64", [2**62, 4]),
        described("shape-overflow-32", "a shape whose size is 8 modulo 2^32", [2**30 + 2]),
        described("shape-huge", "a size that no integer of 64 bits holds", [2**63 - 1] * 8),
        malformed("shape-split", "split: the frame is not as long as the tensor", long, 6),
        malformed("described-too-few", "two tensors, one description", packed(Head(), two), 6),
        malformed("described-too-few-split", "the same, split", split(Head(), two), 6),
        malformed("described-too-many", "no tensor, one description", packed(Head(), none), 6),
        malformed("described-too-many-split", "the same, split", split(Head(), none), 6),
        malformed("packed-tensor-missing", "packed: only the meta is there",
                  packed(Head(count=1), none), 6),
        malformed("packed-no-padding", "packed: the last tensor without the padding before it",
                  [[piece for piece in frame if set(piece[0]) != {0}]], 6),
        malformed("packed-truncated", "packed: the last byte is not there",
                  [b"".join(data * count for data, count in frame)[:-1]], 6),
        malformed("packed-tensor-trailing", "packed: a byte after the last tensor", [[*frame, (b"\0", 1)]], 6),
        malformed("name-twice", "two tensors of one name", twice(ONE, ONE), 7),
        malformed("name-in-both", "a name in params and in tensors",
                  packed(Head(), Body(meta={"params": {"x": 1}}, tensors=[ONE])), 7),
        malformed("bytes-no-dimension", "a byte string without a length",
                  packed(Head(), Body(tensors=[Tensor("x", "bytes", [], b"a")])), 7),
        malformed("bytes-2d", "a byte string of two dimensions",
                  packed(Head(), Body(tensors=[Tensor("x", "bytes", [2, 2], b"abcd")])), 7),
        malformed("shape-not-indexable", "no items, and yet more than can be indexed",
                  packed(Head(), Body(tensors=[no_bytes])), 7),
    ]  # fmt: skip


MALFORMED = {
    "malformed-header": header,
    "malformed-frames": frames,
    "malformed-msgpack": msgpack_bytes,
    "malformed-fields": fields,
    "malformed-tensors": tensors,
}
