"""The calls of one lane, without sockets and threads: inputs to a published call, reply entries to named results.

How calls go in: `huterox.lane_requests`. Small results are copied out, which costs less than watching them; a large one
stays in its block until the last view of it has gone, and the container has room for others.

A call ends once: answered, failed, late, cancelled, lost with the container, or given back (LaneGone) because the
container had not begun it.

Not thread-safe: the shell's lock is held for everything but `outcome` and what garbage collection does.
"""

from math import inf
from typing import Any, Final

import numpy as np

from huterox.codec import decode_result
from huterox.core import Limits, decode_answer
from huterox.lane_call import Answer, LaneCall
from huterox.lane_requests import LaneMemory, LaneRequests
from huterox.lease import LaneGone
from huterox_shm.lane import DEFINES, PART, REPLY, CallerEnd
from huterox_wire.errors import Busy, Cancelled, DeadlineExceeded, Fault, HuteroxError, WorkerLost
from huterox_wire.forms import FORMS_MAX, Form
from huterox_wire.header import Buffer
from huterox_wire.message import decode
from huterox_wire.meta import decode_error, decode_reply

__all__ = ["LaneCall", "LaneCore", "LaneMemory", "ResultMemory", "values_of"]

COPIED_NBYTES_MAX: Final = 8192
"""Answers up to this size are copied out of the lane."""

_ndarray = np.ndarray
_uint8 = np.dtype(np.uint8)


class ResultMemory(np.ndarray[Any, Any]):
    """The block of a large answer: the base of the arrays in it. Goes with its last view."""

    __slots__ = ("core", "offset")
    core: "LaneCore"
    offset: int

    def __del__(self) -> None:
        if (core := getattr(self, "core", None)) is not None:
            core.release(self.offset)


class LaneCore(LaneRequests):
    """The calls of one lane, at its caller's end."""

    def __init__(self, end: CallerEnd, limits: Limits) -> None:
        super().__init__(end, limits)
        self.dropped = False  # a large answer's block, since the container was told
        self._held_nbytes = 0  # no less than that in all; corrected when it is too much
        self._held_nbytes_max = end.layout.reply_half_nbytes // 2
        # So many blocks of copied answers may wait for the next call to tell of them.
        self.releases_max = end.layout.reply_half_nbytes // (16 * COPIED_NBYTES_MAX)
        self._answer_forms: list[Form | None] = [None] * (FORMS_MAX + 1)
        self._buffer = end.buffer

    # --- what a channel asks ----------------------------------------------------------------------------------------

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
        if call.ended:
            return False
        self._fail(call, Cancelled("the call was cancelled by its caller"))
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
        self.next_deadline_s = min((call.deadline_s for call in living if not call.ended), default=inf)
        return late

    def close(self) -> list[LaneCall]:
        """Take no more calls and end those under way."""
        self.closed = self._over = True
        calls = [call for call, _ in self._calls.values() if call is not None and not call.ended]
        for call in calls:
            self._fail(call, Cancelled("the client was closed while the call was under way"))
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
                self._fail(call, LaneGone("the container has ended before the call", call.deadline_s - self._grace_s))
                if call.keeps_request:
                    call.request = self._request_of(call, blocks)
                    call.owner = call if call.goes_on else call.owner
            else:
                self._fail(call, WorkerLost("the container has ended while it had the call", executed="maybe"))
            ended.append(call)
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
        news: list[LaneCall] = []
        append = news.append
        forms = self._answer_forms
        buffer = self._buffer
        release = self.end.release
        for call, _, kind, flags, number, offset, nbytes in self.end.take():
            if flags & DEFINES or call is None or call.ended:
                self._take_other(kind, flags, number, offset, nbytes)
                continue
            form = forms[number] if number <= FORMS_MAX else None
            if nbytes <= COPIED_NBYTES_MAX:
                answer = (form, buffer[offset : offset + nbytes])
                if nbytes:
                    release(offset)
            else:
                answer = (form, self._hold(offset, nbytes))
            if kind == PART:
                self._on_part(call, answer, nbytes)
            elif kind == REPLY:
                call.answer = answer
                call.ended = True
            else:
                self._on_error(call, answer[1])
            append(call)
        return news

    def _hold(self, offset: int, nbytes: int) -> "ResultMemory | bytes":
        """The bytes of a large answer, where they are; copied out if so much is held already that the container might
        soon find no room for others."""
        size = 1 << (nbytes - 1).bit_length()
        self._held_nbytes += size
        if self._held_nbytes > self._held_nbytes_max:
            self._held_nbytes = size + sum(self.held.values())
            if self._held_nbytes > self._held_nbytes_max:
                data: bytes = self._buffer[offset : offset + nbytes]
                self.end.release(offset)
                self.dropped = True
                return data
        self.held[offset] = size
        memory = ResultMemory(nbytes, _uint8, self.end.readable, offset)
        memory.core = self
        memory.offset = offset
        return memory

    def release(self, offset: int) -> None:
        """Nobody looks at the block of an answer any more. Any thread, any moment."""
        self.held.pop(offset, None)
        self.end.release(offset)
        self.dropped = True

    def tell_releases(self) -> None:
        """Let the container have its blocks back now, not with the next call: it may be waiting for them.

        Raises:
            LaneDead, PeerProtocolError: as `flush`.
        """
        self.dropped = False
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
        if len(call.parts) > self._limits.stream_parts_max:
            limit = self._limits.stream_parts_max
            error = Busy(f"the stream's reader is too slow: {limit} parts wait for it", parts_limit=limit)
            self._fail(call, error)
            self.send_cancel(call)

    def _on_error(self, call: LaneCall, data: Buffer) -> None:
        if len(data):
            try:
                error = decode_error(decode([memoryview(data)]).meta)
            except HuteroxError as exc:
                error = Fault(f"the container sent a malformed error: {exc}")
        else:
            count, nbytes = len(self.held), sum(self.held.values())
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
