"""The calls of one lane, without sockets and threads: inputs to a published call, reply entries to named results.

How calls go in: `huterox.lane_requests`. Small results are copied out, which costs less than watching them; a large one
stays in its block until the last view of it has gone, and the container has room for others.

A call ends once: answered, failed, late, cancelled, lost with the container, or given back (LaneGone) because the
container had not begun it.

Not thread-safe: the shell's lock is held for everything but `outcome` and what garbage collection does.
"""

import socket
from math import inf
from typing import Any, Final

import numpy as np

from huterox.codec import decode_result
from huterox.core import Limits, decode_answer
from huterox.lane_call import Answer, LaneCall
from huterox.lane_requests import LaneMemory, LaneRequests, watch
from huterox.lease import LaneGone
from huterox.unread import UNCOUNTED_NBYTES, Unread
from huterox_shm.lane import DEFINES, ERROR, PART, REPLY, CallerEnd
from huterox_wire.errors import Busy, Cancelled, DeadlineExceeded, Fault, HuteroxError, WorkerLost
from huterox_wire.forms import FORMS_MAX, Form
from huterox_wire.header import Buffer
from huterox_wire.message import decode
from huterox_wire.meta import decode_error, decode_reply

__all__ = ["LaneCall", "LaneCore", "LaneMemory", "ResultMemory", "drop_lane", "values_of"]

COPIED_NBYTES_MAX: Final = 8192
"""Answers up to this size are copied out of the lane."""

_ndarray = np.ndarray
_uint8 = np.dtype(np.uint8)


class ResultMemory(np.ndarray[Any, Any]):
    """The block of a large answer: the base of the arrays in it. Goes with its last view."""

    __slots__ = ()


class LaneCore(LaneRequests):
    """The calls of one lane, at its caller's end."""

    def __init__(self, end: CallerEnd, limits: Limits) -> None:
        super().__init__(end, limits)
        self.parts_nbytes = 0  # of all streams
        self.unread = Unread(limits.unread_nbytes_max)
        self._held_nbytes = 0  # no less than that in all; corrected when it is too much
        self._held_nbytes_max = end.layout.reply_half_nbytes // 2
        # So many blocks of copied answers may wait for the next call to tell of them.
        self.releases_max = end.layout.reply_half_nbytes // (16 * COPIED_NBYTES_MAX)
        self._answer_forms: list[Form | None] = [None] * (FORMS_MAX + 1)
        self._buffer = end.buffer
        self.news: list[LaneCall] = []
        """Calls that have ended or have one more part. The shell tells whoever waits, then clears it."""
        self._delivery: tuple[int, Answer] | None = None  # the reply that is being delivered, and what it brings

    # --- what a channel asks ----------------------------------------------------------------------------------------

    foreign_count = 0  # whoever reads, nothing is lost

    def share(self, call: LaneCall) -> None:
        """The call is foreign from now on."""
        call.foreign = True

    @property
    def in_flight_count(self) -> int:
        """Calls that the container has not answered, also those that nobody waits for any more."""
        return len(self._calls)

    @property
    def unattended_count(self) -> int:
        """The same: while there are any, somebody must read. None once this is closed."""
        return 0 if self.closed else len(self._calls)

    def cancel(self, call: LaneCall) -> bool:
        """Give a call up. False: it had ended before."""
        self.drop_parts(call)
        if call.ended:
            return False
        self._fail(call, Cancelled("the call was cancelled by its caller"))
        self.news.append(call)
        return True

    def expire(self, now_s: float) -> list[LaneCall]:
        """End the calls whose time is over; the shell sends their cancellation."""
        if now_s < self.next_deadline_s:
            return []
        living = [call for call, _ in self._calls.values() if call is not None and not call.ended]
        late = [call for call in living if call.deadline_s <= now_s]
        for call in late:
            timeout_s = call.timeout_s
            self._fail(call, DeadlineExceeded(f"no answer within {timeout_s:g} s", timeout_s=timeout_s))
        self.news += late
        self.next_deadline_s = min((call.deadline_s for call in living if not call.ended), default=inf)
        return late

    def close(self) -> list[LaneCall]:
        """Take no more calls and end those under way."""
        self.closed = self._over = True
        calls = [call for call, _ in self._calls.values() if call is not None and not call.ended]
        for call in calls:
            self._fail(call, Cancelled("the client was closed while the call was under way"))
        self.news += calls
        return calls

    def let_go(self) -> None:
        """After the end is closed: hold no more of its memory than results lie in, which keep it by themselves. A
        future of a closed lane may live long."""
        self._forms.clear()
        self._buffer = self._state = None
        self._out = {}

    def lose(self, graceful: bool) -> list[LaneCall]:
        """The lane is over; every call ends.

        Args:
            graceful: the container has ended, or has been seen to work nothing off any more, so that what it says
                about the calls that it has begun is final.
        Returns:
            The calls that have ended by this.
        """
        self._over = True
        begun = self.end.begun if graceful else inf
        ended = []
        for call_id, (call, blocks) in self._calls.items():
            if call is None or call.ended:
                continue
            if call_id > begun:
                if call.keeps_request:
                    call.request = self._request_of(call, blocks)
                    call.owner = call if call.goes_on else call.owner
                self._fail(call, LaneGone("the container has ended before the call", call.deadline_s - self._grace_s))
            else:
                self._fail(call, WorkerLost("the container has ended while it had the call", executed="maybe"))
            ended.append(call)
        self.news += ended
        self._calls.clear()
        return ended

    def _fail(self, call: LaneCall, error: Exception) -> None:
        call.error = error
        call.ended = True

    # --- answers in -------------------------------------------------------------------------------------------------

    def take(self) -> list[LaneCall]:
        """Hot path. Take in what has come. Returns the calls that have ended or have one more part.

        Raises:
            LaneDead: the lane is over, and nothing is left to take.
            PeerProtocolError: the container wrote nonsense.
        """
        if self._gone:
            self.tend()
        self.end.gather()
        if self.end.replies:
            self._deliver()
        return self.news

    def _deliver(self) -> None:
        """Hot path. Give each reply to its call. An exception may come between any two steps: then the reply is still
        there, and `_redeliver` goes on."""
        forms = self._answer_forms
        buffer = self._buffer
        release = self.end.release
        replies = self.end.replies
        append = self.news.append
        for index, (call, _, kind, flags, number, offset, nbytes) in list(replies.items()):
            if flags & DEFINES or call is None or call.ended:
                self._take_other(kind, flags, number, offset, nbytes)
                del replies[index]
                continue
            form = forms[number] if number <= FORMS_MAX else None
            if nbytes <= COPIED_NBYTES_MAX:
                answer = (form, buffer[offset : offset + nbytes])
                self._delivery = (index, answer)
                if nbytes:
                    release(offset)
            else:
                answer = self._hold(index, form, offset, nbytes)
            if kind == PART:
                self._on_part(call, answer, nbytes)
            elif kind == REPLY:
                if nbytes < UNCOUNTED_NBYTES or call.reader is None or not self._is_too_much(call, nbytes):
                    call.answer = answer
                call.ended = True
            else:
                self._on_error(call, answer[1])
            append(call)
            del replies[index]
        self._delivery = None

    def mend(self) -> None:
        """See `LaneRequests.mend`. Calls that have ended, and whom the shell may not have told, are news again."""
        super().mend()
        self._held_nbytes = self._held_nbytes_max + 1  # counted anew
        if self.end.replies:
            self._redeliver(*next(iter(self.end.replies.items())))
            self._deliver()
        self._delivery = None
        self.news += [call for call, _ in self._calls.values() if call is not None and (call.ended or call.parts)]

    def _redeliver(self, index: int, reply: Any) -> None:
        """The first reply may have been delivered in part: do what is left of it."""
        call, _, kind, _, _, offset, nbytes = reply
        if self._delivery is None or self._delivery[0] != index:
            if nbytes and self.end.is_released(offset):
                del self.end.replies[index]  # nobody's news
            return
        answer = self._delivery[1]
        if type(answer[1]) is ResultMemory:
            self._watch(answer[1], offset, nbytes)
        elif nbytes and not self.end.is_released(offset):
            self.end.release(offset)
        if kind == PART and not (call.parts and call.parts[-1] is answer) and not call.ended:
            self._on_part(call, answer, nbytes)
        elif kind == REPLY and not call.ended:
            call.answer = None if call.error is not None else answer
            call.ended = True
        elif kind == ERROR and not call.ended:
            self._on_error(call, answer[1])
        self.news.append(call)
        del self.end.replies[index]

    def _watch(self, memory: ResultMemory, offset: int, nbytes: int) -> None:
        watched = self.watched.get(offset)
        if watched is None or watched() is not memory:
            self.watched[offset] = watch(memory, offset, 1 << (nbytes - 1).bit_length(), self._gone)

    def _hold(self, index: int, form: Form | None, offset: int, nbytes: int) -> Answer:
        """The bytes of a large answer, where they are; copied out if so much is held already that the container might
        soon find no room for others."""
        size = 1 << (nbytes - 1).bit_length()
        self._held_nbytes += size
        if self._held_nbytes > self._held_nbytes_max:
            self._held_nbytes = size + self.held_nbytes
            if self._held_nbytes > self._held_nbytes_max:
                answer: Answer = (form, self._buffer[offset : offset + nbytes])
                self._delivery = (index, answer)
                self.end.release(offset)
                self.dropped = True
                return answer
        memory = ResultMemory(nbytes, _uint8, self.end.readable, offset)
        answer = (form, memory)
        self._delivery = (index, answer)
        self.watched[offset] = watch(memory, offset, size, self._gone)
        return answer

    def tell_releases(self) -> None:
        """Let the container have its blocks back now, not with the next call: it may be waiting for them.

        Raises:
            LaneDead, PeerProtocolError: as `flush`.
        """
        self.dropped = False
        if self._gone:
            self.tend()
        self.end.flush_releases()

    def _take_other(self, kind: int, flags: int, number: int, offset: int, nbytes: int) -> None:
        """What is nobody's news: a form, the answer to one that was told, and answers that come too late."""
        if flags & DEFINES and kind == PART and 0 < number <= FORMS_MAX:
            meta = self._buffer[offset : offset + nbytes]
            try:
                self._answer_forms[number] = Form(number, meta, decode_reply(meta).tensors)
            except HuteroxError:
                self._answer_forms[number] = None  # answers of this form are malformed
        if nbytes:
            self.end.release(offset)

    def _on_part(self, call: LaneCall, answer: Answer, nbytes: int) -> None:
        if call.parts is None:
            return
        call.parts.append(answer)
        call.parts_nbytes += nbytes
        self.parts_nbytes += nbytes
        limits = self._limits
        count = len(call.parts)
        # One part alone may be as large as any message.
        is_over = call.parts_nbytes > limits.stream_nbytes_max or self.parts_nbytes > limits.parts_nbytes_max
        if count > limits.stream_parts_max or (is_over and count > 1):
            error = Busy(
                f"the stream's reader is too slow: {count} parts of {call.parts_nbytes} bytes wait for it,"
                f" {self.parts_nbytes} bytes in all streams of the lane",
                parts=count,
                parts_limit=limits.stream_parts_max,
                nbytes_limit=limits.stream_nbytes_max,
            )
            self._fail(call, error)
            self.send_cancel(call)

    def _is_too_much(self, call: LaneCall, nbytes: int) -> bool:
        """Whether so many answers wait to be read that this one is dropped."""
        reader = call.reader()
        call.error = None if reader is None else self.unread.check(reader, nbytes)
        return call.error is not None

    def take_part(self, call: LaneCall) -> Answer:
        """The next part; there is one while `parts` is not empty."""
        if not call.parts:
            raise Fault("no part has come")
        answer = call.parts.popleft()
        nbytes = len(answer[1])
        call.parts_nbytes -= nbytes
        self.parts_nbytes -= nbytes
        return answer

    def drop_parts(self, call: LaneCall) -> None:
        """Nobody will take the parts of this stream."""
        if call.parts:
            self.parts_nbytes -= call.parts_nbytes
            call.parts_nbytes = 0
            call.parts.clear()

    def _on_error(self, call: LaneCall, data: Buffer) -> None:
        if len(data):
            try:
                error = decode_error(decode([memoryview(data)]).meta)
            except HuteroxError as exc:
                error = Fault(f"the container sent a malformed error: {exc}")
        else:
            count, nbytes = len(self.watched), self.held_nbytes
            error = Busy(
                f"the lane had no room for the answer: {count} results of {nbytes} bytes are held here; drop them, or"
                " keep copies",
                held_count=count,
                held_nbytes=nbytes,
                executed="yes",
            )
        self._fail(call, error)

    def outcome(self, call: LaneCall) -> dict[str, Any]:
        """Hot path. The result of a call that has ended. Needs no lock.

        Raises:
            HuteroxError: what ended it instead.
            LaneGone: the container has ended without having touched it.
        """
        if call.error is not None:
            raise call.error
        values = call.values
        if values is None:
            if (answer := call.answer) is None:
                raise Fault("the call has not ended yet")
            call.values = values = values_of(answer)
            call.answer = None
        return values


def drop_lane(end: CallerEnd, liveness: socket.socket) -> None:
    """For a lane that was dropped without `close`: in a garbage collection, so neither waits nor takes a lock."""
    liveness.close()
    end.close()


def values_of(answer: Answer) -> dict[str, Any]:
    """Hot path. The named values of an answer. Raises Fault: it is malformed."""
    form, data = answer
    if form is None:
        if not len(data):
            raise Fault("the container sent an answer of a form that it has not told")
        return decode_result(decode_answer([memoryview(data)]))
    if len(data) != form.nbytes:
        raise Fault(f"an answer of {len(data)} bytes, its form has {form.nbytes}")
    values: dict[str, Any] = {}
    try:
        for name, dtype, shape, start, nbytes in form.tensors:
            if dtype is None:
                values[name] = bytes(data[start : start + nbytes])
            else:
                values[name] = _ndarray(shape, dtype, data, start)
    except (ValueError, OverflowError) as exc:
        raise Fault(f"the answer is malformed: {exc}") from exc
    return values
