"""A pipeline of handlers, fixed at start. Each handler does one thing, then passes the message on or answers it."""

from collections.abc import Sequence
from typing import Any, Protocol

from huterox_connector.core.effects import Effect
from huterox_wire.errors import HuteroxError
from huterox_wire.header import Header


class Inbound:
    """A message on its way in. `frames` are zmq frames or bytes: anything with the buffer protocol.

    `header` and `meta` are filled in by the decoding handler. `waited_s` is how long it stood in its peer's line.
    """

    __slots__ = ("frames", "header", "meta", "now_s", "peer", "waited_s")

    def __init__(self, peer: bytes, frames: Sequence[Any], now_s: float) -> None:
        self.peer = peer
        self.frames = frames
        self.now_s = now_s
        self.waited_s = 0.0
        self.header: Header
        self.meta: Any = None


class Outlet(Protocol):
    """Where a pipeline's results go: the shell. `refuse` answers on the socket that the pipeline belongs to."""

    def perform(self, effects: list[Effect]) -> None: ...

    def refuse(self, peer: bytes, request_id: int, error: HuteroxError) -> None: ...


class Context:
    """What a handler may do with a message besides dropping it."""

    __slots__ = ("_handler", "_next", "_outlet")

    def __init__(self, handler: "Handler", following: "Context | None", outlet: "Outlet") -> None:
        self._handler = handler
        self._next = following
        self._outlet = outlet

    def receive(self, message: Inbound) -> None:
        self._handler.inbound(self, message)

    def pass_on(self, message: Inbound) -> None:
        """To the next handler. The last one has none, and must not call this."""
        assert self._next is not None
        self._next.receive(message)

    def refuse(self, message: Inbound, request_id: int, error: HuteroxError) -> None:
        """Answer the message's sender with ERROR."""
        self._outlet.refuse(message.peer, request_id, error)

    def perform(self, effects: list[Effect]) -> None:
        """Hand over what the core asked for."""
        self._outlet.perform(effects)


class Handler:
    """One step. Handlers are made once and keep what they need; they hold no socket and know no clock."""

    def inbound(self, context: Context, message: Inbound) -> None:
        context.pass_on(message)


class Pipeline:
    """Handlers in order, between a socket and the core."""

    def __init__(self, handlers: Sequence[Handler], outlet: Outlet) -> None:
        context: Context | None = None
        for handler in reversed(handlers):
            context = Context(handler, context, outlet)
        assert context is not None, "a pipeline has at least one handler"
        self._first = context

    def inbound(self, peer: bytes, frames: Sequence[Any], now_s: float) -> None:
        self.take(Inbound(peer, frames, now_s))

    def take(self, message: Inbound) -> None:
        self._first.receive(message)
