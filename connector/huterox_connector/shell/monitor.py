"""Connections of one socket that come and go, as ZeroMQ tells of them: how many, not whose."""

from asyncio import AbstractEventLoop
from collections.abc import Callable
from typing import Final

import zmq
from zmq.utils.monitor import recv_monitor_message

_POLLIN: Final = int(zmq.POLLIN)


class Monitor:
    """Calls `heard(came, went)` from the loop. Owns a socket until `close`.

    Begins to listen at once, so that nothing is missed before `start`.
    """

    def __init__(self, watched: "zmq.Socket[bytes]", heard: Callable[[int, int], None]) -> None:
        self._watched = watched
        self._heard = heard
        self._socket: zmq.Socket[bytes] = watched.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        self._loop: AbstractEventLoop

    def start(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        loop.add_reader(self._socket.FD, self._read)
        loop.call_soon(self._read)

    def close(self) -> None:
        self._loop.remove_reader(self._socket.FD)
        self._watched.disable_monitor()
        self._socket.close(linger=0)

    def _read(self) -> None:
        """The descriptor is edge-triggered: read on until nothing is there."""
        came = went = 0
        while not self._socket.closed and int(self._socket.getsockopt(zmq.EVENTS)) & _POLLIN:
            if recv_monitor_message(self._socket, zmq.NOBLOCK)["event"] == zmq.EVENT_ACCEPTED:
                came += 1
            else:
                went += 1
        if came or went:
            self._heard(came, went)
