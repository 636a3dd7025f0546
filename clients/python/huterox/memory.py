"""Arrays that a call can take as they are."""

from collections.abc import Iterable, Sequence
from math import prod
from operator import index
from typing import Any, Final, NamedTuple

import numpy as np

from huterox_wire.arrays import DTYPE_OF_NAME, name_of_dtype
from huterox_wire.errors import InvalidInput
from huterox_wire.limits import RANK_MAX, TENSOR_ALIGNMENT
from huterox_wire.message import check_message_nbytes

_SPAN_MAX: Final = 2**63 - 1


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


class Wanted(NamedTuple):
    """An array that a call can take as it is."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    nbytes: int


def wanted(shape: int | Sequence[int], dtype: Any) -> Wanted:
    """Check what somebody wants memory for.

    Raises:
        InvalidInput: no such array can be.
        TooLarge: no call takes one.
    """
    dtype = dtype_of(dtype)
    try:
        sizes = tuple(map(index, shape)) if isinstance(shape, Iterable) else (index(shape),)
    except TypeError as exc:
        raise InvalidInput(f"a shape is a whole number or several, got {shape!r}") from exc
    if any(size < 0 for size in sizes):
        raise InvalidInput(f"a shape has no negative sizes, got {list(sizes)}")
    if len(sizes) > RANK_MAX:
        raise InvalidInput(f"an array of rank {len(sizes)}; at most {RANK_MAX}", limit=RANK_MAX)
    if prod(size or 1 for size in sizes) * dtype.itemsize > _SPAN_MAX:
        raise InvalidInput(f"an array of shape {list(sizes)} cannot be indexed")
    nbytes = prod(sizes) * dtype.itemsize
    check_message_nbytes(nbytes)
    return Wanted(sizes, dtype, nbytes)


def empty_aligned(shape: int | Sequence[int], dtype: Any) -> np.ndarray[Any, Any]:
    """An uninitialised array whose first byte stands on a 64-byte boundary. Raises as `wanted`."""
    shape, dtype, nbytes = wanted(shape, dtype)
    room = np.empty(nbytes + TENSOR_ALIGNMENT, np.uint8)
    start = -room.ctypes.data % TENSOR_ALIGNMENT
    array: np.ndarray[Any, Any] = room[start : start + nbytes].view(dtype).reshape(shape)
    return array
