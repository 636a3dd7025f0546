"""Messages to callers, and how much of them waits to be sent: in bytes, for each caller and for all.

Problem: a caller that does not read lets ZeroMQ queue its answers, which counts messages and not bytes, and does not
tell what it holds. Idea: what goes to one caller is sent in order. So every so many bytes one frame is a *mark*, sent
without a copy and tracked: once ZeroMQ is done with it, so it is with all that was sent before.

Full: a caller that has its share waiting is sent nothing more (`STALLED`) until some of it has gone; a message goes out
whatever its size where nothing waits. Gone: ZeroMQ says so when something is sent (`GONE`).

Share: as much as is free in all. So those who do not read leave as much again as any of them has, whoever comes next
has room, and the total is never above its bound: by equal shares, each newcomer would take one beyond what is full.
(Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet switches", 1998, with alpha = 1.)
"""

import errno
import logging
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import zmq

from huterox_wire.header import pack_header
from huterox_wire.kinds import Flag, Kind

_log = logging.getLogger(__name__)

SENT: Final = 0
GONE: Final = 1
STALLED: Final = 2

MARK_NBYTES: Final = 1024 * 1024
"""So many bytes go to a caller between two marks."""

FORGOTTEN_NBYTES: Final = 64 * 1024
"""What a caller was sent may be forgotten where it is no more than this and nothing follows for a while."""

_MORE: Final = zmq.SNDMORE | zmq.NOBLOCK
_LAST: Final = zmq.NOBLOCK
_SIGN_OF_LIFE: Final = pack_header(Kind.HEARTBEAT, Flag.PACKED)


class Mark(NamedTuple):
    """`nbytes` were sent up to here since the mark before. They have left this process when `tracker` is done."""

    tracker: zmq.MessageTracker
    nbytes: int


class Deliveries:
    """Sends on one ROUTER.

    Args:
        caller_nbytes_max: what may wait for one caller.
        nbytes_max: the same for all, beside what went to callers for whom nothing waited, and bytes without a mark.
    """

    def __init__(self, socket: "zmq.Socket[bytes]", caller_nbytes_max: int, nbytes_max: int) -> None:
        # The class underneath: 0.4 us less for each frame than the one that checks what Python gave it.
        self._send: Any = super(zmq.Socket, socket).send
        self._caller_nbytes_max = caller_nbytes_max
        self._nbytes_max = nbytes_max
        self._unmarked: dict[bytes, int] = {}  # by caller: bytes since its last mark
        self._marks: dict[bytes, deque[Mark]] = {}
        self._marked: dict[bytes, int] = {}  # by caller: bytes up to its last mark that wait
        self._nbytes = 0  # of all marks
        self._quiet: set[bytes] = set()  # callers with unmarked bytes, as of the last `sweep`

    @property
    def nbytes(self) -> int:
        """What waits to be sent, as far as it is marked."""
        return self._nbytes

    def send(self, caller: bytes, frames: Sequence[Any]) -> int:
        """Hot path. Send a message, uncopied where its frames came in so: SENT, GONE or STALLED.

        Where it is not SENT, nothing of it has gone.
        """
        nbytes = len(frames[0]) if len(frames) == 1 else sum(map(len, frames))
        unmarked = self._unmarked.get(caller, 0) + nbytes
        if unmarked >= MARK_NBYTES:
            return self._send_marked(caller, frames, unmarked)
        send = self._send
        try:
            send(caller, _MORE)
            for frame in frames[:-1]:
                send(frame, _MORE, False)
            send(frames[-1], _LAST, False)
        except zmq.ZMQError as exc:
            return self._failed(caller, exc)
        self._unmarked[caller] = unmarked
        return SENT

    def _send_marked(self, caller: bytes, frames: Sequence[Any], unmarked: int) -> int:
        """The last frame is the mark."""
        self._settle(caller)
        waiting = self._marked.get(caller, 0)
        if waiting and not self._has_room(waiting + unmarked):
            return STALLED
        last = frames[-1]
        mark = zmq.Frame(last.buffer if isinstance(last, zmq.Frame) else last, True, copy=False, copy_threshold=0)
        try:
            self._send(caller, _MORE)
            for frame in frames[:-1]:
                self._send(frame, _MORE, False)
            self._send(mark, _LAST, False)
        except zmq.ZMQError as exc:
            return self._failed(caller, exc)
        assert mark.tracker is not None
        self._marks.setdefault(caller, deque()).append(Mark(mark.tracker, unmarked))
        self._marked[caller] = waiting + unmarked
        self._nbytes += unmarked
        self._unmarked.pop(caller, None)
        return SENT

    def _has_room(self, nbytes: int) -> bool:
        """May so much wait for one caller, what waits already included?"""
        if nbytes > self._caller_nbytes_max:
            return False
        if nbytes > self._nbytes_max - self._nbytes:
            self.settle()
        return nbytes <= self._nbytes_max - self._nbytes

    def _failed(self, caller: bytes, exc: zmq.ZMQError) -> int:
        if exc.errno != errno.EHOSTUNREACH:
            return STALLED  # it has too many messages waiting
        self._forget(caller)
        return GONE

    def _settle(self, caller: bytes) -> None:
        """Take out the marks that ZeroMQ is done with."""
        marks = self._marks.get(caller)
        if not marks:
            return
        gone = 0
        while marks and marks[0].tracker.done:
            gone += marks.popleft().nbytes
        self._nbytes -= gone
        self._marked[caller] -= gone
        if not marks:
            del self._marks[caller], self._marked[caller]

    def settle(self) -> None:
        """The same for all callers."""
        for caller in list(self._marks):
            self._settle(caller)

    def sweep(self) -> list[bytes]:
        """Mark what was sent to callers that have been sent nothing since the last sweep; who of them has gone.

        So this holds nothing of callers that have left, and knows what waits for those that have not.
        """
        quiet = self._quiet.intersection(self._unmarked)
        for caller in [caller for caller in quiet if self._unmarked[caller] <= FORGOTTEN_NBYTES]:
            quiet.remove(caller)
            del self._unmarked[caller]
        gone = [
            caller for caller in quiet if self._send_marked(caller, [_SIGN_OF_LIFE], self._unmarked[caller]) == GONE
        ]
        self._quiet = set(self._unmarked)
        return gone

    def sign_of_life(self, caller: bytes) -> int:
        """Send a HEARTBEAT, which callers ignore: ZeroMQ tells of a caller that has gone when something is sent."""
        return self.send(caller, [_SIGN_OF_LIFE])

    def _forget(self, caller: bytes) -> None:
        self._unmarked.pop(caller, None)
        self._marks.pop(caller, None)
        self._nbytes -= self._marked.pop(caller, 0)
