"""Leases: how a caller gets a lane of its own, from the question to the descriptors.

A caller asks the switchboard (LEASE), which asks the container's kernel, whose answer names a socket and a one-time
token. On that socket, a unix socket of type SOCK_SEQPACKET, caller and kernel exchange one packet each: the caller's
hello, and the kernel's grant with the lane's descriptors or its refusal. Then the connection only stays open: its end
tells each side that the other one has gone.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Struct

from huterox_wire.errors import HuteroxError, InvalidInput, TooLarge, from_wire
from huterox_wire.header import Buffer
from huterox_wire.limits import NAME_NBYTES_MAX
from huterox_wire.meta import decode_error, encode_meta, error_meta, meta_decoder
from huterox_wire.nodes import HOST_ID_NBYTES_MAX

LANE_VERSION: Final = 1
"""Of a lane's bytes and of what travels in it."""

HELLO_NBYTES_MAX: Final = 4096
GRANT_NBYTES_MAX: Final = 64 * 1024
HALF_MB_MAX: Final = 64 * 1024
RING_ENTRIES_MAX: Final = 64 * 1024
SOCKET_PATH_NBYTES_MAX: Final = 107
"""What a unix socket's address holds (sun_path), less its closing zero."""

_GRANTED: Final = b"+"
_REFUSED: Final = b"-"
_MESSAGE_KEPT_MAX: Final = 1024
"""What is kept, in code points, of a refusal's message where message and facts do not fit a packet."""

Pid = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
HalfMb = Annotated[int, msgspec.Meta(ge=0, le=HALF_MB_MAX)]
RingEntries = Annotated[int, msgspec.Meta(ge=0, le=RING_ENTRIES_MAX)]
Token = Annotated[bytes, msgspec.Meta(min_length=1, max_length=64)]


class LeaseMeta(Struct, omit_defaults=True):
    """LEASE, caller -> switchboard. The service stands in the header's handle."""

    host_id: Annotated[str, msgspec.Meta(max_length=HOST_ID_NBYTES_MAX)] = ""  # the caller's boot id
    pid: Pid = 0
    half_mb: HalfMb = 0  # of requests and of answers each; 0: the kernel's default
    ring_entries: RingEntries = 0  # 0: the kernel's default


class LeaseOrderMeta(Struct, omit_defaults=True):
    """LEASE, switchboard -> kernel: prepare a lane, and answer with `LeasedMeta` or an error."""

    epoch: int
    container: int
    service: int
    title: Annotated[str, msgspec.Meta(max_length=2 * NAME_NBYTES_MAX + 1)]  # tenant/name
    half_mb: HalfMb = 0
    ring_entries: RingEntries = 0
    pid: Pid = 0


class LeasedMeta(Struct, omit_defaults=True):
    """REPLY to LEASE: where to fetch the lane, soon and once."""

    path: Annotated[str, msgspec.Meta(min_length=1, max_length=SOCKET_PATH_NBYTES_MAX)]
    token: Token
    container: int


class LaneHello(Struct, omit_defaults=True):
    """The caller's only packet on the hand-over socket."""

    version: int
    token: Token


class LaneGranted(Struct, omit_defaults=True):
    """The kernel's only packet there; with it come the memory, the request doorbell and the reply doorbell."""

    container: int
    generation: int


class DrainMeta(Struct, omit_defaults=True):
    """DRAIN, switchboard -> kernel: end the lanes of the container's callers. Answered by the EVENT drained.

    With a `service`, its lanes alone, and those that it was promised: it was deleted, the container stays, and nothing
    is answered.
    """

    epoch: int
    container: int
    reason: str = ""
    service: int = 0


decode_lease = meta_decoder(LeaseMeta)
decode_lease_order = meta_decoder(LeaseOrderMeta)
decode_leased = meta_decoder(LeasedMeta)
decode_drain = meta_decoder(DrainMeta)
_decode_hello = meta_decoder(LaneHello)
_decode_granted = meta_decoder(LaneGranted)


def encode_hello(token: bytes) -> bytes:
    """The caller's packet."""
    return encode_meta(LaneHello(LANE_VERSION, token))


def decode_hello(packet: Buffer) -> LaneHello:
    """The caller's packet, on the kernel's side.

    Raises:
        TooLarge: over HELLO_NBYTES_MAX.
        InvalidInput: malformed, or another version of lanes.
    """
    if len(packet) > HELLO_NBYTES_MAX:
        raise TooLarge(f"a hello of {len(packet)} bytes", need=len(packet), limit=HELLO_NBYTES_MAX)
    hello = _decode_hello(packet)
    if hello.version != LANE_VERSION:
        raise InvalidInput(
            f"lanes of version {hello.version} are not known here, only {LANE_VERSION}",
            need=LANE_VERSION,
            have=hello.version,
        )
    return hello


def encode_granted(granted: LaneGranted) -> bytes:
    """The kernel's packet that goes with the descriptors."""
    return _GRANTED + encode_meta(granted)


def encode_refused(error: HuteroxError) -> bytes:
    """The kernel's packet where there is no lane. Never raises, and always fits: facts that do not are left out."""
    meta = error_meta(error)
    if len(meta) >= GRANT_NBYTES_MAX:
        meta = error_meta(from_wire(error.code, error.message[:_MESSAGE_KEPT_MAX], error.retryable, {}))
    return _REFUSED + meta


def decode_granted_or_refused(packet: Buffer) -> LaneGranted:
    """The kernel's packet, on the caller's side.

    Raises:
        HuteroxError: the refusal, as the kernel sent it.
        InvalidInput: the packet is neither grant nor refusal.
    """
    if len(packet) > GRANT_NBYTES_MAX:
        raise InvalidInput(f"a grant of {len(packet)} bytes", need=len(packet), limit=GRANT_NBYTES_MAX)
    mark, meta = bytes(packet[:1]), packet[1:]
    if mark == _REFUSED:
        raise decode_error(meta)
    if mark != _GRANTED:
        raise InvalidInput(f"a packet that begins with {mark!r} is neither grant nor refusal")
    return _decode_granted(meta)
