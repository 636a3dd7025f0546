"""Turns a decoded message into an event for the core. The end of both pipelines.

Calls that hit, and answers to calls, do not come here; see `Switch`.
"""

from collections.abc import Callable

from huterox_connector.core import events
from huterox_connector.core.switchboard import Switchboard
from huterox_connector.handlers.pipeline import Context, Handler, Inbound
from huterox_wire.errors import Fault, InvalidInput
from huterox_wire.kinds import Kind


class Dispatch(Handler):
    """`event_of` knows what its kind of peer may send; `peer` is that kind, in words."""

    def __init__(self, board: Switchboard, peer: str, event_of: Callable[[Inbound], events.Event | None]) -> None:
        self._board = board
        self._peer = peer
        self._event_of = event_of

    def inbound(self, context: Context, message: Inbound) -> None:
        event = self._event_of(message)
        if event is None:
            kind = message.header.kind.name
            error = InvalidInput(f"a {self._peer} may not send {kind} to the switchboard", kind=kind)
            context.refuse(message, message.header.request_id, error)
            return
        try:
            effects = self._board.on(event, message.now_s)
        except Exception as exc:
            # A bug of ours. Whoever met it hears of it, and does not wait; the shell logs it.
            fault = Fault(f"the switchboard failed at this: {type(exc).__name__}; its log tells more")
            context.refuse(message, message.header.request_id, fault)
            raise
        context.perform(effects)


def event_of_caller(message: Inbound) -> events.Event | None:
    header, peer = message.header, message.peer
    match header.kind:
        case Kind.CALL:
            nbytes = sum(len(frame) for frame in message.frames)
            frames = list(message.frames)
            return events.CallMissed(peer, header.request_id, header.handle, _left_us(message), frames, nbytes)
        case Kind.CANCEL:
            return events.CallCancelled(peer, header.request_id)
        case Kind.OPEN:
            return events.OpenRequested(peer, header.request_id, message.meta)
        case Kind.LEASE:
            return events.LeaseRequested(peer, header.request_id, header.handle, _left_us(message), message.meta)
        case Kind.ADMIN:
            return events.AdminRequested(peer, header.request_id, message.meta)
        case _:
            return None


def _left_us(message: Inbound) -> int:
    """Of the time that the sender gives: it counts from when the message came."""
    budget_us = message.header.budget_us
    return max(1, budget_us - int(message.waited_s * 1e6)) if budget_us else 0


def event_of_kernel(message: Inbound) -> events.Event | None:
    match message.header.kind:
        case Kind.REGISTER:
            return events.KernelRegistered(message.peer, message.meta)
        case Kind.HEARTBEAT:
            return events.KernelBeat(message.peer, message.meta)
        case Kind.EVENT:
            return events.ContainerReported(message.peer, message.meta)
        case _:
            return None
