"""Answers written straight into the lane, one copy for each result array.

A whole message goes to whoever asked in whole messages: the kernel, which sends it on as it is. A caller that numbers
its requests gets numbered answers: it is told each form once, and then gets the tensors alone.

What is written here is claimed and not yet published. Where no block is free, LaneFull: the answer waits, with whoever
runs the calls, for the caller to release some.
"""

import sys
import time
from typing import Any, Final

import numpy as np

from huterox_kernel.worker.forks import WORKER, leave
from huterox_kernel.worker.outputs import Outputs
from huterox_kernel.worker.results import Layouts, key_of, take_apart, write
from huterox_shm.errors import LaneFull, LaneTooSmall
from huterox_shm.lane import DEFINES, ERROR, PART, REPLY, ContainerEnd
from huterox_shm.slab import SMALL_NBYTES_MAX
from huterox_wire.errors import Busy, DeadlineExceeded, HuteroxError, ModelError, TooLarge
from huterox_wire.forms import Form, SentForms
from huterox_wire.header import HEADER_NBYTES, pack_header
from huterox_wire.kinds import Flag, Kind
from huterox_wire.limits import BUDGET_US_MAX
from huterox_wire.message import check_message_nbytes, packed_nbytes
from huterox_wire.meta import error_meta

_PACKED: Final = int(Flag.PACKED)
_KINDS: Final = {REPLY: int(Kind.REPLY), PART: int(Kind.PART), ERROR: int(Kind.ERROR)}


Written = tuple[int, int, int, int, int]
"""An answer in its block, as it is published: (kind, offset, nbytes, form, flags). nbytes 0: it has no block."""

NO_ROOM: Final[Written] = (ERROR, 0, 0, 0, 0)
"""An answer without a block, which says just that."""


class Answers:
    """Fills reply blocks of one lane."""

    def __init__(self, lane: ContainerEnd, copies: bool) -> None:
        self._lane = lane
        self._layouts = Layouts()
        self._forms = SentForms()
        self._form = self._forms.get
        self._out = lane.out
        self.outputs = Outputs(lane, copies)
        self.told_ns = 0
        """Until when the worker's time on the running call has been told. Set where a call begins."""

    def lap_us(self) -> int:
        """How long the worker was busy since it last told: the parts of a stream add up to the whole."""
        now_ns = time.monotonic_ns()
        busy_us = (now_ns - self.told_ns) // 1000
        self.told_ns = now_ns
        return busy_us if busy_us < BUDGET_US_MAX else BUDGET_US_MAX

    # --- whole messages ---------------------------------------------------------------------------------------------

    def whole(self, kind: int, request_id: int, handle: int, result: Any) -> Written:
        """Hot path. A REPLY or PART that carries a result: a mapping as it is, anything else as "result".

        Raises:
            ModelError: the model returned what is not carried.
            TooLarge: it can never fit.
            LaneFull: it does not fit now.
        """
        layout, buffers = self._layouts.take_apart(result)
        nbytes, tensor_count, meta_nbytes, _, _ = layout
        offset = self._claim(nbytes)
        view = self._lane.write_view(offset, nbytes)
        write(layout, buffers, view)
        view[:HEADER_NBYTES] = pack_header(
            _KINDS[kind], _PACKED, tensor_count, request_id, handle, self.lap_us(), meta_nbytes
        )
        return kind, offset, nbytes, 0, 0

    def error(self, request_id: int, handle: int, error: HuteroxError, busy_us: int = 0) -> Written:
        """An ERROR. Without room for even that, `NO_ROOM`."""
        meta = error_meta(error)
        nbytes = HEADER_NBYTES + len(meta)
        try:
            offset = self._claim(nbytes)
        except (LaneFull, TooLarge):
            return NO_ROOM
        view = self._lane.write_view(offset, nbytes)
        view[:HEADER_NBYTES] = pack_header(Kind.ERROR, _PACKED, 0, request_id, handle, busy_us, len(meta))
        view[HEADER_NBYTES:] = meta
        return ERROR, offset, nbytes, 0, 0

    # --- numbered forms ---------------------------------------------------------------------------------------------

    def numbered(self, kind: int, result: Any, call_id: int) -> Written:
        """Hot path. The same for a caller that numbers its requests. Raises as `whole`."""
        key = key_of(result)
        try:
            form = None if key is None else self._form(key) or self._tell_form(key, result, call_id)
        except TypeError:  # a dtype that has no hash: it is not carried
            form = None
        if form is None:
            return self.whole(kind, 0, 0, result)
        nbytes = form.nbytes
        if not nbytes:
            return kind, 0, 0, form.number, 0
        if len(form.tensors) == 1:
            value = next(iter(result.values())) if type(result) is dict else result
            if offset := self.outputs.take(value):
                return kind, offset, nbytes, form.number, 0
        offset = self._claim(nbytes)
        views = form.views.get(offset) or form.views_at(self._lane.writable, offset)
        try:
            for view, value in zip(views, result.values() if type(result) is dict else (result,), strict=True):
                if type(value) is np.ndarray:
                    view[...] = value
                else:
                    _copy_tensor(view, value)
        except BaseException:
            self._lane.abandon(offset)
            raise
        return kind, offset, nbytes, form.number, 0

    def array(self, array: np.ndarray[Any, Any], call_id: int) -> Written:
        """Hot path. `numbered` for a REPLY that is one array."""
        try:
            form = self._form((array.dtype, array.shape))
        except TypeError:  # a dtype that has no hash: it is not carried
            form = None
        if form is None or not form.nbytes:
            return self.numbered(REPLY, array, call_id)
        if stack := form.stack:
            self._out[offset := stack.pop()] = form.order
        else:
            offset = self._claim(form.nbytes)
        view = form.view.get(offset)
        if view is None:
            view = form.views_at(self._lane.writable, offset)[0]
        view[...] = array
        return REPLY, offset, form.nbytes, form.number, 0

    def _tell_form(self, key: tuple[Any, ...], result: Any, call_id: int) -> Form | None:
        """Give a result's form a number and tell the caller. None: there is no room for that now."""
        meta, specs, _ = take_apart(result)
        if not specs:
            return None
        check_message_nbytes(packed_nbytes(len(meta), [spec.nbytes for spec in specs]))
        try:
            offset = self._claim(len(meta))
        except LaneFull:
            return None
        self._lane.write_view(offset, len(meta))[:] = meta
        form = self._forms.add(key, meta, specs)
        try:
            self._lane.publish_part(DEFINES, call_id, offset, len(meta), form.number)
        except LaneFull:
            self._lane.abandon(offset)
            self._forms.forget(key)
            return None
        if form.nbytes <= SMALL_NBYTES_MAX:
            form.stack = self._lane.free[form.order]
        return form

    def _claim(self, nbytes: int) -> int:
        """Hot path. Raises LaneFull, TooLarge."""
        if not WORKER[0]:
            leave()
        try:
            return self._lane.claim(nbytes)
        except LaneTooSmall as exc:
            raise TooLarge(
                f"the answer needs {exc.need} bytes; this lane carries at most {exc.limit} (connect's lane_mb, or the"
                " kernel's lease_half_mb and lane_half_mb, make it larger)",
                need=exc.need,
                limit=exc.limit,
            ) from exc

    def no_room(self) -> Busy:
        """What to say where the caller has not released any block for too long."""
        stats = self._lane.slab_stats()
        return Busy(
            f"the caller still holds {stats.out_count} answers of {stats.out_nbytes} bytes in this lane",
            held_count=stats.out_count,
            held_nbytes=stats.out_nbytes,
            executed="yes",
        )


def late(deadline_us: int, now_ns: int) -> DeadlineExceeded:
    """What to say where a call's time was over before it began."""
    late_ms = now_ns // 1_000_000 - deadline_us // 1000
    return DeadlineExceeded(f"its time was over {late_ms} ms before the call was started", executed="no")


def _copy_tensor(view: np.ndarray[Any, Any], tensor: Any) -> None:
    """A torch tensor of any device straight into the lane's memory."""
    torch = sys.modules["torch"]
    try:
        if tensor.dtype is torch.bfloat16:
            target = torch.from_numpy(view.view(np.uint16)).view(torch.bfloat16)
        else:
            target = torch.from_numpy(view)
        target.copy_(tensor.detach())
    except (TypeError, RuntimeError) as exc:
        if tensor.device.type != "cpu":  # what went wrong on a device is told late, by whoever waits for it
            raise ModelError(f"the model's result could not be taken from its device: {exc}") from exc
        raise ModelError(f"the model returned what is not carried: a torch tensor of {tensor.dtype}: {exc}") from exc
