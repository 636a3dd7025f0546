"""Named inputs to a call's meta and tensors, answers to named results. Needs NumPy, so it is imported late."""

from collections.abc import Mapping
from typing import Any

from huterox_wire.errors import Fault, HuteroxError, InvalidInput
from huterox_wire.header import Buffer
from huterox_wire.message import Message, slice_tensors
from huterox_wire.meta import CallMeta, decode_reply, encode_meta
from huterox_wire.payload import join_values, split_values


def encode_call(method: str, inputs: Mapping[str, Any]) -> tuple[bytes, list[Buffer]]:
    """Hot path. Meta and tensor bytes of one call. The buffers borrow the arrays' memory.

    Raises:
        InvalidInput: a method that is no text, or a value that is not carried.
        TooLarge: too many arrays, or too much in plain values.
    """
    check_method(method)
    params, specs, buffers = split_values(inputs)
    return encode_meta(CallMeta(method, params, specs)), buffers


def check_method(method: Any) -> None:
    """Raise InvalidInput where a method is given as something else than its name."""
    if type(method) is not str:
        raise InvalidInput(
            f"the method is given by its name, got {type(method).__name__}; inputs are given as name=value"
        )


def decode_result(message: Message) -> dict[str, Any]:
    """Hot path. The named results of a REPLY or PART. Arrays are read-only views over the received bytes.

    Raises:
        Fault: the answer is malformed.
    """
    try:
        meta = decode_reply(message.meta)
        if not meta.tensors and not message.header.tensor_count:
            return meta.params
        tensors = slice_tensors(message, [spec.nbytes for spec in meta.tensors])
        return join_values(meta.params, meta.tensors, tensors)
    except HuteroxError as exc:
        raise Fault(f"the answer is malformed: {exc}") from exc
