"""Arrays that a call can take as they are."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from huterox_wire.arrays import DTYPE_OF_NAME, name_of_dtype
from huterox_wire.errors import InvalidInput
from huterox_wire.limits import TENSOR_ALIGNMENT


def dtype_of(name: Any) -> np.dtype[Any]:
    """The NumPy dtype for a name of the wire (`bfloat16` included) or anything that NumPy takes for one.

    Raises:
        InvalidInput: there is no such dtype, or arrays of it are not carried.
    """
    if isinstance(name, str) and name in DTYPE_OF_NAME:
        return DTYPE_OF_NAME[name]
    try:
        dtype: np.dtype[Any] = np.dtype(name)
    except (TypeError, ValueError) as exc:
        raise InvalidInput(f"no dtype {name!r}; known are {', '.join(DTYPE_OF_NAME)}") from exc
    name_of_dtype("empty", dtype)
    return dtype


def empty_aligned(shape: int | Sequence[int], dtype: Any) -> np.ndarray[Any, Any]:
    """An uninitialised array whose first byte stands on a 64-byte boundary."""
    dtype = dtype_of(dtype)
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    if any(dimension < 0 for dimension in shape):
        raise InvalidInput(f"a shape has no negative sizes, got {list(shape)}")
    nbytes = prod(shape) * dtype.itemsize
    room = np.empty(nbytes + TENSOR_ALIGNMENT, np.uint8)
    start = -room.ctypes.data % TENSOR_ALIGNMENT
    array: np.ndarray[Any, Any] = room[start : start + nbytes].view(dtype).reshape(shape)
    return array
