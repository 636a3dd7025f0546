"""Checks a message's outer form, and decodes the meta map of the kinds that the switchboard reads."""

import struct
from collections.abc import Callable, Mapping
from typing import Any, Final

from huterox_connector.handlers.pipeline import Context, Handler, Inbound
from huterox_wire import leases, meta, nodes
from huterox_wire.errors import HuteroxError
from huterox_wire.header import HEADER_NBYTES
from huterox_wire.kinds import Kind
from huterox_wire.message import decode

_REQUEST_ID: Final = struct.Struct("<8xQ")

CALLER_METAS: Final[Mapping[Kind, Callable[[Any], Any]]] = {
    Kind.OPEN: meta.decode_open,
    Kind.LEASE: leases.decode_lease,
    Kind.ADMIN: meta.decode_admin,
}
KERNEL_METAS: Final[Mapping[Kind, Callable[[Any], Any]]] = {
    Kind.REGISTER: nodes.decode_register,
    Kind.HEARTBEAT: nodes.decode_heartbeat,
    Kind.EVENT: nodes.decode_container_event,
}


class Decode(Handler):
    """A CALL's meta and tensors are for the worker's eyes only: they are not decoded here."""

    def __init__(self, metas: Mapping[Kind, Callable[[Any], Any]]) -> None:
        self._metas = metas

    def inbound(self, context: Context, message: Inbound) -> None:
        try:
            decoded = decode([memoryview(frame) for frame in message.frames])
            message.header = decoded.header
            if (decode_meta := self._metas.get(decoded.header.kind)) is not None:
                message.meta = decode_meta(decoded.meta)
        except HuteroxError as error:
            context.refuse(message, _request_id_of(message), error)
            return
        context.pass_on(message)


def _request_id_of(message: Inbound) -> int:
    """Where the header is long enough to have one: so that the sender can tell which of its messages is refused."""
    if message.frames and len(message.frames[0]) >= HEADER_NBYTES:
        request_id: int = _REQUEST_ID.unpack_from(message.frames[0])[0]
        return request_id
    return 0
