"""Messages as frames."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from huterox_wire.errors import InvalidInput, TooLarge
from huterox_wire.header import HEADER_NBYTES, Buffer, pack_header
from huterox_wire.kinds import Flag, Kind
from huterox_wire.limits import MESSAGE_NBYTES_MAX, PACKED_NBYTES_MAX, TENSOR_ALIGNMENT
from huterox_wire.message import align, check_message_nbytes, decode, encode, packed_nbytes, slice_tensors

BYTES = st.binary(max_size=200)


def encoded(meta: bytes = b"\x80", tensors: list[bytes] | None = None, flags: int = 0) -> list[Buffer]:
    return encode(Kind.CALL, 7, 8, 9, meta, tensors or [], flags)


def split_frames(meta: bytes, tensors: list[bytes]) -> list[Buffer]:
    return [pack_header(Kind.CALL, 0, len(tensors), meta_nbytes=len(meta)), meta, *tensors]


@given(BYTES, st.lists(BYTES, max_size=8))
def test_a_packed_message_survives(meta: bytes, tensors: list[bytes]) -> None:
    message = decode(encoded(meta, tensors))
    assert message.header.flags == Flag.PACKED
    assert (message.header.request_id, message.header.handle, message.header.budget_us) == (7, 8, 9)
    assert bytes(message.meta) == meta
    assert message.tensors is None
    assert [bytes(t) for t in slice_tensors(message, [len(t) for t in tensors])] == tensors


@given(BYTES, st.lists(BYTES, max_size=8))
def test_a_split_message_survives(meta: bytes, tensors: list[bytes]) -> None:
    message = decode(split_frames(meta, tensors))
    assert bytes(message.meta) == meta
    assert message.packed is None
    assert [bytes(t) for t in slice_tensors(message, [len(t) for t in tensors])] == tensors


@given(BYTES, st.lists(BYTES, min_size=1, max_size=8))
def test_packed_tensors_begin_at_multiples_of_64_and_the_padding_is_zero(meta: bytes, tensors: list[bytes]) -> None:
    (frame,) = encoded(meta, tensors)
    assert len(frame) == packed_nbytes(len(meta), [len(t) for t in tensors])
    end = HEADER_NBYTES + len(meta)
    for tensor in tensors:
        start = align(end)
        assert start % TENSOR_ALIGNMENT == 0
        assert not any(frame[end:start])
        assert frame[start : start + len(tensor)] == tensor
        end = start + len(tensor)
    assert end == len(frame)


def test_align_is_the_next_multiple() -> None:
    assert [align(n) for n in (0, 1, 63, 64, 65, 128)] == [0, 64, 64, 64, 128, 128]


def test_a_small_message_is_one_frame_and_a_large_one_is_split() -> None:
    at_limit = bytes(PACKED_NBYTES_MAX - TENSOR_ALIGNMENT)
    assert len(encoded(tensors=[at_limit])) == 1
    assert len(encoded(tensors=[at_limit + b"\0"])) == 3


def test_a_message_without_tensors_is_packed_by_its_own_size() -> None:
    assert len(encoded(bytes(PACKED_NBYTES_MAX - HEADER_NBYTES))) == 1
    assert len(encoded(bytes(PACKED_NBYTES_MAX - HEADER_NBYTES + 1))) == 2


def test_split_tensors_are_sent_uncopied() -> None:
    tensor = bytes(PACKED_NBYTES_MAX)
    assert encoded(tensors=[tensor])[2] is tensor


def test_flags_are_kept() -> None:
    assert decode(encoded(flags=Flag.STREAM)).header.flags == Flag.STREAM | Flag.PACKED


def test_the_parts_of_a_message_borrow_the_frame() -> None:
    frame = bytearray(encoded(tensors=[b"abcd"])[0])
    message = decode([frame])
    (tensor,) = slice_tensors(message, [4])
    frame[-4:] = b"wxyz"
    assert bytes(tensor) == b"wxyz"


def test_a_message_without_frames_is_refused() -> None:
    with pytest.raises(InvalidInput, match="without frames"):
        decode([])


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_split_message_with_a_wrong_number_of_frames_is_refused(count: int) -> None:
    frames = [*split_frames(b"\x80", [b"a"]), b"extra"]
    with pytest.raises(InvalidInput, match=f"has 3 frames, got {count}"):
        decode(frames[:count])


def test_a_packed_message_of_two_frames_is_refused() -> None:
    with pytest.raises(InvalidInput, match="is one frame, got 2"):
        decode([*encoded(), b""])


def test_every_truncation_of_a_message_is_refused() -> None:
    (frame,) = encoded(b"\x80", [b"abc", b"defg"])
    for nbytes in range(len(frame)):
        with pytest.raises(InvalidInput):
            slice_tensors(decode([frame[:nbytes]]), [3, 4])


@pytest.mark.parametrize("frames", [encoded(b"\x80", [b"abc", b"defg"]), split_frames(b"\x80", [b"abc", b"defg"])])
@pytest.mark.parametrize("sizes", [[], [3], [3, 4, 0], [4, 3], [3, 5], [3, 2**70]])
def test_sizes_that_do_not_fit_the_frames_are_refused(sizes: list[int], frames: list[Buffer]) -> None:
    with pytest.raises(InvalidInput):
        slice_tensors(decode(frames), sizes)


def test_a_message_over_the_limit_is_too_large() -> None:
    check_message_nbytes(MESSAGE_NBYTES_MAX)
    with pytest.raises(TooLarge) as refusal:
        check_message_nbytes(MESSAGE_NBYTES_MAX + 1)
    assert refusal.value.details["limit"] == MESSAGE_NBYTES_MAX


def test_the_limit_is_the_same_in_both_forms_and_is_told_before_anything_is_copied() -> None:
    first = memoryview(bytearray(MESSAGE_NBYTES_MAX // 2))  # never written to, so it takes no memory
    last = memoryview(bytearray(MESSAGE_NBYTES_MAX // 2 - TENSOR_ALIGNMENT))
    meta = bytes(TENSOR_ALIGNMENT - 1 - 40)
    frames = encode(Kind.CALL, 1, 1, 0, meta, [first, last])
    assert decode(frames).header.tensor_count == 2
    over = memoryview(bytearray(len(first) + 1))
    assert sum(map(len, (frames[0], meta, over, last))) == MESSAGE_NBYTES_MAX  # without its padding it would fit
    with pytest.raises(TooLarge):
        encode(Kind.CALL, 1, 1, 0, meta, [over, last])
    with pytest.raises(TooLarge):
        decode([frames[0], meta, over, last])
