"""The sync shell: one DEALER socket for all threads of a process. How they share it: see `huterox.leading`.

The socket's descriptor is edge-triggered. Full: see `Limits`; a socket whose peer reads nothing answers `Busy`.
"""

import os
import select
from collections.abc import Callable
from contextlib import suppress
from threading import get_ident
from time import monotonic
from typing import Any, Final

import zmq

from huterox.channel import Channel
from huterox.core import LOST_CONNECTION, LOST_MESSAGE, Call, ClientCore, Limits, cancel_frame, decode_answer
from huterox.pending import Owner
from huterox.sockets import Dealer, Inbox, Outbox
from huterox.verbs import PENDING_TIMEOUT_S, decode_pending, encode_pending
from huterox_wire.errors import Busy, HuteroxError
from huterox_wire.kinds import Kind
from huterox_wire.message import Message

_STARTS_PER_READ: Final = 16
_BATCH: Final = 256  # messages read under one hold of the lock
_EVENTS: Final = int(zmq.EVENTS)
_POLLIN: Final = int(zmq.POLLIN)
_ADMIN: Final = int(Kind.ADMIN)


class Connection(Channel[Call]):
    """One connection to a switchboard, for all threads of one process."""

    core: ClientCore

    def __init__(self, endpoint: str, limits: Limits) -> None:
        self.endpoint = endpoint
        self._dealer = Dealer(endpoint, limits)
        self._socket = self._dealer.socket
        self._inbox = Inbox(self._socket)
        self._outbox = Outbox(self._socket)
        self._option: Callable[[int], Any] = self._socket.get
        self._starts = 0
        super().__init__(ClientCore(limits))

    def run(self, call: Call) -> None:
        """Hot path. Send a call and wait until it has ended."""
        if self._pid != os.getpid():
            raise self._forked()
        me = get_ident()
        call.foreign = me != self._main
        try:
            with self._lock:
                if self._torn:
                    self._enter_torn()
                self._torn = True
                self._begin(call)
                self._read_if_any()
                lead = not (self._led or call.ended) and (call.foreign or not self.core.foreign_count)
                if lead:
                    self._led = me
                    self._polled_for = call
                self._torn = False
            self._stay(call, lead)
        except BaseException:
            self._recover(call)
            raise

    def start(self, call: Call, owner: Owner[Call] | None) -> None:
        """Hot path. Send a call whose end is told to `owner`, or that is waited for with `wait`."""
        if self._pid != os.getpid():
            raise self._forked()
        call.owner = owner
        call.unattended = True
        call.foreign = get_ident() != self._main
        try:
            with self._lock:
                if self._torn:
                    self._enter_torn()
                self._torn = True
                self._begin(call)
                self._starts += 1
                # Reading in batches costs less. Nobody polls, so whoever takes the lead will read first.
                if self._polled_for is None and self._starts % _STARTS_PER_READ:
                    self._unread = True
                else:
                    self._read_if_any()
                self._background.look_after()
                self._torn = False
            if self._ended:
                self.settle_ended()
        except BaseException:
            self._recover(call)
            raise

    def take_part(self, call: Call) -> Message:
        """The next part of a streamed reply, which is there."""
        try:
            with self._section:
                frames = self.core.take_part(call)
        except BaseException:
            self._recover()
            raise
        return decode_answer(frames)

    def _begin(self, call: Call) -> None:
        """Hot path, under the lock. Send it. Raises HuteroxError: it is not under way."""
        try:
            self.core.add(call, monotonic())
        except HuteroxError:
            self._torn = False
            raise
        try:
            self._outbox.send(call.frames)
        except zmq.Again:
            self.core.cancel(call)
            self.core.news.clear()
            self._torn = False
            raise Busy(f"the switchboard at {self.endpoint} takes no messages: the send queue is full") from None

    # --- the channel's hooks ----------------------------------------------------------------------------------------

    def _register_descriptors(self, poller: "select.poll") -> None:
        poller.register(self._socket.FD, select.POLLIN)
        self._notice_fd = self._dealer.monitor.FD
        poller.register(self._notice_fd, select.POLLIN)

    def _on_notice(self) -> None:
        if self._dealer.has_reconnected():
            self._ask_what_is_left(LOST_CONNECTION)
        self._dealer.told()

    def _ask_what_is_left(self, lost: str) -> None:
        """Ask which calls the switchboard has: the others have nobody who would answer them."""
        asked = self.core.pending_ids()
        if not asked:
            return
        question = self.core.prepare(_ADMIN, 0, encode_pending(), (), PENDING_TIMEOUT_S)
        question.owner = _Remains(self, asked, lost)
        question.unattended = True
        with suppress(HuteroxError):  # no room for it: they end in their own time
            self._begin(question)
        self._torn = True

    def end_lost(self, calls: frozenset[int], lost: str) -> None:
        """End calls that nobody would answer."""
        try:
            with self._section:
                self.core.lose(calls, lost)
                self._tell_news()
        except BaseException:
            self._recover()
            raise
        if self._ended:
            self.settle_ended()

    def _read_if_any(self) -> None:
        """Hot path."""
        if self._option(_EVENTS) & _POLLIN:
            self._read()
        else:
            self._unread = False

    def _read(self) -> None:
        """Hot path."""
        core = self.core
        inbox = self._inbox
        fill = inbox.fill
        if get_ident() == self._main:
            if core.foreign_count:
                self._leave_unread()
                return
            fill = inbox.fill_in_main
        self._reads += 1
        self._unread = False
        count = _BATCH
        more = True
        while more and count > 0:
            more = fill(min(core.in_flight_count, count) or 1)
            while (frames := inbox.first()) is not None:
                call = core.on_frames(frames)
                inbox.drop(frames)
                count -= 1
                if call is not None and call.ended and call.answer is None:
                    self._send_cancel(call)
                    more = True  # a send may swallow the sign of what comes meanwhile
            if not core.in_flight_count:
                break
        self._tell_news()
        if more:
            self._leave_unread()  # the descriptor tells only of what comes after `Again`

    def _mend_core(self) -> None:
        inbox = self._inbox
        inbox.mend()
        self.core.mend()
        if inbox.is_doubtful:  # before the end of a stream is read
            for call in self.core.break_streams():
                self._send_cancel(call)
        self._read()
        if inbox.is_doubtful:
            self._ask_what_is_left(LOST_MESSAGE)
            inbox.is_doubtful = False

    def _send_cancel(self, call: Call) -> None:
        with suppress(zmq.Again):  # the other side reads nothing, so there is nothing to stop
            self._outbox.send([cancel_frame(call)])

    def _close_transport(self) -> None:
        self._dealer.close()


class _Remains:
    """Owner of the question which calls are left."""

    is_watched = False

    def __init__(self, connection: Connection, asked: frozenset[int], lost: str) -> None:
        self._connection = connection
        self._asked = asked
        self._lost = lost

    def settle(self, question: Call) -> None:
        with suppress(HuteroxError):  # it is not answered, or not understood: they end in their own time
            self._connection.end_lost(self._asked - decode_pending(question.outcome()), self._lost)
