"""Which callers are still there.

A ROUTER does not say whose connection has ended, but something sent to a caller that has gone fails. So a moment after
any connection has ended, those are looked for for whom something lasts; and whoever could not be sent an answer has
gone, too.
"""

from asyncio import AbstractEventLoop
from collections.abc import Callable
from typing import Final

from huterox_connector.core.switchboard import Switchboard
from huterox_connector.shell.deliveries import GONE, Deliveries

LOOK_AFTER_S: Final = 0.2
"""A connection's end is known a little before it is felt; and calls that end within this need no look."""

_LOOKED_AT_MAX: Final = 512  # callers in one go


class Presence:
    """Tells `gone` of callers that have left, several at once."""

    def __init__(self, board: Switchboard, deliveries: Deliveries, gone: Callable[[frozenset[bytes]], None]) -> None:
        self._board = board
        self._deliveries = deliveries
        self._tell = gone
        self._gone: set[bytes] = set()  # and nobody has been told
        self._look_is_due = False
        self._loop: AbstractEventLoop

    def start(self, loop: AbstractEventLoop) -> None:
        self._loop = loop

    def connection_ended(self) -> None:
        """Somebody has left."""
        if not self._look_is_due:
            self._look_is_due = True
            self._loop.call_later(LOOK_AFTER_S, self._look, self._board.calls.upcoming)

    def miss(self, caller: bytes) -> None:
        """It has left: it could not be reached."""
        if not self._gone:
            self._loop.call_soon(self._tell_gone)
        self._gone.add(caller)

    def _look(self, before: int) -> None:
        """Are all there that wait for calls since before the connection ended?"""
        self._look_is_due = False
        self._look_at(list(self._board.waited_for(before)))

    def _look_at(self, callers: list[bytes]) -> None:
        for caller in callers[:_LOOKED_AT_MAX]:
            if self._deliveries.sign_of_life(caller) == GONE:
                self.miss(caller)
        if len(callers) > _LOOKED_AT_MAX:
            self._loop.call_soon(self._look_at, callers[_LOOKED_AT_MAX:])

    def _tell_gone(self) -> None:
        gone, self._gone = frozenset(self._gone), set()
        self._tell(gone)
