"""From the bytes of a request to the values that a model is called with, and the checks on them.

Arrays are read-only views on the request's block in the lane, never copies. The block may be given back only when the
last view of it is gone, and a model may keep one. So all arrays of a request are views on one `RequestBytes`: who holds
an array holds that. NumPy shortens chains of views, but never past a subclass of ndarray, and that is why it is one.
"""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from huterox_kernel.worker.runtimes.base import LoadError
from huterox_wire.arrays import BFLOAT16
from huterox_wire.dtypes import ITEM_NBYTES
from huterox_wire.errors import InvalidInput
from huterox_wire.limits import TENSOR_ALIGNMENT
from huterox_wire.meta import TensorSpec
from huterox_wire.nodes import InputSpec

_new_array = np.ndarray
_uint8 = np.dtype(np.uint8)


class RequestBytes(np.ndarray[Any, Any]):
    """The bytes of one request. Lives as long as anybody can see them, and the lane's memory with it.

    `home`: the lane's own bytes, where these are a copy of them that the model may write into.
    """

    home: memoryview | None = None

    def write_home(self) -> None:
        """Let the caller see what the model has written."""
        if self.home is not None:
            self.home[:] = self.data


def bytes_at(memory: memoryview, offset: int, nbytes: int) -> RequestBytes:
    """Hot path. The bytes that the arrays of a request are made of."""
    return RequestBytes(nbytes, _uint8, memory, offset)


def copied_at(memory: memoryview, offset: int, nbytes: int) -> RequestBytes:
    """The same as a copy, for who cannot know when the last view of the lane's own bytes is gone."""
    room = np.empty(nbytes + TENSOR_ALIGNMENT, np.uint8)
    block = RequestBytes(nbytes, _uint8, room, -room.ctypes.data % TENSOR_ALIGNMENT)
    home = memory[offset : offset + nbytes]
    block[:] = home
    if home.readonly:
        block.flags.writeable = False
    else:
        block.home = home
    return block


def array_at(name: str, dtype: np.dtype[Any], shape: tuple[int, ...], block: RequestBytes, start: int) -> Any:
    """Hot path. An array over a request's bytes. Raises InvalidInput: no array can have this shape."""
    try:
        return _new_array(shape, dtype, block, start)
    except (ValueError, OverflowError) as exc:
        raise _cannot_be_had(name, dtype, shape, exc) from exc


class _Writable:
    """Memory that a torch tensor may be made of.

    torch knows no read-only tensors and warns of every array that is one. So a torch model can write into its inputs;
    what it writes is seen by nobody but the caller whose bytes they are.
    """

    __slots__ = ("__array_interface__", "owner")


def tensor_at(name: str, dtype: np.dtype[Any], shape: tuple[int, ...], block: np.ndarray[Any, Any], start: int) -> Any:
    """A torch tensor over some of a block's bytes, which keeps the block.

    Raises:
        InvalidInput: torch has no such dtype or shape.
    """
    torch = sys.modules["torch"]
    is_bfloat16 = dtype == BFLOAT16
    source = _Writable()
    source.owner = block  # type: ignore[attr-defined]
    source.__array_interface__ = {  # type: ignore[attr-defined]
        "version": 3,
        "shape": shape,
        "typestr": "<u2" if is_bfloat16 else dtype.str,
        "data": (block.__array_interface__["data"][0] + start, False),
    }
    try:
        tensor = torch.from_numpy(np.asarray(source))
    except (ValueError, OverflowError, TypeError, RuntimeError) as exc:
        raise _cannot_be_had(name, dtype, shape, exc) from exc
    return tensor.view(torch.bfloat16) if is_bfloat16 else tensor


def _cannot_be_had(name: str, dtype: Any, shape: tuple[int, ...], exc: Exception) -> InvalidInput:
    return InvalidInput(f"{name!r}: {dtype} of shape {list(shape)} cannot be had here: {exc}")


class Expected:
    """What the model file says about inputs: dtypes and shapes by name.

    Raises:
        LoadError: it names a dtype that is none.
    """

    def __init__(self, inputs: dict[str, InputSpec]) -> None:
        for name, expected in inputs.items():
            if expected.dtype and expected.dtype not in ITEM_NBYTES:
                raise LoadError(f"inputs.{name}: unknown dtype {expected.dtype!r} (known: {', '.join(ITEM_NBYTES)})")
        self._inputs = {name: spec for name, spec in inputs.items() if spec.dtype or spec.shape is not None}
        self.writable = frozenset(name for name, spec in inputs.items() if spec.writable)
        """Inputs that the model may write into."""

    def check(self, params: dict[str, Any], specs: Sequence[TensorSpec]) -> None:
        """Hot path. Raise InvalidInput for an input that is not as the model file says."""
        inputs = self._inputs
        if not inputs:
            return
        for spec in specs:
            expected = inputs.get(spec.name)
            if expected is not None and not _fits(expected, spec):
                raise _not_as_expected(spec.name, expected, _text(spec.dtype, spec.shape))
        for name, value in params.items():
            expected = inputs.get(name)
            if expected is not None and not (expected.dtype == "bytes" and isinstance(value, bytes)):
                raise _not_as_expected(name, expected, f"a plain value of type {type(value).__name__}")


def _fits(expected: InputSpec, spec: TensorSpec) -> bool:
    if expected.dtype and expected.dtype != spec.dtype:
        return False
    shape = expected.shape
    if shape is None:
        return True
    return len(shape) == len(spec.shape) and all(
        want is None or want == have for want, have in zip(shape, spec.shape, strict=True)
    )


def _text(dtype: str, shape: Sequence[int | None] | None) -> str:
    dims = "any shape" if shape is None else f"shape [{', '.join('?' if d is None else str(d) for d in shape)}]"
    return f"{dtype or 'any dtype'} of {dims}"


def _not_as_expected(name: str, expected: InputSpec, got: str) -> InvalidInput:
    want = _text(expected.dtype, expected.shape)
    return InvalidInput(f"{name!r}: expected {want}, got {got}", input=name, expected=want, got=got)
