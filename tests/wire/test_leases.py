"""Leases: their meta maps, and the two packets of the hand-over socket."""

from collections.abc import Callable
from typing import Any

import msgpack
import msgspec
import pytest

from huterox_wire import leases
from huterox_wire.errors import Busy, HuteroxError, InvalidInput, TooLarge, Unauthorized
from huterox_wire.meta import encode_meta

TOKEN = bytes(range(32))


@pytest.mark.parametrize(
    ("decoder", "meta"),
    [
        (leases.decode_lease, leases.LeaseMeta("boot-id", 4711, 64, 256)),
        (leases.decode_lease, leases.LeaseMeta()),
        (leases.decode_lease_order, leases.LeaseOrderMeta(3, 1 << 32 | 1, 1 << 32 | 9, "acme/cam", 64, 256, 4711)),
        (leases.decode_leased, leases.LeasedMeta("/run/huterox/lanes.sock", TOKEN, 7)),
        (leases.decode_drain, leases.DrainMeta(3, 7, "room for bert")),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, msgspec.Struct) else "",
)
def test_a_meta_survives(decoder: Callable[[bytes], Any], meta: msgspec.Struct) -> None:
    assert decoder(encode_meta(meta)) == meta


def test_the_longest_title_of_a_service_is_carried() -> None:
    order = leases.LeaseOrderMeta(1, 2, 3, "ü" * 128 + "/" + "s" * 128)
    assert leases.decode_lease_order(encode_meta(order)) == order


@pytest.mark.parametrize(
    ("decoder", "meta"),
    [
        (leases.decode_lease, {"host_id": "h" * 65}),
        (leases.decode_lease, {"pid": -1}),
        (leases.decode_lease, {"half_mb": 65537}),
        (leases.decode_lease, {"ring_entries": 65537}),
        (leases.decode_lease_order, {"epoch": 1, "container": 2, "service": 3}),
        (leases.decode_lease_order, {"epoch": 1, "container": 2, "service": 3, "title": "t" * 258}),
        (leases.decode_leased, {"path": "", "token": TOKEN, "container": 1}),
        (leases.decode_leased, {"path": "p" * 108, "token": TOKEN, "container": 1}),
        (leases.decode_leased, {"path": "p", "token": "text", "container": 1}),
        (leases.decode_drain, {"epoch": 1}),
    ],
)
def test_a_meta_with_a_mistake_is_refused(decoder: Callable[[bytes], Any], meta: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="is malformed"):
        decoder(msgpack.packb(meta))


def test_hello_survives() -> None:
    assert leases.decode_hello(leases.encode_hello(TOKEN)) == leases.LaneHello(leases.LANE_VERSION, TOKEN)


def test_hello_of_other_lanes_is_refused_with_the_versions() -> None:
    with pytest.raises(InvalidInput) as refusal:
        leases.decode_hello(encode_meta(leases.LaneHello(7, TOKEN)))
    assert refusal.value.details == {"need": leases.LANE_VERSION, "have": 7}


def test_hello_that_is_too_long_is_refused_undecoded() -> None:
    with pytest.raises(TooLarge):
        leases.decode_hello(bytes(leases.HELLO_NBYTES_MAX + 1))


def test_grant_survives() -> None:
    granted = leases.LaneGranted(1 << 32 | 7, 2**64 - 1)
    assert leases.decode_granted_or_refused(memoryview(leases.encode_granted(granted))) == granted


def test_refusal_is_raised_as_the_error_that_it_carries() -> None:
    with pytest.raises(Unauthorized, match="no such token") as refusal:
        leases.decode_granted_or_refused(leases.encode_refused(Unauthorized("no such token", uid=7)))
    assert refusal.value.details == {"uid": 7}


@pytest.mark.parametrize(
    "error",
    [
        Busy("full", facts="f" * leases.GRANT_NBYTES_MAX),
        Busy("m" * leases.GRANT_NBYTES_MAX, retry_after_s=1.0),
        Busy("\U0001f600" * leases.GRANT_NBYTES_MAX),
        Busy("\ud800" * leases.GRANT_NBYTES_MAX),
        Busy("full", facts=object()),
    ],
    ids=["facts", "message", "emoji", "surrogates", "no-plain-value"],
)
def test_refusal_always_fits_its_packet_and_keeps_its_code(error: HuteroxError) -> None:
    packet = leases.encode_refused(error)
    assert len(packet) <= leases.GRANT_NBYTES_MAX
    with pytest.raises(Busy):
        leases.decode_granted_or_refused(packet)


@pytest.mark.parametrize("packet", [b"", b"+", b"?\x80", b"+\x80", b"+" + bytes(leases.GRANT_NBYTES_MAX)])
def test_packet_that_is_neither_grant_nor_refusal_is_refused(packet: bytes) -> None:
    with pytest.raises(InvalidInput):
        leases.decode_granted_or_refused(packet)
