"""Memory for a model's output in the lane itself, so that writing the answer copies nothing.

A method with a keyword-only parameter `allocate` is given `allocate(shape, dtype)`. The array that it returns (for a
torch dtype, the tensor) lies in a reply block. Returned as the one array of a result, all of it, the block is the
answer. Any other array is copied, as always. What was returned belongs to the caller from then on: the model must not
write into it any more.

When the lane has no room, or nothing tells whether the model has kept such an array (`ownership`): plain memory, and a
copy.
"""

import sys
import weakref
from collections.abc import Sequence
from math import prod
from sys import getrefcount
from typing import Any, Final

import numpy as np

from huterox_kernel.worker.forks import NO_MEMORY, WORKER
from huterox_kernel.worker.inputs import tensor_at
from huterox_shm.errors import ShmError
from huterox_shm.lane import ContainerEnd
from huterox_wire.arrays import DTYPE_OF_NAME, name_of_dtype
from huterox_wire.errors import InvalidInput

_UNSEEN: Final = 3  # references to a block that the model has let go of: the table's, the local variable, getrefcount's
_uint8 = np.dtype(np.uint8)


class OutputMemory(np.ndarray[Any, Any]):
    """One block, all bytes of it: the base of what `allocate` gives out."""

    __slots__ = ("offset",)
    offset: int


class Outputs:
    """The blocks that a model fills itself, of one lane."""

    def __init__(self, lane: ContainerEnd, copies: bool) -> None:
        self._lane = lane
        self._copies = copies
        self._given: dict[int, OutputMemory] = {}
        self._dropped: list[int] = []  # by garbage collection, in any thread

    def allocate(self, shape: int | Sequence[int], dtype: Any = "float32") -> Any:
        """An uninitialised array, or tensor where `dtype` is torch's, in the lane where there is room.

        Raises:
            InvalidInput: no such array can be.
            RuntimeError: this is not the worker, but a process that the model forked.
        """
        if not WORKER[0]:
            raise RuntimeError(NO_MEMORY)
        self._give_back_dropped()
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        torch = sys.modules.get("torch")
        is_torch = torch is not None and isinstance(dtype, torch.dtype)
        name = str(dtype).removeprefix("torch.") if is_torch else dtype
        real = DTYPE_OF_NAME[name] if isinstance(name, str) and name in DTYPE_OF_NAME else _dtype_of(name)
        nbytes = prod(shape) * real.itemsize
        name_of_dtype("allocate", real)
        if min(shape, default=0) < 0:
            raise InvalidInput(f"no array of {real} and shape {list(shape)} can lie in a lane")
        try:
            offset = self._lane.claim(nbytes) if nbytes and not self._copies else 0
        except ShmError:
            offset = 0
        if not offset:
            return torch.empty(shape, dtype=dtype) if is_torch else np.empty(shape, real)  # type: ignore[union-attr]
        memory = OutputMemory(nbytes, _uint8, self._lane.writable, offset)
        memory.offset = offset
        self._given[offset] = memory
        return tensor_at("allocate", real, shape, memory, 0) if is_torch else np.ndarray(shape, real, memory)

    def take(self, result: Any) -> int:
        """The block that this array or tensor is all of; it is the answer's from now on. 0: it is none such."""
        if not self._given:
            return 0
        offset = self._offset_of(result) if isinstance(result, np.ndarray) else self._offset_of_tensor(result)
        if offset:
            del self._given[offset]
        return offset

    def _offset_of(self, array: np.ndarray[Any, Any]) -> int:
        base = array.base
        if (
            type(base) is not OutputMemory
            or self._given.get(base.offset) is not base
            or array.nbytes != base.nbytes
            or not array.flags.c_contiguous
            or not array.dtype.isnative  # its bytes are not the wire's
        ):
            return 0
        return base.offset

    def _offset_of_tensor(self, tensor: Any) -> int:
        # A conjugated or negated view has other values than its memory.
        if tensor.device.type != "cpu" or not tensor.is_contiguous() or tensor.is_conj() or tensor.is_neg():
            return 0
        address = tensor.data_ptr()
        for offset, memory in self._given.items():
            if memory.__array_interface__["data"][0] == address:
                return offset if memory.nbytes == tensor.nbytes else 0
        return 0

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


def _dtype_of(dtype: Any) -> np.dtype[Any]:
    try:
        real: np.dtype[Any] = np.dtype(dtype)
    except (TypeError, ValueError) as exc:
        raise InvalidInput(f"{dtype!r} is no dtype that can lie in a lane") from exc
    return real
