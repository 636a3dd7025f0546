"""Memory for a model's output in the lane itself, so that writing the answer copies nothing.

A method with a keyword-only parameter `allocate` is given `allocate(shape, dtype)`. The array that it returns lies in a
reply block. Returned as the one array of a result, all of it, the block is the answer. Any other array is copied, as
always. An array that was returned belongs to the caller from then on: the model must not write into it any more.

When the lane has no room: plain memory, and a copy.
"""

import weakref
from collections.abc import Sequence
from math import prod
from sys import getrefcount
from typing import Any, Final

import numpy as np

from huterox_shm.errors import ShmError
from huterox_shm.lane import ContainerEnd
from huterox_wire.errors import InvalidInput
from huterox_wire.payload import DTYPE_OF_NAME

_UNSEEN: Final = 3  # references to a block that the model has let go of: the table's, the local variable, getrefcount's
_uint8 = np.dtype(np.uint8)


class OutputMemory(np.ndarray[Any, Any]):
    """One block, all bytes of it: the base of what `allocate` gives out."""

    __slots__ = ("offset",)
    offset: int


class Outputs:
    """The blocks that a model fills itself, of one lane."""

    def __init__(self, lane: ContainerEnd) -> None:
        self._lane = lane
        self._given: dict[int, OutputMemory] = {}
        self._dropped: list[int] = []  # by garbage collection, in any thread

    def allocate(self, shape: int | Sequence[int], dtype: Any = "float32") -> np.ndarray[Any, Any]:
        """An uninitialised array, in the lane where there is room.

        Raises:
            InvalidInput: no such array can be.
        """
        self._give_back_dropped()
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        real = DTYPE_OF_NAME[dtype] if isinstance(dtype, str) and dtype in DTYPE_OF_NAME else np.dtype(dtype)
        nbytes = prod(shape) * real.itemsize
        if real.hasobject or nbytes < 0:
            raise InvalidInput(f"no array of {real} and shape {list(shape)} can lie in a lane")
        try:
            offset = self._lane.claim(nbytes) if nbytes else 0
        except ShmError:
            offset = 0
        if not offset:
            return np.empty(shape, real)
        memory = OutputMemory(nbytes, _uint8, self._lane.writable, offset)
        memory.offset = offset
        self._given[offset] = memory
        return np.ndarray(shape, real, memory)

    def take(self, array: Any) -> int:
        """The block that this array is all of; it is the answer's from now on. 0: it is no such array."""
        base = getattr(array, "base", None)
        if (
            type(base) is not OutputMemory
            or self._given.get(base.offset) is not base
            or array.nbytes != base.nbytes
            or not array.flags.c_contiguous
        ):
            return 0
        del self._given[base.offset]
        return base.offset

    def settle(self) -> None:
        """A call has ended: give back the blocks that it did not answer with, now or when the model lets go of them."""
        for offset in list(self._given):
            memory = self._given[offset]
            if getrefcount(memory) > _UNSEEN:
                weakref.finalize(memory, self._dropped.append, offset).atexit = False
            else:
                self._lane.abandon(offset)
            del self._given[offset], memory
        self._give_back_dropped()

    def _give_back_dropped(self) -> None:
        while self._dropped:
            self._lane.abandon(self._dropped.pop())
