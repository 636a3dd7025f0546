"""The one socket of a client, and whole messages over it, whatever interrupts the thread that sends or receives.

Problem: in the main thread pyzmq runs signal handlers after every step of libzmq. One that raises there takes a frame
along that has come, and nobody knows whether a frame that was to be sent is out. Idea: nobody has to know. An empty
frame ends whatever message may be unfinished: it is refused as a whole, or is a message of its own, which is refused
too. Of what was received, the message that may lack a frame is dropped to its end, which libzmq knows. So one message
may be lost; who reads sees to it that this is no other thread's, and asks what is missing (`Inbox.is_doubtful`).
"""

import os
import threading
import weakref
from collections import deque
from contextlib import suppress
from itertools import repeat
from typing import Any, Final

import zmq
from zmq.utils import garbage

from huterox.core import Limits
from huterox_wire.header import Buffer

COPIED_NBYTES_MAX: Final = 64 * 1024
"""Frames up to this size are copied when they are sent and received; larger ones are not."""

LINGER_MS: Final = 200
NOBLOCK: Final = int(zmq.NOBLOCK)
_SNDMORE: Final = int(zmq.NOBLOCK | zmq.SNDMORE)
_RCVMORE: Final = int(zmq.RCVMORE)
_SIGNS_OF_LIFE: Final = ((zmq.HEARTBEAT_IVL, 5000), (zmq.HEARTBEAT_TIMEOUT, 15000), (zmq.CONNECT_TIMEOUT, 1000))
_UNCOPIED: Final = repeat(False)
_NOWHERE: Final[deque[Any]] = deque(maxlen=0)


class _Transport:
    """A context with one socket. A context that is collected as garbage waits for its sockets, perhaps for ever. So all
    of them are kept in `_open` until they are closed, or dropped."""

    context: "zmq.Context[zmq.Socket[bytes]] | None" = None
    socket: "zmq.Socket[bytes] | None" = None
    monitor: "zmq.Socket[bytes] | None" = None

    def __init__(self) -> None:
        self._pid = os.getpid()

    def close(self) -> None:
        """Let what was sent go out, for a moment, and close. May be done twice."""
        if self.monitor is not None:
            self.monitor.close(0)
        if self.socket is not None:
            self.socket.close(LINGER_MS)
        if self.context is not None:
            self.context.term()
        _open.discard(self)

    def drop(self) -> None:
        """The same in a garbage collection: without waiting, without a lock. What is unsent is lost. In a forked child
        nothing is touched."""
        if self._pid == os.getpid() and self in _open:
            for socket in (self.monitor, self.socket):
                if socket is not None:
                    socket.close(0)
            _dropped.append(self)
            _open.discard(self)


_open: Final[set[_Transport]] = set()
_dropped: Final[deque[_Transport]] = deque()


class Dealer:
    """A DEALER that connects to `endpoint`, and connects again by itself whenever the other side comes back. It may be
    dropped without `close`."""

    def __init__(self, endpoint: str, limits: Limits) -> None:
        transport = _Transport()
        weakref.finalize(self, transport.drop).atexit = False
        _open.add(transport)
        transport.context = zmq.Context()
        transport.socket = self.socket = transport.context.socket(zmq.DEALER)
        self.close = transport.close
        self.socket.linger = LINGER_MS
        # Room for a call and its CANCEL each; what does not fit is refused and never waits.
        self.socket.sndhwm = self.socket.rcvhwm = 2 * limits.in_flight_max
        if endpoint.startswith("tcp:"):  # there a connection can fall silent and not be closed
            for option, value in _SIGNS_OF_LIFE:
                self.socket.setsockopt(option, value)
        transport.monitor = self.monitor = self.socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        self.monitor.getsockopt(zmq.EVENTS)  # its descriptor tells of what comes after it has been asked
        self._frames = self._told = 0  # of the monitor: two for each connection
        self.socket.connect(endpoint)
        if _dropped:
            threading.Thread(target=bury, name="huterox-bury", daemon=True).start()

    def has_reconnected(self) -> bool:
        """Whether there was another connection after the first since `told` was called. To be asked when the monitor's
        descriptor tells of something; it is edge-triggered, so all is read."""
        while int(self.monitor.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            self._frames += 1  # one that an interrupt takes along counts as well
            self.monitor.recv(zmq.NOBLOCK)
        return self._frames > max(self._told, 2)

    def told(self) -> None:
        """Everything that follows from the connections so far has been done."""
        self._told = self._frames


def bury() -> None:
    """Close what was dropped."""
    with suppress(IndexError):
        while True:
            _dropped.popleft().close()


class Outbox:
    """Where messages are sent, whole or not at all."""

    def __init__(self, socket: "zmq.Socket[bytes]") -> None:
        self._send_one: Any = super(zmq.Socket, socket).send  # pyzmq's own in Python costs more
        self._is_unfinished = False

    def send(self, frames: list[Buffer]) -> None:
        """Hot path. Send one message without waiting. Large frames are not copied: their memory stays in use for a
        while.

        Raises:
            zmq.Again: the send queue is full; nothing was sent.
        """
        if self._is_unfinished:
            self._finish()
        if len(frames) == 1:
            self._send_one(frames[0], NOBLOCK)
            return
        if not _lending.is_set():
            _prepare_to_lend()
        ready = [frame if len(frame) <= COPIED_NBYTES_MAX else zmq.Frame(frame, copy=False) for frame in frames]
        copies = [type(frame) is not zmq.Frame for frame in ready]
        flags = [_SNDMORE] * (len(ready) - 1) + [NOBLOCK]
        self._is_unfinished = True
        try:
            # One step in C: only a signal handler can come between.
            _NOWHERE.extend(map(self._send_one, ready, flags, copies))
        except zmq.Again:  # for the first frame or for none
            self._is_unfinished = False
            raise
        self._is_unfinished = False

    def _finish(self) -> None:
        """An unfinished message would swallow the next one."""
        with suppress(zmq.Again):  # it is not in the midst of a message, then
            self._send_one(b"", NOBLOCK)
        self._is_unfinished = False


_lending: Final = threading.Event()
_preparing: Final = threading.Lock()
os.register_at_fork(after_in_child=_lending.clear)


def _prepare_to_lend() -> None:
    """pyzmq starts a thread for frames that are not copied, and is left broken where that is interrupted. So it is done
    once, in a thread that no signal handler runs in.

    It asks for each frame whether that thread is alive. Up to Python 3.12 a handler that raises while a thread is asked
    that marks it as ended (bpo-45274); pyzmq would start another, in vain, for every frame. It ends with the process,
    so the answer is known.
    """
    threading.Thread(target=_lend_once, name="huterox-lend", daemon=True).start()
    _lending.wait()


def _lend_once() -> None:
    with _preparing:
        if not _lending.is_set():
            zmq.Frame(bytes(COPIED_NBYTES_MAX + 1), copy=False)
            if (thread := garbage.gc.thread) is not None:
                thread.is_alive = _yes  # type: ignore[method-assign]
            _lending.set()


def _yes() -> bool:
    return True


class Inbox:
    """What has come by a socket and has not been dealt with.

    To receive is one step in C, so that nothing is lost between the socket and here, but in the main thread; a message
    stays until it is dropped, so who is interrupted while dealing with it finds it again.

    Attributes:
        is_receiving: the main thread receives, or was interrupted while it did.
        is_doubtful: a message may have been lost since this was last set to False.
    """

    def __init__(self, socket: Any) -> None:
        self._receive: Any = socket.recv
        self._option: Any = socket.get
        self._frames: list[zmq.Frame] = []
        self._first: tuple[zmq.Frame, list[Buffer]] | None = None
        self.is_receiving = False
        self.is_doubtful = False

    def fill(self, count: int) -> bool:
        """Hot path. Receive up to so many frames. False: the socket has nothing more."""
        try:
            self._frames.extend(map(self._receive, repeat(NOBLOCK, count), _UNCOPIED))
        except zmq.Again:
            return False
        return True

    def fill_in_main(self, count: int) -> bool:
        """Hot path. The same in the main thread: `mend` is due after an exception."""
        self.is_receiving = True
        more = self.fill(count)
        self.is_receiving = False
        return more

    def mend(self) -> None:
        """After an interrupt: drop the message that may lack a frame. May be done twice."""
        if not self.is_receiving:
            return
        self.is_doubtful = True
        with suppress(zmq.Again):
            while self._option(_RCVMORE):
                self._receive(NOBLOCK)
        while self._frames and self._frames[-1].more:
            self._frames.pop()
        self.is_receiving = False

    def first(self) -> list[Buffer] | None:
        """Hot path. The first message, the same list each time. None: there is none, or not all of it."""
        frames = self._frames
        if not frames:
            return None
        frame = frames[0]
        if (first := self._first) is not None and first[0] is frame:
            return first[1]
        message = [_read_only(frame)]
        index = 0
        while frame.more:
            index += 1
            if index == len(frames):
                return None
            frame = frames[index]
            message.append(_read_only(frame))
        self._first = (frames[0], message)
        return message

    def drop(self, message: list[Buffer]) -> None:
        """Hot path. The first message has been dealt with."""
        del self._frames[: len(message)]
        self._first = None


def _read_only(frame: zmq.Frame) -> Buffer:
    """Hot path. A frame's bytes; small ones are copied, which also aligns them to 16 bytes."""
    return frame.bytes if len(frame) <= COPIED_NBYTES_MAX else frame.buffer.toreadonly()
