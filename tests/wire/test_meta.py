"""The typed meta maps between callers and the switchboard."""

from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from huterox_wire.errors import InvalidInput, TooLarge
from huterox_wire.limits import DEPTH_MAX, META_NBYTES_MAX, NAME_NBYTES_MAX, RANK_MAX, TENSORS_MAX, TRACE_NBYTES_MAX
from huterox_wire.meta import (
    AdminReplyMeta,
    CallMeta,
    OpenMeta,
    TensorSpec,
    check_plain,
    decode_admin_reply,
    decode_call,
    decode_open,
    decode_reply,
    encode_meta,
    encoder,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | TEXT
    | st.binary(max_size=300)
)
PLAIN = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4))
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=NAME_NBYTES_MAX)


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


@given(st.dictionaries(NAMES, PLAIN, max_size=4), NAMES, TEXT)
def test_plain_values_survive(params: dict[str, Any], method: str, trace: str) -> None:
    meta = CallMeta(method=method, params=params, trace=trace)
    assert decode_call(encode_meta(meta)) == meta


@given(PLAIN)
def test_an_independent_library_reads_and_writes_the_same_bytes(value: Any) -> None:
    data = encode_meta(AdminReplyMeta(result=value))
    expected = {} if value is None else {"result": value}
    assert msgpack.unpackb(data, strict_map_key=False) == expected
    assert msgpack.packb(expected) == data


def test_defaults_are_left_out_and_filled_in() -> None:
    assert encode_meta(CallMeta()) == b"\x80"
    assert decode_call(b"\x80") == CallMeta("predict", {}, [], "")


def test_unknown_fields_are_ignored() -> None:
    assert decode_reply(msgpack.packb({"later": [1], "params": {"a": 1}})).params == {"a": 1}


def test_a_buffer_of_any_kind_is_decoded() -> None:
    data = encode_meta(CallMeta(method="f"))
    assert decode_call(bytearray(data)) == decode_call(memoryview(data)) == decode_call(data)


def test_depth_is_counted_from_the_outermost_map() -> None:
    assert decode_call(msgpack.packb({"params": {"x": nested(DEPTH_MAX - 1)}}))
    assert decode_admin_reply(msgpack.packb({"result": nested(DEPTH_MAX)}))
    with pytest.raises(InvalidInput, match="nested deeper than 32"):
        decode_call(msgpack.packb({"params": {"x": nested(DEPTH_MAX)}}))
    with pytest.raises(InvalidInput, match="nested deeper than 32"):
        decode_admin_reply(msgpack.packb({"result": nested(DEPTH_MAX + 1)}))


@pytest.mark.parametrize(
    "fields",
    [
        {"method": ""},
        {"method": "m" * (NAME_NBYTES_MAX + 1)},
        {"trace": "t" * (TRACE_NBYTES_MAX + 1)},
        {"params": {"": 1}},
        {"params": {"p" * (NAME_NBYTES_MAX + 1): 1}},
        {"tensors": [["x", "int8", []]] * (TENSORS_MAX + 1)},
        {"tensors": [["x", "int8", [1] * (RANK_MAX + 1)]]},
        {"tensors": [["x", "int8", [-1]]]},
        {"tensors": [["x", "int8", [2**63]]]},
    ],
)
def test_a_field_beyond_its_limit_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="CallMeta is malformed"):
        decode_call(msgpack.packb(fields))


def test_limits_count_code_points() -> None:
    name = "\U0001f600" * NAME_NBYTES_MAX
    assert decode_open(encode_meta(OpenMeta(service=name, tenant=name))).service == name


def test_an_error_says_where() -> None:
    with pytest.raises(InvalidInput, match=r"Expected `int`, got `str` - at `\$.tensors\[0\]\[2\]\[1\]`"):
        decode_call(msgpack.packb({"tensors": [["x", "int8", [1, "2"]]]}))


@pytest.mark.parametrize(
    "value", [msgpack.ExtType(5, b""), msgpack.Timestamp(5), {1: 2}, {b"k": 1}, [{None: 1}], {(1, 2): 3}]
)
def test_what_is_not_plain_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInput):
        decode_admin_reply(msgpack.packb({"result": value}))


def test_check_plain_takes_the_types_of_msgpack_alone() -> None:
    check_plain({"a": [None, True, 1, 1.0, "", b"", {}]})
    for value in ((1, 2), {1}, 1j, object(), [bytearray()]):
        with pytest.raises(InvalidInput):
            check_plain(value)


def test_a_value_that_msgpack_cannot_carry_is_refused_by_the_sender() -> None:
    loop: list[Any] = []
    loop.append(loop)
    for value in (2**64, -(2**63) - 1, object(), "\ud800", loop):
        with pytest.raises(InvalidInput, match="cannot be carried"):
            encode_meta(AdminReplyMeta(result=value))


def test_a_meta_of_one_mebibyte_is_carried_and_a_byte_more_is_not() -> None:
    room = META_NBYTES_MAX - len(encode_meta(AdminReplyMeta(result="x" * 2**16))) + 2**16
    assert len(encode_meta(AdminReplyMeta(result="x" * room))) == META_NBYTES_MAX
    with pytest.raises(TooLarge) as refusal:
        encode_meta(AdminReplyMeta(result="x" * (room + 1)))
    assert refusal.value.details == {"need": META_NBYTES_MAX + 1, "limit": META_NBYTES_MAX}


def test_the_size_of_a_tensor_follows_from_its_description() -> None:
    assert TensorSpec("x", "float32", [2, 3]).nbytes == 24
    assert TensorSpec("x", "complex128", []).nbytes == 16
    assert TensorSpec("x", "int64", [2**60, 0]).nbytes == 0
    assert TensorSpec("x", "int64", [2**63 - 1] * 8).nbytes == 8 * (2**63 - 1) ** 8
    with pytest.raises(InvalidInput, match="unknown dtype 'object'") as refusal:
        _ = TensorSpec("x", "object", []).nbytes
    assert "bfloat16" in refusal.value.details["known"]


def test_an_encoder_of_ones_own_speaks_the_same_dialect() -> None:
    assert encoder().encode(CallMeta(method="f")) == encode_meta(CallMeta(method="f"))
    assert isinstance(encoder(), msgspec.msgpack.Encoder)
