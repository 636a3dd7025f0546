"""The sync shell: one DEALER socket for all threads of a process. How they share it: see `huterox.channel`.

The socket's descriptor is edge-triggered. Full: see `Limits`; a socket whose peer reads nothing answers `Busy`.
"""

import os
import select
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any, Final

import zmq

from huterox.channel import Channel, Owner
from huterox.core import Call, ClientCore, Limits, cancel_frame
from huterox.sockets import LINGER_MS, NOBLOCK, open_dealer, read_only, receive_rest, send_frames
from huterox_wire.errors import Busy

_STARTS_PER_READ: Final = 16
_BATCH: Final = 256  # messages read under one hold of the lock
_EVENTS: Final = int(zmq.EVENTS)
_POLLIN: Final = int(zmq.POLLIN)


class Connection(Channel[Call]):
    """One connection to a switchboard, for all threads of one process."""

    core: ClientCore

    def __init__(self, endpoint: str, limits: Limits) -> None:
        self.endpoint = endpoint
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = open_dealer(self._context, endpoint, limits)
        self._option: Callable[[int], Any] = self._socket.get
        self._starts = 0
        super().__init__(ClientCore(limits))

    def run(self, call: Call) -> None:
        """Hot path. Send a call and wait until it has ended."""
        if self._pid != os.getpid():
            raise self._forked()
        try:
            with self._lock:
                self._begin(call)
                self._read_if_any()
                lead = not (self._led or call.ended)
                if lead:
                    self._led = True
                    self._polled_for = call
        except BaseException:
            self.cancel(call)
            raise
        self._stay(call, lead)

    def start(self, call: Call, owner: Owner[Call] | None) -> None:
        """Hot path. Send a call whose end is told to `owner`, or that is waited for with `wait`."""
        if self._pid != os.getpid():
            raise self._forked()
        call.owner = owner
        call.unattended = True
        with self._lock:
            self._begin(call)
            self._starts += 1
            # Reading in batches costs less. Nobody polls, so whoever takes the lead will read first.
            if self._polled_for is None and self._starts % _STARTS_PER_READ:
                self._unread = True
            else:
                self._read_if_any()
            self._background.look_after()
        if self._ended:
            self.settle_ended()

    def _begin(self, call: Call) -> None:
        """Hot path, under the lock. Send it. Raises HuteroxError: it is not under way."""
        self.core.add(call, monotonic())
        try:
            send_frames(self._socket, call.frames)
        except zmq.Again:
            self.core.cancel(call)
            raise Busy(f"the switchboard at {self.endpoint} takes no messages: the send queue is full") from None

    # --- the channel's hooks ----------------------------------------------------------------------------------------

    def _register_descriptors(self, poller: "select.poll") -> None:
        poller.register(self._socket.FD, select.POLLIN)

    def _read_if_any(self) -> None:
        """Hot path."""
        if self._option(_EVENTS) & _POLLIN:
            self._read()
        else:
            self._unread = False

    def _read(self) -> None:
        """Hot path."""
        self._reads += 1
        self._unread = False
        receive = self._socket.recv
        core = self.core
        for _ in range(_BATCH):
            try:
                frame = receive(NOBLOCK, False)
            except zmq.Again:
                return
            call = core.on_frames([read_only(frame)] if not frame.more else receive_rest(self._socket, frame))
            if call is not None:
                self._tell(call)
                if call.ended and call.answer is None:
                    self._send_cancel(call)
                if not core.in_flight_count:
                    break
        self._leave_unread()  # the descriptor tells only of what comes after `Again`

    def _send_cancel(self, call: Call) -> None:
        with suppress(zmq.Again):  # the other side reads nothing, so there is nothing to stop
            self._socket.send(cancel_frame(call), NOBLOCK)

    def _close_transport(self) -> None:
        self._socket.close(LINGER_MS)
        self._context.term()
