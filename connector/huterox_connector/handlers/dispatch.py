"""Turns a caller's message into an event for the core."""

from huterox_connector.core import events
from huterox_connector.core.switchboard import Switchboard
from huterox_connector.handlers.pipeline import Context, Handler, Inbound
from huterox_wire.errors import InvalidInput
from huterox_wire.kinds import Kind


class Dispatch(Handler):
    """The end of the callers' pipeline. Calls that hit do not come here; see `Switch`."""

    def __init__(self, board: Switchboard) -> None:
        self._board = board

    def inbound(self, context: Context, message: Inbound) -> None:
        event = self._event_of(message)
        if event is None:
            kind = message.header.kind.name
            error = InvalidInput(f"a caller may not send {kind} to the switchboard", kind=kind)
            context.refuse(message, message.header.request_id, error)
            return
        context.perform(self._board.on(event, message.now_s))

    def _event_of(self, message: Inbound) -> events.Event | None:
        header, peer = message.header, message.peer
        match header.kind:
            case Kind.CALL:
                nbytes = sum(len(frame) for frame in message.frames)
                frames = list(message.frames)
                return events.CallMissed(peer, header.request_id, header.handle, header.budget_us, frames, nbytes)
            case Kind.CANCEL:
                return events.CallCancelled(peer, header.request_id)
            case Kind.OPEN:
                return events.OpenRequested(peer, header.request_id, message.meta)
            case Kind.ADMIN:
                return events.AdminRequested(peer, header.request_id, message.meta)
            case _:
                return None
