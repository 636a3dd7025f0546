"""What is asked of the switchboard besides calls: OPEN, and the operator's verbs."""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from huterox_wire.errors import Fault, HuteroxError
from huterox_wire.header import Buffer
from huterox_wire.message import Message
from huterox_wire.meta import (
    AdminMeta,
    OpenedMeta,
    OpenMeta,
    decode_admin_reply,
    decode_opened,
    encode_meta,
)

PENDING_TIMEOUT_S: Final = 5.0
"""How long a client that has connected anew waits to hear which of its calls are left."""

Row = dict[str, Any]
_T = TypeVar("_T")


def encode_opening(service: str, tenant: str) -> bytes:
    """Meta of the OPEN of a virtual container."""
    return encode_meta(OpenMeta(service, tenant))


def decode_opening(message: Message) -> OpenedMeta:
    """What the switchboard says of an opened virtual container."""
    return _decoded(decode_opened, message.meta)


def encode_admin(verb: str, args: Mapping[str, Any]) -> bytes:
    """Meta of an ADMIN. Arguments that are None are left out: the other side has the defaults."""
    return encode_meta(AdminMeta(verb, {name: value for name, value in args.items() if value is not None}))


def decode_admin(message: Message) -> Any:
    """The result of a verb."""
    return _decoded(decode_admin_reply, message.meta).result


def encode_pending() -> bytes:
    """Meta of the question which requests of this connection are not answered yet."""
    return encode_admin("pending", {})


def decode_pending(message: Message) -> frozenset[int]:
    """Their request ids."""
    result = decode_admin(message)
    ids = result.get("request_ids") if isinstance(result, dict) else None
    if not isinstance(ids, list):
        raise Fault("the switchboard's answer is malformed: it names no request ids")
    return frozenset(ids)


def _decoded(decode: Callable[[Buffer], _T], meta: Buffer) -> _T:
    try:
        return decode(meta)
    except HuteroxError as exc:
        raise Fault(f"the switchboard's answer is malformed: {exc}") from exc
