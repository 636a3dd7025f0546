"""Answers written straight into the lane: one complete packed message to a block, one copy for each result array."""

import time
from typing import Any, Final

from huterox_kernel.worker.results import Results, write
from huterox_shm.errors import LaneFull, LaneTooSmall
from huterox_shm.lane import ERROR, PART, REPLY, ContainerEnd
from huterox_wire.errors import Busy, HuteroxError, TooLarge
from huterox_wire.header import HEADER_NBYTES, pack_header
from huterox_wire.kinds import Flag, Kind
from huterox_wire.limits import BUDGET_US_MAX
from huterox_wire.meta import error_meta

ROOM_WAIT_S: Final = 30.0
"""How long an answer waits for a caller that holds all of the lane's memory."""

_PACKED: Final = int(Flag.PACKED)
_KINDS: Final = {REPLY: int(Kind.REPLY), PART: int(Kind.PART), ERROR: int(Kind.ERROR)}

Block = tuple[int, int, int]
"""Kind in the ring, offset, nbytes: what is published."""


class Answers:
    """Fills reply blocks of one lane. What it returns is claimed, not yet published."""

    def __init__(self, lane: ContainerEnd) -> None:
        self._lane = lane
        self._results = Results()
        self.told_ns = 0
        """Until when the worker's time on the running call has been told. Set where a call begins."""

    def lap_us(self) -> int:
        """Hot path. How long the worker was busy since it last told: the parts of a stream add up to the whole."""
        now_ns = time.monotonic_ns()
        busy_us = (now_ns - self.told_ns) // 1000
        self.told_ns = now_ns
        return busy_us if busy_us < BUDGET_US_MAX else BUDGET_US_MAX

    def values(self, kind: int, request_id: int, handle: int, result: Any, deadline_us: int) -> Block:
        """Hot path. A REPLY or PART that carries a result: a mapping as it is, anything else as "result".

        Raises:
            ModelError: the model returned what is not carried.
            TooLarge: it can never fit.
            Busy: the caller holds the lane's memory for too long.
        """
        form, buffers = self._results.take_apart(result)
        nbytes, tensor_count, meta_nbytes, _, _ = form
        offset = self._claim(nbytes, deadline_us)
        view = self._lane.write_view(offset, nbytes)
        write(form, buffers, view)
        view[:HEADER_NBYTES] = pack_header(
            _KINDS[kind], _PACKED, tensor_count, request_id, handle, self.lap_us(), meta_nbytes
        )
        return kind, offset, nbytes

    def error(self, request_id: int, handle: int, error: HuteroxError, deadline_us: int = 0, busy_us: int = 0) -> Block:
        """An ERROR. Without room for even that, an answer without a block, which says just that."""
        meta = error_meta(error)
        nbytes = HEADER_NBYTES + len(meta)
        try:
            offset = self._claim(nbytes, deadline_us)
        except (Busy, TooLarge):
            return ERROR, 0, 0
        view = self._lane.write_view(offset, nbytes)
        view[:HEADER_NBYTES] = pack_header(Kind.ERROR, _PACKED, 0, request_id, handle, busy_us, len(meta))
        view[HEADER_NBYTES:] = meta
        return ERROR, offset, nbytes

    def publish_part(self, call_id: int, block: Block, deadline_us: int) -> None:
        """Publish a PART and make it visible; waits for a place in the ring. Raises Busy."""
        lane = self._lane
        kind, offset, nbytes = block
        until_s = 0.0
        while True:
            try:
                lane.publish_reply(kind, call_id, offset, nbytes, request_released=False)
                return lane.flush()
            except LaneFull:
                until_s = until_s or _room_until_s(deadline_us)
                try:
                    self._wait(until_s)
                except Busy:
                    lane.abandon(offset)
                    raise

    def _claim(self, nbytes: int, deadline_us: int) -> int:
        """Hot path. A block; waits for the caller to release some where all are taken."""
        try:
            return self._lane.claim(nbytes)
        except LaneFull:
            return self._claim_later(nbytes, _room_until_s(deadline_us))
        except LaneTooSmall as exc:
            raise TooLarge(
                f"the answer needs {exc.need} bytes; the lane carries at most {exc.limit}",
                need=exc.need,
                limit=exc.limit,
            ) from exc

    def _claim_later(self, nbytes: int, until_s: float) -> int:
        while True:
            self._wait(until_s)
            try:
                return self._lane.claim(nbytes)
            except LaneFull:
                continue

    def _wait(self, until_s: float) -> None:
        left_s = until_s - time.monotonic()
        if left_s <= 0 or not self._lane.wait_for_room(left_s):
            stats = self._lane.slab_stats()
            raise Busy(
                f"the caller still holds {stats.lent_count} answers of {stats.lent_nbytes} bytes in this lane",
                held_count=stats.lent_count,
                held_nbytes=stats.lent_nbytes,
                executed="yes",
            )


def _room_until_s(deadline_us: int) -> float:
    """Until when an answer may wait for room: the call's deadline, but not for ever."""
    until_s = time.monotonic() + ROOM_WAIT_S
    return min(until_s, deadline_us / 1e6) if deadline_us else until_s
