"""The client without its sockets: which calls are under way, what ends them, which answer belongs to which.

Problem: many calls share one connection; answers come in any order, in parts, late, or never; callers may be threads or
coroutines. Idea: one table from request id to `Call`. A shell sends the frames that it is given here, hands every
message that arrives to `on_frames`, asks `expire` about the time, and wakes whoever waits for the calls that these
return. Decoding an answer is left to the caller's own thread (`Call.outcome`).

Full: `add` refuses with `Busy` beyond `Limits`; a stream whose reader is too slow ends with `Busy`. Dead: a call that
nobody answers ends by itself as `DeadlineExceeded`, a little after its deadline, so that the switchboard's own answer,
which knows more, comes first when there is one.

Not thread-safe: `add`, `cancel`, `expire`, `on_frames` and `close` need the shell's lock; `prepare` does not.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from math import inf
from typing import Any, Final

from huterox.unread import Unread
from huterox_wire.errors import Busy, Cancelled, DeadlineExceeded, Fault, HuteroxError, InvalidInput, Unavailable
from huterox_wire.header import HEADER_NBYTES, REQUEST_ID, Buffer, pack_header, unpack_header
from huterox_wire.kinds import Flag, Kind
from huterox_wire.limits import BUDGET_US_MAX
from huterox_wire.message import Message, decode, encode
from huterox_wire.meta import decode_error

_REPLY: Final = int(Kind.REPLY)
_ERROR: Final = int(Kind.ERROR)
_PART: Final = int(Kind.PART)
_STREAM: Final = int(Flag.STREAM)

LOST_CONNECTION: Final = "the connection to the switchboard was lost with the call"
LOST_MESSAGE: Final = "the answer was lost: a signal handler raised while it was received"

LANE_SPIN_US: Final = 50
"""How long a thread looks for a lane's answer before it sleeps, unless the user says otherwise."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Every bound of one client: of its connection, and of each of its lanes."""

    in_flight_max: int = 4096
    in_flight_nbytes_max: int = 2 * 1024**3
    stream_parts_max: int = 16384  # parts that have arrived and that nobody has taken yet
    stream_nbytes_max: int = 256 * 1024**2
    parts_nbytes_max: int = 512 * 1024**2  # of all streams together, of the connection and of each lane
    unread_nbytes_max: int = 512 * 1024**2  # answers of futures that nobody has read, likewise
    grace_s: float = 0.1  # how long after a call's deadline its answer is still waited for
    lanes_max: int = 64  # of one client; services beyond that stay routed
    lane_spin_us: int = LANE_SPIN_US  # how long a thread looks for a lane's answer before it sleeps; see `spinning`
    lane_waits: bool = True  # a call for which its lane has no room waits for it; otherwise it is Busy at once


class Call:
    """One request under way. The core ends it; the shell wakes whoever waits for it.

    Attributes:
        ended: the call has ended; `outcome` tells how.
        parts: pieces of a streamed reply that nobody has taken yet, as frames. None for a call that takes none.
        unattended: nobody may be waiting for it (a future, a stream), so somebody must read on its behalf.
        owner: what the shell attaches to be told of the end.
        foreign: a thread that no signal can interrupt has made it, or waits for it.
        reader: a future or task, referred to weakly, in which an answer may wait for long; None: a thread waits.
    """

    __slots__ = (
        "answer",
        "deadline_s",
        "ended",
        "error",
        "foreign",
        "frames",
        "nbytes",
        "owner",
        "parts",
        "parts_nbytes",
        "reader",
        "request_id",
        "timeout_s",
        "unattended",
    )

    def __init__(self, request_id: int, timeout_s: float, frames: list[Buffer], nbytes: int, stream: bool) -> None:
        self.request_id = request_id
        self.timeout_s = timeout_s
        self.frames = frames
        self.nbytes = nbytes
        self.deadline_s = inf
        self.parts: deque[Sequence[Buffer]] | None = deque() if stream else None
        self.parts_nbytes = 0
        self.answer: Sequence[Buffer] | None = None
        self.error: HuteroxError | None = None
        self.ended = False
        self.unattended = False
        self.foreign = False
        self.owner: Any = None
        self.reader: Any = None

    def outcome(self) -> Message:
        """Hot path. The REPLY that ended the call.

        Raises:
            HuteroxError: what ended the call instead; `Fault` where the answer makes no sense.
        """
        if self.error is not None:
            raise self.error
        if self.answer is None:
            raise Fault("the call has not ended yet")
        message = decode_answer(self.answer)
        if message.header.kind == _ERROR:
            self.error = _decode_error(message)
            raise self.error
        return message


class ClientCore:
    """The calls of one connection."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._ids = count(1)
        self._pending: dict[int, Call] = {}
        self._nbytes = 0
        self._closed: HuteroxError | None = None
        self.unattended_count = 0
        self.foreign_count = 0
        self.parts_nbytes = 0  # of all streams
        self.unread = Unread(limits.unread_nbytes_max)
        self.news: list[Call] = []
        """Calls that have ended or have one more part. The shell tells whoever waits, then clears it."""
        self.strays = 0  # messages that belong to no call: late answers, garbage
        # No call ends by itself before this. Only a lower bound: it is corrected when it is reached, so that an
        # answered call, the common case, costs nothing here.
        self.next_deadline_s = inf

    @property
    def in_flight_count(self) -> int:
        return len(self._pending)

    @property
    def closed(self) -> bool:
        return self._closed is not None

    def prepare(
        self, kind: int, handle: int, meta: bytes, tensors: Sequence[Buffer], timeout_s: float, *, stream: bool = False
    ) -> Call:
        """Hot path. A new call with its frames, not under way yet. Needs no lock.

        Raises:
            InvalidInput: a timeout that is not above zero and at most a day.
            TooLarge: more bytes than one message carries.
        """
        try:
            budget_us = int(timeout_s * 1e6)
        except (TypeError, ValueError, OverflowError):
            budget_us = 0
        if not 0 < budget_us <= BUDGET_US_MAX:
            budget_us = _checked_budget_us(timeout_s)
        request_id = next(self._ids)
        frames = encode(kind, request_id, handle, budget_us, meta, tensors, _STREAM if stream else 0)
        nbytes = len(frames[0]) if len(frames) == 1 else sum(map(len, frames))
        return Call(request_id, timeout_s, frames, nbytes, stream)

    def renew(self, call: Call, handle: int, now_s: float) -> Call:
        """The same request for another handle, with the time that `call` has left, not under way yet.

        Raises:
            DeadlineExceeded: no time is left.
        """
        timeout_s = call.deadline_s - self._limits.grace_s - now_s
        if timeout_s <= 0:
            raise _too_late(call)
        old = unpack_header(call.frames[0])
        request_id = next(self._ids)
        budget_us = max(1, int(timeout_s * 1e6))
        header = pack_header(old.kind, old.flags, old.tensor_count, request_id, handle, budget_us, old.meta_nbytes)
        frames: list[Buffer] = [header + bytes(call.frames[0][HEADER_NBYTES:]), *call.frames[1:]]
        return Call(request_id, timeout_s, frames, call.nbytes, call.parts is not None)

    def add(self, call: Call, now_s: float) -> None:
        """Hot path. The call is under way from now on; the caller sends its frames.

        Raises:
            Busy: too many calls, or too many bytes, are in flight on this connection.
            Unavailable: the connection is closed.
        """
        pending = self._pending
        nbytes = self._nbytes + call.nbytes
        limits = self._limits
        if self._closed is not None or len(pending) >= limits.in_flight_max or nbytes > limits.in_flight_nbytes_max:
            self._check_room(call)
        call.deadline_s = deadline_s = now_s + call.timeout_s + limits.grace_s
        if deadline_s < self.next_deadline_s:
            self.next_deadline_s = deadline_s
        pending[call.request_id] = call
        self._nbytes = nbytes
        if call.unattended:
            self.unattended_count += 1
        if call.foreign:
            self.foreign_count += 1

    def share(self, call: Call) -> None:
        """Another thread waits for it from now on."""
        if not call.foreign:
            call.foreign = True
            self.foreign_count += call.request_id in self._pending

    def _check_room(self, call: Call) -> None:
        if self._closed is not None:
            raise Unavailable("this client is closed", retryable=False)
        limits = self._limits
        if len(self._pending) >= limits.in_flight_max:
            raise Busy(
                f"{limits.in_flight_max} calls are in flight on this connection, which is its limit",
                limit=limits.in_flight_max,
            )
        if self._pending:
            raise Busy(
                f"{self._nbytes} bytes are in flight on this connection; {call.nbytes} more would pass its limit of"
                f" {limits.in_flight_nbytes_max}",
                need=call.nbytes,
                in_flight=self._nbytes,
                limit=limits.in_flight_nbytes_max,
            )

    def on_frames(self, frames: Sequence[Buffer]) -> Call | None:
        """Hot path. Match one message with its call. None: nobody waits for it.

        Returns:
            The call, ended, or with one more part.
        """
        first = frames[0]
        if len(first) < HEADER_NBYTES:
            self.strays += 1
            return None
        call = self._pending.get(int.from_bytes(first[REQUEST_ID], "little"))
        kind = first[3]
        if call is None or (kind != _REPLY and kind != _ERROR):
            return self._on_part(call, kind, frames)
        if call.reader is not None and self._is_too_much(call, frames):
            frames = ()
        call.answer = frames or None
        self._end(call)
        return call

    def _is_too_much(self, call: Call, frames: Sequence[Buffer]) -> bool:
        """Whether so many answers wait to be read that this one is dropped."""
        reader = call.reader()
        call.error = None if reader is None else self.unread.check(reader, sum(map(len, frames)))
        return call.error is not None

    def _on_part(self, call: Call | None, kind: int, frames: Sequence[Buffer]) -> Call | None:
        if call is None or kind != _PART or call.parts is None:
            self.strays += 1
            return None
        self.news.append(call)
        if not call.parts or call.parts[-1] is not frames:
            call.parts.append(frames)
            part_nbytes = sum(map(len, frames))
            call.parts_nbytes += part_nbytes
            self.parts_nbytes += part_nbytes
        limits = self._limits
        nbytes = call.parts_nbytes
        count = len(call.parts)
        # One part alone may be as large as any message.
        is_over = nbytes > limits.stream_nbytes_max or self.parts_nbytes > limits.parts_nbytes_max
        if count > limits.stream_parts_max or (is_over and count > 1):
            call.error = Busy(
                f"the stream's reader is too slow: {len(call.parts)} parts of {nbytes} bytes wait for it",
                parts=len(call.parts),
                parts_limit=limits.stream_parts_max,
                nbytes_limit=limits.stream_nbytes_max,
            )
            self._end(call)
        return call

    def take_part(self, call: Call) -> Sequence[Buffer]:
        """The next part of a stream; there is one while its `parts` is not empty."""
        if not call.parts:
            raise Fault("no part has come")
        frames = call.parts.popleft()
        nbytes = sum(map(len, frames))
        call.parts_nbytes -= nbytes
        self.parts_nbytes -= nbytes
        return frames

    def drop_parts(self, call: Call) -> None:
        """Nobody will take the parts of this stream."""
        if call.parts:
            self.parts_nbytes -= call.parts_nbytes
            call.parts_nbytes = 0
            call.parts.clear()

    def _end(self, call: Call) -> None:
        """Hot path."""
        self.news.append(call)
        call.ended = True
        del self._pending[call.request_id]
        self._nbytes -= call.nbytes
        if call.unattended:
            self.unattended_count -= 1
        if call.foreign:
            self.foreign_count -= 1

    def mend(self) -> None:
        """After an exception has left a method half done: sums are made anew, calls that have ended leave."""
        for call in list(self._pending.values()):
            call.parts_nbytes = sum(sum(map(len, frames)) for frames in call.parts or ())
            if call.ended:
                self.news.append(call)
                del self._pending[call.request_id]
        self._nbytes = sum(call.nbytes for call in self._pending.values())
        self.unattended_count = sum(call.unattended for call in self._pending.values())
        self.foreign_count = sum(call.foreign for call in self._pending.values())
        self.next_deadline_s = 0.0  # found anew

    def pending_ids(self) -> frozenset[int]:
        """The request ids of the calls under way."""
        return frozenset(self._pending)

    def lose(self, calls: Iterable[int], why: str) -> None:
        """End those of these calls that are still under way, for nobody would answer them."""
        for request_id in calls:
            if (call := self._pending.get(request_id)) is not None:
                call.error = Unavailable(why, executed="maybe")
                self._end(call)

    def break_streams(self) -> list[Call]:
        """A message was lost, perhaps a part: end the streams. The caller sends `cancel_frame` for each."""
        streams = [call for call in self._pending.values() if call.parts is not None]
        for call in streams:
            call.error = Cancelled("the stream ended when a signal handler raised while a part of it was received")
            self._end(call)
        return streams

    def cancel(self, call: Call) -> bool:
        """Give a call up. False: it had ended before. The caller sends `cancel_frame(call)`."""
        self.drop_parts(call)
        if self._pending.get(call.request_id) is not call:
            return False
        call.error = Cancelled("the call was cancelled by its caller")
        self._end(call)
        return True

    def expire(self, now_s: float) -> list[Call]:
        """End the calls whose time is over; the caller sends `cancel_frame` for each."""
        if now_s < self.next_deadline_s:
            return []
        late = [call for call in self._pending.values() if call.deadline_s <= now_s]
        for call in late:
            call.error = _too_late(call)
            self._end(call)
        self.next_deadline_s = min((call.deadline_s for call in self._pending.values()), default=inf)
        return late

    def close(self) -> list[Call]:
        """Take no more calls and end those under way; the caller sends `cancel_frame` for each."""
        self._closed = Unavailable("this client is closed", retryable=False)
        calls = list(self._pending.values())
        for call in calls:
            call.error = Cancelled("the client was closed while the call was under way")
            self._end(call)
        return calls


def cancel_frame(call: Call) -> bytes:
    """The CANCEL of a call, one frame."""
    return pack_header(int(Kind.CANCEL), int(Flag.PACKED), 0, call.request_id)


def decode_answer(frames: Sequence[Buffer]) -> Message:
    """Hot path. Take an answer apart. Raises Fault where it is malformed: the other side broke the wire."""
    try:
        return decode(frames)
    except HuteroxError as exc:
        raise Fault(f"the switchboard sent a malformed answer: {exc}") from exc


def _decode_error(message: Message) -> HuteroxError:
    try:
        return decode_error(message.meta)
    except HuteroxError as exc:
        return Fault(f"the switchboard sent a malformed error: {exc}")


def _too_late(call: Call) -> DeadlineExceeded:
    return DeadlineExceeded(f"no answer within {call.timeout_s:g} s", timeout_s=call.timeout_s)


def _checked_budget_us(timeout_s: float) -> int:
    limit_s = BUDGET_US_MAX / 1e6
    if not isinstance(timeout_s, int | float) or not 0 < timeout_s <= limit_s:
        raise InvalidInput(f"a timeout is above 0 and at most {limit_s:g} s, got {timeout_s!r}", limit=limit_s)
    return 1  # under a microsecond
