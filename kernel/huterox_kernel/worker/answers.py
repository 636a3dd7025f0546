"""Answers written straight into the lane: one complete packed message to a block, one copy for each result array."""

import time
from collections.abc import Mapping
from typing import Any, Final

from huterox_kernel.worker.tracebacks import model_error
from huterox_shm.errors import LaneFull, LaneTooSmall
from huterox_shm.lane import ERROR, PART, REPLY, ContainerEnd
from huterox_wire.errors import Busy, CallerError, HuteroxError, ModelError, TooLarge
from huterox_wire.header import HEADER_NBYTES, pack_header
from huterox_wire.kinds import Flag, Kind
from huterox_wire.message import align, check_message_nbytes, packed_nbytes
from huterox_wire.meta import ReplyMeta, encode_meta, error_meta
from huterox_wire.payload import split_values

ROOM_WAIT_S: Final = 30.0
"""How long an answer waits for a caller that holds all of the lane's memory."""

_PACKED: Final = int(Flag.PACKED)
_KINDS: Final = {REPLY: int(Kind.REPLY), PART: int(Kind.PART), ERROR: int(Kind.ERROR)}
_PAD: Final = bytes(64)

Block = tuple[int, int, int]
"""Kind in the ring, offset, nbytes: what is published."""


class Answers:
    """Fills reply blocks of one lane. What it returns is claimed, not yet published."""

    def __init__(self, lane: ContainerEnd) -> None:
        self._lane = lane

    def values(self, kind: int, request_id: int, handle: int, result: Any, deadline_us: int) -> Block:
        """Hot path. A REPLY or PART that carries a result: a mapping as it is, anything else as "result".

        Raises:
            ModelError: the model returned what is not carried.
            TooLarge: it can never fit.
            Busy: the caller holds the lane's memory for too long.
        """
        if not isinstance(result, Mapping):
            result = {"result": result}
        try:
            params, specs, buffers = split_values(result)
            meta = encode_meta(ReplyMeta(params, specs))
        except TooLarge:
            raise
        except CallerError as exc:
            raise ModelError(f"the model returned what is not carried: {exc.message}", **exc.details) from exc
        except Exception as exc:  # the model's own mapping, array or tensor type
            raise model_error(exc) from exc
        sizes = [len(buffer) for buffer in buffers]
        nbytes = packed_nbytes(len(meta), sizes)
        check_message_nbytes(nbytes)
        offset = self._claim(nbytes, deadline_us)
        view = self._lane.write_view(offset, nbytes)
        end = HEADER_NBYTES + len(meta)
        view[:HEADER_NBYTES] = pack_header(_KINDS[kind], _PACKED, len(sizes), request_id, handle, 0, len(meta))
        view[HEADER_NBYTES:end] = meta
        for buffer, size in zip(buffers, sizes, strict=True):
            start = align(end)
            view[end:start] = _PAD[: start - end]  # what lay there before was somebody else's answer
            end = start + size
            view[start:end] = buffer
        return kind, offset, nbytes

    def error(self, request_id: int, handle: int, error: HuteroxError, deadline_us: int) -> Block:
        """An ERROR. Without room for even that, an answer without a block, which says just that."""
        meta = error_meta(error)
        nbytes = HEADER_NBYTES + len(meta)
        try:
            offset = self._claim(nbytes, deadline_us)
        except (Busy, TooLarge):
            return ERROR, 0, 0
        view = self._lane.write_view(offset, nbytes)
        view[:HEADER_NBYTES] = pack_header(Kind.ERROR, _PACKED, 0, request_id, handle, 0, len(meta))
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
