"""Turns a kernel's control message into an event for the core."""

from huterox_connector.core import events
from huterox_connector.core.switchboard import Switchboard
from huterox_connector.handlers.pipeline import Context, Handler, Inbound
from huterox_wire.errors import InvalidInput
from huterox_wire.kinds import Kind


class DispatchKernel(Handler):
    """The end of the kernels' pipeline. Answers to calls do not come here; see `Switch`."""

    def __init__(self, board: Switchboard) -> None:
        self._board = board

    def inbound(self, context: Context, message: Inbound) -> None:
        event = self._event_of(message)
        if event is None:
            kind = message.header.kind.name
            error = InvalidInput(f"a kernel may not send {kind} to the switchboard", kind=kind)
            context.refuse(message, message.header.request_id, error)
            return
        context.perform(self._board.on(event, message.now_s))

    def _event_of(self, message: Inbound) -> events.Event | None:
        match message.header.kind:
            case Kind.REGISTER:
                return events.KernelRegistered(message.peer, message.meta)
            case Kind.HEARTBEAT:
                return events.KernelBeat(message.peer, message.meta)
            case Kind.EVENT:
                return events.ContainerReported(message.peer, message.meta)
            case _:
                return None
