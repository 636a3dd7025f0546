"""What comes over the link, told apart: calls for the lanes, orders for the core, questions about logs."""

import logging
import time
from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import Struct

from huterox_kernel.core.contact import Contact
from huterox_kernel.core.events import (
    Asked,
    CloseOrdered,
    CreateOrdered,
    DrainOrdered,
    Event,
    LeaseOrdered,
    LinkConnected,
    RegistrationAnswered,
    RegistrationRefused,
)
from huterox_kernel.core.records import text_of
from huterox_kernel.shell.lanes import Lanes
from huterox_kernel.shell.link import Link
from huterox_kernel.shell.logs import Logs
from huterox_wire.errors import Fault, HuteroxError, InvalidInput
from huterox_wire.header import Buffer, Header
from huterox_wire.kinds import Kind
from huterox_wire.leases import decode_drain, decode_lease_order
from huterox_wire.message import Message, decode, encode
from huterox_wire.meta import AdminReplyMeta, decode_admin, decode_error, encode_meta, meta_decoder
from huterox_wire.nodes import ContainerEvent, LogArgs, decode_close, decode_create, decode_registered
from huterox_wire.route import CONTAINER

_log: Final = logging.getLogger("huterox.kernel")


class _CreateHead(Struct):
    """What of a CREATE can be understood even where its model cannot."""

    container: int


_decode_create_head = meta_decoder(_CreateHead)


class Requests:
    """Takes every message of the switchboard's. Nothing that comes ends the kernel."""

    def __init__(self, link: Link, lanes: Lanes, logs: Logs, contact: Contact, feed: Callable[[Event], None]) -> None:
        self._link = link
        self._lanes = lanes
        self._logs = logs
        self._contact = contact
        self._feed = feed

    def on_connected(self) -> None:
        self._feed(LinkConnected())

    def on_message(self, route: bytes, frame: memoryview) -> None:
        """Hot path."""
        try:
            if not self._lanes.call(route, frame):
                self._on_routed(route, [frame], decode([frame]))
        except HuteroxError as exc:
            self._lanes.refuse_malformed(route, frame, exc)

    def on_batch_end(self) -> None:
        """Hot path."""
        self._lanes.flush()

    def on_writable(self) -> None:
        self._lanes.resume()

    def on_frames(self, route: bytes, frames: list[Buffer]) -> None:
        try:
            message = decode(frames)
            header, meta, tensors, _ = message
            if (
                header.kind is not Kind.CALL
                or tensors is None
                or not self._lanes.call_split(route, header, meta, tensors)
            ):
                self._on_routed(route, frames, message)
        except HuteroxError as exc:
            self._lanes.refuse_malformed(route, frames[0], exc)

    def _on_routed(self, route: bytes, frames: list[Buffer], message: Message) -> None:
        header = message.header
        if header.kind is Kind.CALL:
            self._lanes.hand_back(route, frames)
        elif header.kind is Kind.CANCEL:
            self._lanes.cancel(route, header)
        elif header.kind is Kind.ADMIN:
            self._on_admin(route, header, message.meta)
        elif header.kind is Kind.LEASE:
            self._on_lease(route, header, message.meta)
        else:
            self._lanes.answer(route, header, InvalidInput(f"a kernel takes no {header.kind.name} by a route"))

    def _on_admin(self, route: bytes, header: Header, meta: Buffer) -> None:
        try:
            asked = decode_admin(meta)
            if asked.verb != "logs":
                raise InvalidInput(f"a kernel knows no verb {asked.verb!r}", known=["logs"])
            result = self._read_log(asked.args)
        except HuteroxError as exc:
            self._lanes.answer(route, header, exc)
            return
        reply = encode(Kind.REPLY, header.request_id, header.handle, 0, encode_meta(AdminReplyMeta(result)))
        self._link.send_frames(route, reply)

    def _on_lease(self, route: bytes, header: Header, meta: Buffer) -> None:
        """Raises InvalidInput: it makes no sense."""
        order = decode_lease_order(meta)
        if int.from_bytes(route[CONTAINER], "little") != order.container:
            raise InvalidInput(f"a LEASE for container {text_of(order.container)} by the route to another")
        self._feed(LeaseOrdered(order, Asked(route, header.request_id, header.handle)))

    def _read_log(self, args: dict[str, object]) -> dict[str, object]:
        try:
            wanted = msgspec.convert(args, LogArgs)
        except msgspec.ValidationError as exc:
            raise InvalidInput(f"logs: {exc}", known=list(LogArgs.__struct_fields__)) from exc
        try:
            read = self._logs.read(wanted.container, wanted.offset, wanted.limit)
        except OSError as exc:
            raise Fault(f"the log cannot be read: {exc.strerror}") from exc
        return {"container": text_of(wanted.container), **read._asdict()}

    def on_control(self, frames: list[Buffer]) -> None:
        self._lanes.flush()  # an order must not overtake the calls that were sent before it
        _tell(self._contact.heard(time.monotonic()))
        try:
            message = decode(frames)
            self._on_order(message.header.kind, message.meta)
        except HuteroxError as exc:
            _log.warning("dropped an order: %s", exc.message)

    def _on_order(self, kind: Kind, meta: Buffer) -> None:
        match kind:
            case Kind.HEARTBEAT:  # our own, echoed
                return
            case Kind.REGISTER:
                answer = decode_registered(meta)
                if not answer.again:
                    self._contact.taken_in()
                self._feed(RegistrationAnswered(answer))
            case Kind.ERROR:
                _tell(self._contact.refused(decode_error(meta).message, time.monotonic()))
                self._feed(RegistrationRefused())
            case Kind.CREATE:
                self._on_create(meta)
            case Kind.CLOSE:
                self._feed(CloseOrdered(decode_close(meta)))
            case Kind.DRAIN:
                self._feed(DrainOrdered(decode_drain(meta)))
            case _:
                raise InvalidInput(f"a kernel takes no {kind.name}")

    def _on_create(self, meta: Buffer) -> None:
        """A model that cannot be understood is told of by name, so that nobody waits for it."""
        try:
            create = decode_create(meta)
        except HuteroxError as exc:
            container = _decode_create_head(meta).container
            event = ContainerEvent(container=container, what="gone", cause="load_failed", reason=exc.message)
            self._link.send_control(encode(Kind.EVENT, 0, 0, 0, encode_meta(event)))
            return
        self._feed(CreateOrdered(create))


def _tell(text: str) -> None:
    """Into the log, where there is anything to tell."""
    if text:
        _log.warning("%s", text)
