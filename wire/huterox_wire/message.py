"""A message as frames: taking it apart, putting it together. Knows sizes, not meanings.

A message is a header, a meta map and tensors. It travels in one of two forms:

    packed   | header | meta | pad | tensor 0 | pad | tensor 1 | ...      one frame, flag PACKED
    split    | header |  | meta |  | tensor 0 |  | tensor 1 | ...         2 + tensor_count frames

In the packed form each tensor begins at the next multiple of 64 bytes from the start of the header, so a message that
is copied whole into shared memory has aligned tensors. Senders pack what is at most PACKED_NBYTES_MAX in all; larger
messages are split, unless their bytes already lie in packed form (an answer in shared memory). Receivers take both
forms at any size up to MESSAGE_NBYTES_MAX, which counts the packed form whichever it is: so a message that fits one way
fits every way.
"""

from collections.abc import Sequence
from typing import NamedTuple

from huterox_wire.errors import InvalidInput, TooLarge
from huterox_wire.header import HEADER_NBYTES, Buffer, Header, pack_header, unpack_header
from huterox_wire.kinds import Flag
from huterox_wire.limits import MESSAGE_NBYTES_MAX, PACKED_NBYTES_MAX, TENSOR_ALIGNMENT

_PAD = bytes(TENSOR_ALIGNMENT)
_PACKED = int(Flag.PACKED)


class Message(NamedTuple):
    """A message taken apart. The buffers borrow the frames they came from.

    In a packed message `tensors` is None: where each tensor lies depends on the sizes that the meta map declares. Use
    `slice_tensors` once they are known.
    """

    header: Header
    meta: Buffer
    tensors: Sequence[Buffer] | None
    packed: memoryview | None


def align(offset: int) -> int:
    """The next multiple of the tensor alignment."""
    return (offset + TENSOR_ALIGNMENT - 1) & -TENSOR_ALIGNMENT


def packed_nbytes(meta_nbytes: int, tensor_sizes: Sequence[int]) -> int:
    """Size of a whole message in the packed form."""
    end = HEADER_NBYTES + meta_nbytes
    for nbytes in tensor_sizes:
        end = align(end) + nbytes
    return end


def encode(
    kind: int,
    request_id: int,
    handle: int,
    budget_us: int,
    meta: bytes,
    tensors: Sequence[Buffer] = (),
    flags: int = 0,
) -> list[Buffer]:
    """Hot path. Frames of one message: one where it is small, otherwise 2 + len(tensors).

    Args:
        tensors: contiguous buffers of bytes (format "B"); in the split form they are returned as they are, uncopied.
    Raises:
        TooLarge: over MESSAGE_NBYTES_MAX; nothing was copied.
    """
    meta_nbytes = len(meta)
    if not tensors:
        if HEADER_NBYTES + meta_nbytes <= PACKED_NBYTES_MAX:
            return [pack_header(kind, flags | _PACKED, 0, request_id, handle, budget_us, meta_nbytes) + meta]
        return [pack_header(kind, flags, 0, request_id, handle, budget_us, meta_nbytes), meta]
    sizes = [len(tensor) for tensor in tensors]
    count = len(sizes)
    nbytes = packed_nbytes(meta_nbytes, sizes)
    if nbytes > PACKED_NBYTES_MAX:
        check_message_nbytes(nbytes)
        return [pack_header(kind, flags, count, request_id, handle, budget_us, meta_nbytes), meta, *tensors]
    parts: list[Buffer] = [
        pack_header(kind, flags | _PACKED, count, request_id, handle, budget_us, meta_nbytes),
        meta,
    ]
    end = HEADER_NBYTES + meta_nbytes
    for tensor, nbytes in zip(tensors, sizes, strict=True):
        start = align(end)
        parts.append(_PAD[: start - end])
        parts.append(tensor)
        end = start + nbytes
    return [b"".join(parts)]


def decode(frames: Sequence[Buffer]) -> Message:
    """Hot path. Check the outer form of a message and take it apart.

    Raises:
        InvalidInput: no frame, a broken header, or frames that do not fit what the header says.
        TooLarge: over MESSAGE_NBYTES_MAX in all, or over a limit that the header check names.
    """
    if not frames:
        raise InvalidInput("a message without frames")
    first = frames[0]
    header = unpack_header(first)
    if header.flags & _PACKED:
        if len(frames) != 1:
            raise InvalidInput(f"a packed message is one frame, got {len(frames)}")
        return _decode_packed(header, memoryview(first))
    if len(frames) != 2 + header.tensor_count:
        raise InvalidInput(
            f"a split message with {header.tensor_count} tensors has {2 + header.tensor_count} frames,"
            f" got {len(frames)}"
        )
    if len(first) != HEADER_NBYTES:
        raise InvalidInput(f"a split message's header frame has {HEADER_NBYTES} bytes, got {len(first)}")
    if len(frames[1]) != header.meta_nbytes:
        raise InvalidInput(f"the header says {header.meta_nbytes} bytes of meta, the frame has {len(frames[1])}")
    check_message_nbytes(packed_nbytes(header.meta_nbytes, [len(frame) for frame in frames[2:]]))
    return Message(header, frames[1], frames[2:], None)


def _decode_packed(header: Header, frame: memoryview) -> Message:
    nbytes = len(frame)
    check_message_nbytes(nbytes)
    end = HEADER_NBYTES + header.meta_nbytes
    if nbytes < end or (header.tensor_count == 0 and nbytes != end):
        raise InvalidInput(f"header and meta take {end} bytes, the frame has {nbytes}", need=end, have=nbytes)
    return Message(header, frame[HEADER_NBYTES:end], None, frame)


def slice_tensors(message: Message, sizes: Sequence[int]) -> Sequence[Buffer]:
    """Hot path. The tensors' bytes, once the meta map has told their sizes.

    Raises:
        InvalidInput: count or sizes do not fit the frames.
    """
    if len(sizes) != message.header.tensor_count:
        raise InvalidInput(
            f"the header says {message.header.tensor_count} tensors, the meta map describes {len(sizes)}"
        )
    if message.packed is None:
        tensors = message.tensors or ()
        for index, (tensor, nbytes) in enumerate(zip(tensors, sizes, strict=True)):
            if len(tensor) != nbytes:
                raise InvalidInput(
                    f"tensor {index}: its dtype and shape need {nbytes} bytes, its frame has {len(tensor)}",
                    need=nbytes,
                    have=len(tensor),
                )
        return tensors
    frame = message.packed
    need = packed_nbytes(message.header.meta_nbytes, sizes)
    if need != len(frame):
        raise InvalidInput(
            f"the described tensors need a frame of {need} bytes, got {len(frame)}", need=need, have=len(frame)
        )
    slices = []
    end = HEADER_NBYTES + message.header.meta_nbytes
    for nbytes in sizes:
        start = align(end)
        end = start + nbytes
        slices.append(frame[start:end])
    return slices


def check_message_nbytes(nbytes: int) -> None:
    """Raise TooLarge where a whole message, in the packed form, is over the limit."""
    if nbytes > MESSAGE_NBYTES_MAX:
        raise TooLarge(
            f"a message of {nbytes} bytes; at most {MESSAGE_NBYTES_MAX} are carried",
            need=nbytes,
            limit=MESSAGE_NBYTES_MAX,
        )
