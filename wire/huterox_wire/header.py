"""The fixed header: 40 bytes, little-endian, the first thing of every message.

 0 magic u16 = 0x5848 ("HX")   2 version u8 = 1     3 kind u8
 4 flags u16                   6 tensor_count u16
 8 request_id u64             16 handle u64
24 budget_us u64              32 meta_nbytes u32   36 reserved u32 = 0
"""

import struct
from typing import Final, NamedTuple

from huterox_wire.errors import InvalidInput, TooLarge
from huterox_wire.kinds import FLAGS_KNOWN, Kind
from huterox_wire.limits import BUDGET_US_MAX, META_NBYTES_MAX, TENSORS_MAX

HEADER: Final = struct.Struct("<HBBHHQQQII")
HEADER_NBYTES: Final = 40
assert HEADER.size == HEADER_NBYTES

MAGIC: Final = 0x5848
VERSION: Final = 1

REQUEST_ID: Final = slice(8, 16)
"""Where the request id stands in a header: enough to find the call that a reply belongs to."""

_KINDS: Final = {int(kind): kind for kind in Kind}
Buffer = bytes | bytearray | memoryview


class Header(NamedTuple):
    """A decoded header.

    `handle` names a virtual container (0 where none is meant). `budget_us` is the time left for the call in
    microseconds, relative to the moment of sending; 0 leaves it to the receiver's default. In an answer to a CALL
    the same field tells how long the worker was busy with it.
    """

    kind: Kind
    flags: int
    tensor_count: int
    request_id: int
    handle: int
    budget_us: int
    meta_nbytes: int


def pack_header(
    kind: int,
    flags: int = 0,
    tensor_count: int = 0,
    request_id: int = 0,
    handle: int = 0,
    budget_us: int = 0,
    meta_nbytes: int = 0,
) -> bytes:
    """Hot path. The 40 bytes of a header. The arguments are trusted; `unpack_header` is the checking side."""
    return HEADER.pack(MAGIC, VERSION, kind, flags, tensor_count, request_id, handle, budget_us, meta_nbytes, 0)


def unpack_header(buffer: Buffer) -> Header:
    """Hot path. Read and check the header at the start of `buffer`.

    Raises:
        InvalidInput: too short, foreign magic, unknown version, kind or flag, reserved bits set, or a time budget
            over a day.
        TooLarge: more tensors or more meta than the wire carries.
    """
    if len(buffer) < HEADER_NBYTES:
        raise InvalidInput(f"a message needs a header of {HEADER_NBYTES} bytes, got {len(buffer)}")
    magic, version, kind_code, flags, tensor_count, request_id, handle, budget_us, meta_nbytes, reserved = (
        HEADER.unpack_from(buffer)
    )
    kind = _KINDS.get(kind_code)
    if (
        magic != MAGIC
        or version != VERSION
        or kind is None
        or flags & ~FLAGS_KNOWN
        or reserved
        or budget_us > BUDGET_US_MAX
    ):
        raise _refused(magic, version, kind_code, flags, reserved, budget_us)
    if tensor_count > TENSORS_MAX:
        raise TooLarge(
            f"{tensor_count} tensors in a message; at most {TENSORS_MAX} are carried",
            need=tensor_count,
            limit=TENSORS_MAX,
        )
    if meta_nbytes > META_NBYTES_MAX:
        raise TooLarge(
            f"meta of {meta_nbytes} bytes; at most {META_NBYTES_MAX} are carried",
            need=meta_nbytes,
            limit=META_NBYTES_MAX,
        )
    return Header(kind, flags, tensor_count, request_id, handle, budget_us, meta_nbytes)


def _refused(magic: int, version: int, kind: int, flags: int, reserved: int, budget_us: int) -> InvalidInput:
    if magic != MAGIC:
        return InvalidInput(f"not a Huterox message: magic 0x{magic:04x}, expected 0x{MAGIC:04x}")
    if version != VERSION:
        return InvalidInput(f"wire version {version}; this side speaks {VERSION}", need=version, have=VERSION)
    if kind not in _KINDS:
        return InvalidInput(f"unknown message kind {kind}", kind=kind)
    if flags & ~FLAGS_KNOWN:
        return InvalidInput(f"unknown flags 0x{flags & ~FLAGS_KNOWN:04x}", flags=flags)
    if budget_us > BUDGET_US_MAX:
        return InvalidInput(f"a time budget of {budget_us} us; at most {BUDGET_US_MAX}", limit=BUDGET_US_MAX)
    return InvalidInput(f"reserved field is {reserved}, must be 0")
