"""What goes into a lane: named inputs to a published call.

Problem: at this speed everything that is done for each call shows. Idea: what follows from method, names, dtypes and
shapes is worked out once and kept as a numbered form (see `huterox_wire.forms`): the block's size, where to pop a free
one, and the arrays to copy through. A call of a known form is a dictionary look-up, a copy and a ring entry.

Inputs that lie in the lane already (`empty`) are not copied: the entry names their block.

When the lane is full: LaneFull, nothing has happened. When it takes no calls, or never this one: LaneGone, the call
goes elsewhere.
"""

import struct
import weakref
from collections.abc import Mapping, Sequence
from math import inf
from typing import Any, Final

import numpy as np

from huterox.codec import check_method
from huterox.core import Limits
from huterox.lane_call import LaneCall, Request
from huterox.lane_keys import is_tensor, key_of, plain_arrays
from huterox.lease import LaneGone
from huterox.memory import wanted
from huterox_shm.errors import LaneDead, LaneFull, LaneTooSmall
from huterox_shm.lane import DEFINES, INDIRECT, OPEN, STATE, STREAM, CallerEnd
from huterox_shm.slab import SMALL_NBYTES_MAX
from huterox_wire.errors import Busy, InvalidInput
from huterox_wire.forms import FORMS_MAX, Form, SentForms
from huterox_wire.header import HEADER_NBYTES, pack_header
from huterox_wire.kinds import Flag, Kind
from huterox_wire.limits import BUDGET_US_MAX
from huterox_wire.message import Message, align, check_message_nbytes, decode, packed_nbytes, slice_tensors
from huterox_wire.meta import CallMeta, TensorSpec, decode_call, encode_meta
from huterox_wire.payload import split_values

_REFERENCE: Final = struct.Struct("<QQ")
_TIMEOUT_S_MAX: Final = BUDGET_US_MAX / 1e6
_PACKED: Final = int(Flag.PACKED)
_PAD: Final = bytes(64)
_ndarray = np.ndarray
_uint8 = np.dtype(np.uint8)


class LaneMemory(np.ndarray[Any, Any]):
    """A block that the user fills, all bytes of it: the base of what `empty` gives out. Goes with its last view."""

    __slots__ = ("end", "offset")
    end: CallerEnd
    offset: int


class Watch(weakref.ref[np.ndarray[Any, Any]]):
    """Tells when the last view of a block has gone: it is then in the list that it was made with.

    No destructor, since a destructor can be interrupted, and then it has not run. This is one step.
    """

    __slots__ = ("nbytes", "offset")
    nbytes: int
    offset: int


def watch(memory: np.ndarray[Any, Any], offset: int, nbytes: int, gone: list[Watch]) -> Watch:
    """A watch over `memory`, which lies in the block at `offset`. It works for as long as it lives itself."""
    watch = Watch(memory, gone.append)
    watch.offset = offset
    watch.nbytes = nbytes
    return watch


class LaneRequests:
    """The calls that are put into one lane."""

    def __init__(self, end: CallerEnd, limits: Limits) -> None:
        self.end = end
        self.next_deadline_s = inf  # a lower bound, corrected when it is reached
        self.queued_count = 0  # published and not flushed
        self.watched: dict[int, Watch] = {}  # blocks of answers that somebody still looks at
        self._filled: dict[int, Watch] = {}  # blocks that `empty` gave out
        self._gone: list[Watch] = []  # of both, for `tend`
        self.dropped = False  # a large answer's block, since the container was told
        self.closed = False
        self._over = False  # no calls any more
        self._limits = limits
        self._grace_s = limits.grace_s
        self._calls = end.calls
        self._state = end.header
        self._forms = SentForms()
        self._form = self._forms.get
        self._seen: set[tuple[Any, ...]] = set()  # keys with plain values, of calls that had no form
        self._out = end.out
        self._publish_block = end.publish_block
        self._telling: tuple[Any, ...] | None = None  # the key whose form is being told

    @property
    def open(self) -> bool:
        """Whether new calls are taken."""
        return not self._over and self.end.state == OPEN

    def leave(self) -> None:
        """Take no new calls. Those in flight go on."""
        self._over = True

    # --- a call out -------------------------------------------------------------------------------------------------

    def publish(self, call: LaneCall, method: str, inputs: Mapping[str, Any], timeout_s: float, now_s: float) -> None:
        """Hot path. Queue a call; the container sees it after `flush`.

        Raises:
            LaneGone: the lane takes no new calls, or this one is too large for it.
            LaneFull: no room now.
            InvalidInput, TooLarge: inputs that are not carried, or a timeout that is none.
        """
        if self._over or self._state[STATE] != OPEN:
            raise LaneGone()
        if self._gone:
            self.tend()
        if type(timeout_s) is not float or not 1e-6 <= timeout_s <= _TIMEOUT_S_MAX:
            timeout_s = _checked_timeout_s(timeout_s)
        if len(inputs) == 1 and call.parts is None:
            ((name, value),) = inputs.items()
            if type(value) is _ndarray and type(method) is str:
                try:
                    form = self._form((method, name, value.dtype, value.shape))
                except TypeError:  # a dtype that has no hash: it is not carried
                    form = None
            else:
                form = None
            if (
                form is not None
                and (stack := form.stack)
                and ((base := value.base) is None or type(base) is not LaneMemory)
            ):
                offset = stack[-1]
                self._out[offset] = form.order
                del stack[-1]
                view = form.view.get(offset)
                if view is None:
                    view = form.views_at(self.end.writable, offset)[0]
                view[...] = value
                deadline_s = now_s + timeout_s
                try:
                    call.call_id = self._publish_block(call, offset, form.nbytes, form.number, int(deadline_s * 1e6))
                except LaneFull:
                    self.end.abandon(offset)
                    raise
                call.form = form
                call.timeout_s = timeout_s
                call.deadline_s = deadline_s = deadline_s + self._grace_s
                self.queued_count += 1
                if deadline_s < self.next_deadline_s:
                    self.next_deadline_s = deadline_s
                return
        self._publish_any(call, method, inputs, timeout_s, now_s)

    def _enter(
        self,
        call: LaneCall,
        offset: int,
        nbytes: int,
        number: int,
        flags: int,
        timeout_s: float,
        now_s: float,
        blocks: tuple[int, ...] | None,
    ) -> None:
        """Publish, and note the deadline."""
        deadline_s = now_s + timeout_s
        try:
            call.call_id = self.end.publish_call(call, offset, nbytes, number, flags, int(deadline_s * 1e6), blocks)
        except LaneFull:
            for block in (offset,) if blocks is None else blocks:
                if block and not self.end.is_owned(block):
                    self.end.abandon(block)
            raise
        call.timeout_s = timeout_s
        call.deadline_s = deadline_s = deadline_s + self._grace_s
        self.queued_count += 1
        if deadline_s < self.next_deadline_s:
            self.next_deadline_s = deadline_s

    def _publish_any(
        self, call: LaneCall, method: str, inputs: Mapping[str, Any], timeout_s: float, now_s: float
    ) -> None:
        """Any call: of a form not yet told, of several inputs, of arrays that lie in the lane, of what has no form."""
        check_method(method)
        flags = 0 if call.parts is None else STREAM
        try:
            inputs = plain_arrays(inputs)
            key = key_of(method, inputs)
            form = None if key is None else self._form_of(key, method, inputs)
            if form is None:
                self._publish_whole(call, method, inputs, flags, timeout_s, now_s)
                return
            tensors = [value for value in inputs.values() if is_tensor(value)]
            owned = [self._own_offset(value) for value in tensors]
            offset, blocks, indirect = self._place(form, tensors, owned)
        except LaneTooSmall as exc:
            raise LaneGone(f"the call needs {exc.need} bytes, the lane carries at most {exc.limit}") from exc
        except LaneDead as exc:
            raise LaneGone() from exc
        call.form = form
        nbytes = len(tensors) * _REFERENCE.size if indirect else form.nbytes
        self._enter(call, offset, nbytes, form.number, flags | indirect, timeout_s, now_s, blocks)

    def _place(
        self, form: Form, tensors: Sequence[Any], owned: Sequence[int]
    ) -> tuple[int, tuple[int, ...] | None, int]:
        """Bring the tensors into the lane: (offset, blocks, INDIRECT or 0), as `publish_call` wants them."""
        if not form.nbytes:
            return 0, (), 0
        end = self.end
        if len(tensors) == 1 and owned[0]:
            return owned[0], (owned[0],), 0
        if any(owned):
            return self._place_apart(form, tensors, owned)
        offset = end.claim(form.nbytes)
        for view, value in zip(form.views_at(end.writable, offset), tensors, strict=True):
            if type(view) is memoryview:
                view[:] = value
            else:
                view[...] = value
        return offset, None, 0

    def _place_apart(
        self, form: Form, tensors: Sequence[Any], owned: Sequence[int]
    ) -> tuple[int, tuple[int, ...], int]:
        """Some lie in the lane, others are copied into blocks of their own; a table tells where each is."""
        end = self.end
        fresh: list[int] = []
        try:
            table = end.claim(len(tensors) * _REFERENCE.size)
            fresh.append(table)
            places = []
            for value, offset, (_, dtype, shape, _, nbytes) in zip(tensors, owned, form.tensors, strict=True):
                if not offset:
                    fresh.append(offset := end.claim(nbytes))
                    if dtype is None:
                        end.writable[offset : offset + nbytes] = value
                    else:
                        _ndarray(shape, dtype, end.writable, offset)[...] = value
                places.append(offset)
        except BaseException:
            for offset in fresh:
                end.abandon(offset)
            raise
        for index, (offset, tensor) in enumerate(zip(places, form.tensors, strict=True)):
            _REFERENCE.pack_into(end.writable, table + index * _REFERENCE.size, offset, tensor[4])
        return table, (table, *places), INDIRECT

    def _form_of(self, key: tuple[Any, ...], method: str, inputs: Mapping[str, Any]) -> Form | None:
        try:
            form = self._form(key)
        except TypeError:  # a dtype that has no hash: it is not carried
            return None
        return form or self._new_form(key, method, inputs)

    def _new_form(self, key: tuple[Any, ...], method: str, inputs: Mapping[str, Any]) -> Form | None:
        """A form for a new key. Plain values may be others in every call: they get one when they come again."""
        if not all(is_tensor(value) for value in inputs.values()) and key not in self._seen:
            if len(self._seen) >= FORMS_MAX:
                self._seen.clear()
            self._seen.add(key)
            return None
        return self._tell_form(key, method, inputs)

    def _tell_form(self, key: tuple[Any, ...], method: str, inputs: Mapping[str, Any]) -> Form:
        """Give a call's form a number and tell the container."""
        params, specs, buffers = split_values(inputs)
        end = self.end
        meta = encode_meta(CallMeta(method, params, specs))
        # Both before the container is told of what will never come.
        sizes = [len(buffer) for buffer in buffers]
        check_message_nbytes(packed_nbytes(len(meta), sizes))
        if (need := max(sizes, default=0)) > end.nbytes_max:
            raise LaneTooSmall(need, end.nbytes_max)
        offset = end.claim(len(meta))
        end.write_view(offset, len(meta))[:] = meta
        self._telling = key
        form = self._forms.add(key, meta, specs)
        try:
            end.publish_call(None, offset, len(meta), form.number, DEFINES)
        except LaneFull:
            end.abandon(offset)
            self._forms.forget(key)
            self._telling = None
            raise
        self.queued_count += 1
        if len(form.tensors) == 1 and form.tensors[0][1] is not None and form.nbytes <= SMALL_NBYTES_MAX:
            form.stack = end.free[form.order]
        self._telling = None
        return form

    def _publish_whole(
        self,
        call: LaneCall,
        method: str,
        inputs: Mapping[str, Any],
        flags: int,
        timeout_s: float,
        now_s: float,
    ) -> None:
        """A call whose plain values are no constants: a whole message, as the wire has it."""
        params, specs, buffers = split_values(inputs)
        meta = encode_meta(CallMeta(method, params, specs))
        nbytes = packed_nbytes(len(meta), [len(buffer) for buffer in buffers])
        check_message_nbytes(nbytes)
        offset = self.end.claim(nbytes)
        view = self.end.write_view(offset, nbytes)
        at = HEADER_NBYTES + len(meta)
        view[:HEADER_NBYTES] = pack_header(Kind.CALL, _PACKED, len(specs), meta_nbytes=len(meta))
        view[HEADER_NBYTES:at] = meta
        for buffer in buffers:
            start = align(at)
            view[at:start] = _PAD[: start - at]
            at = start + len(buffer)
            view[start:at] = buffer
        call.nbytes = nbytes
        self._enter(call, offset, nbytes, 0, flags, timeout_s, now_s, None)

    def tend(self) -> None:
        """Give back the blocks that nobody looks at any more."""
        gone = self._gone
        while gone:
            self._on_gone(gone[0])
            del gone[0]  # from the front: others append meanwhile

    def _on_gone(self, gone: Watch) -> None:
        """May be done twice, before anything else is: see `mend`."""
        if self.watched.get(gone.offset) is gone:
            if not self.end.is_released(gone.offset):
                self.end.release(gone.offset)
            self.dropped = True
            del self.watched[gone.offset]
        elif self._filled.get(gone.offset) is gone:
            self.end.disown(gone.offset)
            del self._filled[gone.offset]

    def mend(self) -> None:
        """After an exception has left a method half done: see `CallerEnd.mend`, which raises the same."""
        if self._telling is not None:
            self._forms.forget(self._telling)  # nobody knows whether the container has heard of it
            self._telling = None
        while self._gone:
            self._on_gone(self._gone[0])
            del self._gone[0]
        for offset in self.end.owned:
            if offset not in self._filled:
                self.end.disown(offset)
        self.end.mend()
        for call_id, (call, _) in self._calls.items():
            if call is not None:
                call.call_id = call_id
        self.queued_count = 0
        self.next_deadline_s = 0.0  # found anew

    def flush(self) -> None:
        """Hot path. Show the container what is queued."""
        self.queued_count = 0
        self.end.flush()

    def send_cancel(self, call: LaneCall) -> None:
        """Tell the container that nobody waits for a call any more. Where there is no room, it finds out itself."""
        try:
            self.end.cancel(call.call_id)
            self.flush()
        except (LaneFull, LaneDead):
            pass

    def _request_of(self, call: LaneCall, blocks: int | tuple[int, ...]) -> Request:
        """Read a call that was published and not touched back out of the lane. The bytes are copies."""
        offsets = (blocks,) if isinstance(blocks, int) else blocks
        form = call.form
        readable = self.end.readable
        if form is None:
            return _split(bytes(readable[offsets[0] : offsets[0] + call.nbytes]))
        if len(offsets) > 1:
            places = list(offsets[1:])
        else:
            places = [offsets[0] + start if offsets else 0 for _, _, _, start, _ in form.tensors]
        sizes = [nbytes for _, _, _, _, nbytes in form.tensors]
        return form.meta, [bytes(readable[at : at + size]) for at, size in zip(places, sizes, strict=True)]

    # --- memory to fill ---------------------------------------------------------------------------------------------

    def empty(self, shape: int | Sequence[int], dtype: Any) -> np.ndarray[Any, Any]:
        """An uninitialised array in the lane. Nothing is copied when it is passed to a call.

        Raises:
            LaneGone: the lane takes no calls, or the array is too large for it.
            Busy: no room now.
            InvalidInput: no such array can be.
            TooLarge: no call takes one.
        """
        shape, dtype, nbytes = wanted(shape, dtype)
        end = self.end
        if self._gone:
            self.tend()
        try:
            offset = end.claim(nbytes or 1)
        except LaneFull as exc:
            raise self.full(exc) from exc
        except LaneTooSmall as exc:
            raise LaneGone(str(exc)) from exc
        except LaneDead as exc:
            raise LaneGone() from exc
        end.own(offset)
        memory = LaneMemory(nbytes, _uint8, end.writable, offset)
        memory.end = end
        memory.offset = offset
        self._filled[offset] = watch(memory, offset, nbytes, self._gone)
        return _ndarray(shape, dtype, memory)

    def _own_offset(self, value: Any) -> int:
        """Where the block begins that `value` is all of; 0: it is no such array of this lane's."""
        base = getattr(value, "base", None)
        if (
            type(base) is LaneMemory
            and base.end is self.end
            and value.nbytes == base.nbytes
            and value.flags.c_contiguous
            and value.dtype.isnative
        ):
            return base.offset
        return 0

    @property
    def held(self) -> dict[int, int]:
        """Blocks of answers that somebody still looks at -> their size."""
        return {offset: watch.nbytes for offset, watch in list(self.watched.items()) if watch() is not None}

    @property
    def held_nbytes(self) -> int:
        """The size of the blocks of answers that somebody still looks at."""
        return sum(watch.nbytes for watch in list(self.watched.values()))

    def full(self, exc: LaneFull) -> Busy:
        """What to say where a call, or `empty`, finds no room."""
        end = self.end
        held_nbytes = self.held_nbytes
        return Busy(
            f"the lane has no room: {exc}. {len(self._calls)} calls are in flight in it, {end.owned_count} arrays made"
            f" by empty() live, and {len(self.watched)} results of {held_nbytes} bytes are held; wait for answers, or"
            " drop arrays that are no longer needed",
            in_flight=len(self._calls),
            owned=end.owned_count,
            held_count=len(self.watched),
            held_nbytes=held_nbytes,
        )


def _split(frame: bytes) -> Request:
    """Meta and tensors of a whole message that this side has written."""
    message: Message = decode([frame])
    specs: list[TensorSpec] = decode_call(message.meta).tensors
    return bytes(message.meta), list(slice_tensors(message, [spec.nbytes for spec in specs]))


def _checked_timeout_s(timeout_s: Any) -> float:
    if not isinstance(timeout_s, int | float) or not 0 < timeout_s <= _TIMEOUT_S_MAX:
        raise InvalidInput(
            f"a timeout is above 0 and at most {_TIMEOUT_S_MAX:g} s, got {timeout_s!r}", limit=_TIMEOUT_S_MAX
        )
    return max(float(timeout_s), 1e-6)
