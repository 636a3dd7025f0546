"""The fixed header."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from huterox_wire.errors import InvalidInput, TooLarge
from huterox_wire.header import HEADER, HEADER_NBYTES, MAGIC, REQUEST_ID, VERSION, Header, pack_header, unpack_header
from huterox_wire.kinds import FLAGS_KNOWN, Flag, Kind
from huterox_wire.limits import BUDGET_US_MAX, META_NBYTES_MAX, TENSORS_MAX

U64 = st.integers(0, 2**64 - 1)
HEADERS = st.builds(
    Header,
    st.sampled_from(Kind),
    st.integers(0, FLAGS_KNOWN),
    st.integers(0, TENSORS_MAX),
    U64,
    U64,
    st.integers(0, BUDGET_US_MAX),
    st.integers(0, META_NBYTES_MAX),
)


@given(HEADERS)
def test_a_header_survives_packing(header: Header) -> None:
    assert unpack_header(pack_header(*header)) == header


@given(HEADERS, st.binary(max_size=100))
def test_what_follows_the_header_does_not_matter(header: Header, tail: bytes) -> None:
    for buffer in (pack_header(*header) + tail, memoryview(pack_header(*header) + tail)):
        assert unpack_header(buffer) == header


def test_the_fields_stand_where_the_picture_says() -> None:
    packed = pack_header(Kind.CALL, Flag.STREAM, 3, 0x0102030405060708, 0x1112131415161718, 7, 9)
    assert len(packed) == HEADER_NBYTES == HEADER.size
    assert packed[:4] == b"HX" + bytes([VERSION, 2])
    assert packed[4:8] == b"\2\0\3\0"
    assert packed[REQUEST_ID] == bytes.fromhex("0807060504030201")
    assert packed[16:24] == bytes.fromhex("1817161514131211")
    assert packed[24:] == struct.pack("<QII", 7, 9, 0)


def test_the_kind_comes_back_as_a_kind() -> None:
    assert unpack_header(pack_header(16)).kind is Kind.REGISTER


@pytest.mark.parametrize("nbytes", [0, 1, 39])
def test_a_short_header_is_refused(nbytes: int) -> None:
    with pytest.raises(InvalidInput, match=f"got {nbytes}"):
        unpack_header(pack_header(Kind.CALL)[:nbytes])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ((0x4858, VERSION, 2, 0, 0, 0, 0, 0, 0, 0), "magic 0x4858, expected 0x5848"),
        ((MAGIC, 2, 2, 0, 0, 0, 0, 0, 0, 0), "wire version 2; this side speaks 1"),
        ((MAGIC, VERSION, 9, 0, 0, 0, 0, 0, 0, 0), "unknown message kind 9"),
        ((MAGIC, VERSION, 2, 5, 0, 0, 0, 0, 0, 0), "unknown flags 0x0004"),
        ((MAGIC, VERSION, 2, 0, 0, 0, 0, BUDGET_US_MAX + 1, 0, 0), "time budget of 86400000001 us"),
        ((MAGIC, VERSION, 2, 0, 0, 0, 0, 0, 0, 8), "reserved field is 8"),
    ],
)
def test_a_wrong_field_is_refused_and_named(fields: tuple[int, ...], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        unpack_header(HEADER.pack(*fields))


@pytest.mark.parametrize(
    ("fields", "limit"),
    [({"tensor_count": TENSORS_MAX + 1}, TENSORS_MAX), ({"meta_nbytes": META_NBYTES_MAX + 1}, META_NBYTES_MAX)],
)
def test_what_is_over_a_limit_is_too_large_and_the_limit_is_told(fields: dict[str, int], limit: int) -> None:
    with pytest.raises(TooLarge) as refusal:
        unpack_header(pack_header(Kind.CALL, **fields))
    assert refusal.value.details == {"need": limit + 1, "limit": limit}
