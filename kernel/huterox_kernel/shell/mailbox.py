"""Packets for one worker, in order. A worker that is busy reads nothing, and its socket takes ten packets: the rest
waits here, and the kernel goes on.

What waits is bounded by who posts: at most two packets for each lane that a container may have, and a few for its life.
Nothing is said about a worker that has gone: its pidfd tells.
"""

import errno
import os
import socket
from asyncio import AbstractEventLoop, TimerHandle
from collections import deque
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from huterox_kernel.worker import control

RETRY_S: Final = 0.05
_LATER: Final = frozenset({errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM})
"""The system has no room for it now, and the socket cannot tell when it will."""


class Mailbox:
    """The kernel's way to one worker. Does not own the socket."""

    def __init__(self, loop: AbstractEventLoop, sock: socket.socket) -> None:
        self._loop = loop
        self._sock = sock
        self._waiting: deque[tuple[Struct, list[int]]] = deque()
        self._retry: TimerHandle | None = None
        self._is_closed = False

    def post(self, message: Struct, descriptors: Sequence[int] = ()) -> None:
        """Send a packet, now or later. The descriptors stay the giver's.

        Raises:
            OSError: it must wait, and there are no descriptors to keep its own open.
        """
        if self._is_closed or (not self._waiting and self._try(message, descriptors)):
            return
        kept: list[int] = []
        try:
            for descriptor in descriptors:
                kept.append(os.dup(descriptor))
        except OSError:
            control.close_all(kept)
            raise
        self._waiting.append((message, kept))

    def close(self) -> None:
        """Forget what waits. Before the socket is closed."""
        if self._is_closed:
            return
        self._is_closed = True
        self._loop.remove_writer(self._sock.fileno())
        if self._retry is not None:
            self._retry.cancel()
        while self._waiting:
            control.close_all(self._waiting.popleft()[1])

    def _try(self, message: Struct, descriptors: Sequence[int]) -> bool:
        """False: not now; `_go_on` comes when it may."""
        try:
            control.send(self._sock, message, list(descriptors))
        except BlockingIOError:
            self._loop.add_writer(self._sock.fileno(), self._go_on)
            return False
        except OSError as exc:
            if exc.errno in _LATER:
                self._loop.remove_writer(self._sock.fileno())
                self._retry = self._loop.call_later(RETRY_S, self._go_on)
                return False
            self.close()
        return True

    def _go_on(self) -> None:
        while self._waiting:
            message, descriptors = self._waiting[0]
            if not self._try(message, descriptors):
                return
            if self._is_closed:
                return
            self._waiting.popleft()
            control.close_all(descriptors)
        self._loop.remove_writer(self._sock.fileno())
