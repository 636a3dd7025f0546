"""The asyncio shell's connection: one DEALER socket, drained through its descriptor by the loop.

The descriptor is edge-triggered and only a hint: after every wake and after every send the socket is read until it has
nothing more, in bounded batches. One timer stands for the earliest deadline. `zmq.asyncio` would be three times
slower. Everything here runs in the loop's thread.
"""

import asyncio
import os
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from math import inf
from typing import Any, Final

import zmq

from huterox.core import LOST_CONNECTION, LOST_MESSAGE, Call, ClientCore, Limits, cancel_frame
from huterox.loops import call_weakly, watch_weakly
from huterox.sockets import Dealer, Inbox, Outbox
from huterox.verbs import PENDING_TIMEOUT_S, decode_pending, encode_pending
from huterox_wire.errors import Busy, HuteroxError, InvalidInput
from huterox_wire.kinds import Kind
from huterox_wire.message import Message

_ADMIN: Final = int(Kind.ADMIN)
_BATCH: Final = 256
_EVENTS: Final = int(zmq.EVENTS)
_POLLIN: Final = int(zmq.POLLIN)


class AsyncConnection:
    """One connection to a switchboard, for one event loop."""

    def __init__(self, endpoint: str, limits: Limits, loop: asyncio.AbstractEventLoop) -> None:
        self.endpoint = endpoint
        self.core = ClientCore(limits)
        self.now_s = loop.time
        self._loop = loop
        self._pid = os.getpid()
        self._dealer = Dealer(endpoint, limits)
        self._socket = self._dealer.socket
        self._inbox = Inbox(self._socket)
        self._outbox = Outbox(self._socket)
        self._option: Callable[[int], Any] = self._socket.get
        self._fd = self._socket.FD
        self._notice_fd = self._dealer.monitor.FD
        self._asking: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = inf
        self._finalizer = watch_weakly(
            loop,
            self,
            {self._fd: AsyncConnection._read, self._notice_fd: AsyncConnection._on_notice},
            partial(_keep, self._dealer),
        )

    async def run(self, call: Call) -> Message:
        """Hot path. Send a call, wait until it has ended, and return its REPLY."""
        try:
            self.start(call)
            await self.wait(call)
        except BaseException:
            self.cancel(call)
            raise
        return call.outcome()

    def start(self, call: Call) -> None:
        """Hot path. Send a call."""
        if self._pid != os.getpid():
            raise InvalidInput(
                f"this client belongs to process {self._pid}; after a fork, connect again in the new process"
            )
        self.core.add(call, self._loop.time())
        try:
            self._outbox.send(call.frames)
        except zmq.Again:
            self.core.cancel(call)
            raise Busy(f"the switchboard at {self.endpoint} takes no messages: the send queue is full") from None
        if call.deadline_s < self._timer_s:
            self._arm(call.deadline_s)
        self._read_if_any()

    async def wait(self, call: Call) -> bool:
        """Wait until a part is there (False), or the call has ended and there is none (True)."""
        while not call.parts:
            if call.ended:
                return True
            news = call.owner = self._loop.create_future()
            await news
        return False

    def cancel(self, call: Call) -> None:
        """Give a call up, if it has not ended."""
        if self.core.cancel(call):
            self._send_cancel(call)
            self._tell_news()
            self._read_if_any()

    def _read_if_any(self) -> None:
        """Hot path. Due after every send."""
        if self._option(_EVENTS) & _POLLIN:
            self._read()

    def _on_notice(self) -> None:
        """After a reconnect, ask which calls the switchboard has: the others have nobody who would answer them."""
        if self.core.closed:
            return
        if self._dealer.has_reconnected():
            self._ask_what_is_left(LOST_CONNECTION)
        self._dealer.told()

    def _ask_what_is_left(self, lost: str) -> None:
        if asked := self.core.pending_ids():
            self._asking = self._loop.create_task(self._end_lost(asked, lost))

    async def _end_lost(self, asked: frozenset[int], lost: str) -> None:
        question = self.core.prepare(_ADMIN, 0, encode_pending(), (), PENDING_TIMEOUT_S)
        with suppress(HuteroxError):  # it is not answered, or not understood: they end in their own time
            self.core.lose(asked - decode_pending(await self.run(question)), lost)
            self._tell_news()

    def _mend(self) -> None:
        """A signal handler has raised out of the loop while a message was received, and the loop runs again."""
        self._inbox.mend()
        self.core.mend()
        for call in self.core.break_streams():
            self._send_cancel(call)
        self._ask_what_is_left(LOST_MESSAGE)
        self._inbox.is_doubtful = False

    def _read(self) -> None:
        """Hot path. Take in what has come and let it be known."""
        if self.core.closed:
            return
        inbox = self._inbox
        if inbox.is_receiving:
            self._mend()
        on_frames = self.core.on_frames
        count = _BATCH
        more = True
        while more and count > 0:
            more = inbox.fill_in_main(count)
            while (frames := inbox.first()) is not None:
                call = on_frames(frames)
                inbox.drop(frames)
                count -= 1
                if call is not None and call.ended and call.answer is None:
                    self._send_cancel(call)
                    more = True  # a send may swallow the sign of what comes meanwhile
        self._tell_news()
        if more:
            # The descriptor tells only of what comes after `Again`.
            self._loop.call_soon(self._read)

    def _tell_news(self) -> None:
        """Hot path. Of the calls that have ended, or have one more part."""
        news = self.core.news
        for call in news:
            if call.owner is not None and not call.owner.done():
                call.owner.set_result(None)
        news.clear()

    def _send_cancel(self, call: Call) -> None:
        with suppress(zmq.Again):  # the other side reads nothing, so there is nothing to stop
            self._outbox.send([cancel_frame(call)])

    def _arm(self, deadline_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_s = deadline_s
        self._timer = self._loop.call_at(deadline_s, call_weakly, weakref.ref(self), AsyncConnection._on_time)

    def _on_time(self) -> None:
        late = self.core.expire(self._loop.time())
        for call in late:
            self._send_cancel(call)
        self._tell_news()
        self._timer, self._timer_s = None, inf
        if self.core.next_deadline_s < inf:
            self._arm(self.core.next_deadline_s)
        if late:
            self._read_if_any()

    def close(self) -> None:
        """End the calls that are under way and let go of everything. May be called twice, and after a fork."""
        if self.core.closed or self._pid != os.getpid():
            return
        self._finalizer.detach()
        self._loop.remove_reader(self._fd)
        self._loop.remove_reader(self._notice_fd)
        if self._asking is not None:
            self._asking.cancel()
        if self._timer is not None:
            self._timer.cancel()
        for call in self.core.close():
            self._send_cancel(call)
        self._tell_news()
        self._dealer.close()


def _keep(_: Dealer) -> None:
    """The dealer goes when nothing refers to it any more; up to here the loop's reader has."""
