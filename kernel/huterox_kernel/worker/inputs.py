"""From the bytes of a request to the values that a model is called with, and the checks on them.

Arrays are read-only views on the request's block in the lane, never copies. The block may be given back only when the
last view of it is gone, and a model may keep one. So every array's bytes belong to a `RequestBytes`, and all of those
of one request hold one `Token`: who holds a view holds the token. NumPy shortens chains of views, but never past a
subclass of ndarray, and that is why there is one.
"""

import sys
from collections.abc import Container, Sequence
from typing import Any

import numpy as np

from huterox_kernel.worker.runtimes.base import LoadError
from huterox_wire.dtypes import ITEM_NBYTES
from huterox_wire.errors import InvalidInput
from huterox_wire.header import Buffer
from huterox_wire.meta import TensorSpec
from huterox_wire.nodes import InputSpec
from huterox_wire.payload import BFLOAT16, DTYPE_OF_NAME

_new_array = np.ndarray
_uint8 = np.dtype(np.uint8)


class Token:
    """Lives as long as anybody can see the request's bytes. Holds the lane's memory open with `view`."""

    __slots__ = ("view", "__weakref__")

    def __init__(self, view: memoryview) -> None:
        self.view = view


class RequestBytes(np.ndarray[Any, Any]):
    """The bytes of one input, and the token of its request."""

    token: Token


class _Writable:
    """Memory that a torch tensor may be made of.

    torch knows no read-only tensors and warns of every array that is one. So a torch model can write into its inputs;
    what it writes is seen by nobody but the caller whose bytes they are.
    """

    __slots__ = ("__array_interface__", "owner")


def values_of(
    params: dict[str, Any],
    specs: Sequence[TensorSpec],
    tensors: Sequence[Buffer],
    torch_inputs: Container[str],
    token: Token,
) -> dict[str, Any]:
    """Hot path. All inputs by name: `params`, and an array or torch tensor over each tensor's bytes.

    Raises:
        InvalidInput: a name given twice, a dtype or shape that this machine or torch does not have.
    """
    values = params
    for spec, tensor in zip(specs, tensors, strict=True):
        name = spec.name
        if name in values:
            raise InvalidInput(f"{name!r} is given twice")
        dtype = DTYPE_OF_NAME.get(spec.dtype)
        if dtype is None:
            values[name] = _without_dtype(spec, tensor)
            continue
        block = RequestBytes(len(tensor), _uint8, tensor)
        block.token = token
        try:
            if name in torch_inputs:
                values[name] = _torch_tensor(spec, block, dtype)
            else:
                values[name] = _new_array(spec.shape, dtype, block)
        except (ValueError, TypeError) as exc:
            raise InvalidInput(f"{name!r}: {spec.dtype} of shape {spec.shape} cannot be had here: {exc}") from exc
    return values


def _without_dtype(spec: TensorSpec, tensor: Buffer) -> bytes:
    if spec.dtype == "bytes":
        return bytes(tensor)
    raise InvalidInput(f"{spec.name!r}: this machine has no dtype {spec.dtype!r}", dtype=spec.dtype)


def _torch_tensor(spec: TensorSpec, block: RequestBytes, dtype: np.dtype[Any]) -> Any:
    torch = sys.modules["torch"]
    is_bfloat16 = dtype == BFLOAT16
    memory = _Writable()
    memory.owner = block  # type: ignore[attr-defined]
    memory.__array_interface__ = {  # type: ignore[attr-defined]
        "version": 3,
        "shape": tuple(spec.shape),
        "typestr": "<u2" if is_bfloat16 else dtype.str,
        "data": (block.__array_interface__["data"][0], False),
    }
    tensor = torch.from_numpy(np.asarray(memory))
    return tensor.view(torch.bfloat16) if is_bfloat16 else tensor


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
