"""Named values <-> meta fields and tensor bytes: what a call's arguments and results are on the wire.

Arrays at the top level become tensors; bytes of some size too; everything else is plain msgpack. A torch tensor is
taken through NumPy over the same bytes, bfloat16 as `ml_dtypes.bfloat16`. torch itself is never imported here.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import ml_dtypes
import numpy as np

from huterox_wire.dtypes import ITEM_NBYTES
from huterox_wire.errors import InvalidInput, TooLarge
from huterox_wire.header import Buffer
from huterox_wire.limits import BLOB_NBYTES_MIN, DEPTH_MAX, NAME_NBYTES_MAX, RANK_MAX, TENSORS_MAX
from huterox_wire.meta import TensorSpec

BFLOAT16: Final = np.dtype(ml_dtypes.bfloat16)
_LONG: Final = "x87" if np.finfo(np.longdouble).nmant == 63 else "quad"

DTYPE_OF_NAME: Final[dict[str, np.dtype[Any]]] = {
    **{
        name: np.dtype(name).newbyteorder("<")
        for name in ITEM_NBYTES
        if "longdouble" not in name and name not in ("bytes", "bfloat16")
    },
    "bfloat16": BFLOAT16,
}
if np.dtype(np.longdouble).itemsize == 16:
    DTYPE_OF_NAME[f"longdouble-{_LONG}"] = np.dtype(np.longdouble)
    DTYPE_OF_NAME[f"clongdouble-{_LONG}"] = np.dtype(np.clongdouble)
NAME_OF_DTYPE: Final = {dtype: name for name, dtype in DTYPE_OF_NAME.items()}

Values = Mapping[str, Any]
_PLAIN: Final = frozenset({str, int, float, bool, type(None)})


def split_values(values: Values) -> tuple[dict[str, Any], list[TensorSpec], list[Buffer]]:
    """Hot path. Part named values into plain params, tensor descriptions, and the tensors' bytes.

    The buffers borrow the arrays' memory where they are C-contiguous and little-endian; other arrays are copied.

    Raises:
        InvalidInput: a name that is not carried, an object array, a dtype, rank or type that is not carried, or an
            array inside a list or map.
        TooLarge: more than TENSORS_MAX arrays.
    """
    params: dict[str, Any] = {}
    specs: list[TensorSpec] = []
    buffers: list[Buffer] = []
    for name, value in values.items():
        if not isinstance(name, str) or not 0 < len(name) <= NAME_NBYTES_MAX:
            raise _bad_name(name)
        kind = type(value)
        if kind is np.ndarray:
            add_array(name, value, specs, buffers)
        elif kind in _PLAIN:
            params[name] = value
        else:
            _add_other(name, value, params, specs, buffers)
    if len(specs) > TENSORS_MAX:
        raise TooLarge(f"{len(specs)} arrays in one message; at most {TENSORS_MAX}", limit=TENSORS_MAX)
    return params, specs, buffers


def add_array(name: str, array: np.ndarray[Any, Any], specs: list[TensorSpec], buffers: list[Buffer]) -> None:
    """Hot path. Append one array's description and its bytes. `name` is trusted: 1 to NAME_NBYTES_MAX characters."""
    dtype_name = NAME_OF_DTYPE.get(array.dtype)
    if dtype_name is None or array.ndim > RANK_MAX:
        array, dtype_name = _foreign_array(name, array)
    specs.append(TensorSpec(name, dtype_name, list(array.shape)))
    if not array.flags.c_contiguous:
        array = np.ascontiguousarray(array)
    # reshape(-1).view also takes what memoryview.cast refuses: bfloat16, zero sizes and zero dimensions.
    buffers.append(array.reshape(-1).view(np.uint8).data)


def _foreign_array(name: str, array: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], str]:
    if array.ndim > RANK_MAX:
        raise InvalidInput(f"{name!r}: an array of rank {array.ndim}; at most {RANK_MAX}", limit=RANK_MAX)
    little = array.dtype.newbyteorder("<")
    dtype_name = NAME_OF_DTYPE.get(little)
    if dtype_name is None:
        hint = " (send text as str or a list of str)" if array.dtype.kind in "USO" else ""
        raise InvalidInput(f"{name!r}: arrays of dtype {array.dtype} are not carried{hint}", dtype=str(array.dtype))
    return array.astype(little), dtype_name


def _bad_name(name: Any) -> InvalidInput:
    if not isinstance(name, str):
        return InvalidInput(f"a value's name must be text, got {type(name).__name__}")
    return InvalidInput(f"a value's name has 1 to {NAME_NBYTES_MAX} characters, got {len(name)}", limit=NAME_NBYTES_MAX)


def _add_other(name: str, value: Any, params: dict[str, Any], specs: list[TensorSpec], buffers: list[Buffer]) -> None:
    if isinstance(value, np.ndarray) or (isinstance(value, np.generic) and not isinstance(value, str | bytes)):
        add_array(name, np.asarray(value), specs, buffers)
    elif isinstance(value, bytes | bytearray | memoryview):
        data = value if type(value) is bytes else bytes(value)
        if len(data) < BLOB_NBYTES_MIN:
            params[name] = data
        else:
            specs.append(TensorSpec(name, "bytes", [len(data)]))
            buffers.append(data)
    elif _is_torch_tensor(value):
        add_array(name, array_of_torch(value), specs, buffers)
    else:
        params[name] = plain(name, value)


def plain(name: str, value: Any, depth: int = 1) -> Any:
    """`value` as plain msgpack values: tuples become lists, NumPy scalars Python numbers.

    `depth` counts the maps and lists around it; the map of named values is the first.

    Raises:
        InvalidInput: anything that the wire does not carry there, with what would help.
    """
    if type(value) in _PLAIN or type(value) is bytes:
        return value
    if depth >= DEPTH_MAX and isinstance(value, Mapping | list | tuple):
        raise InvalidInput(f"{name!r}: values are nested deeper than {DEPTH_MAX}", limit=DEPTH_MAX)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise InvalidInput(f"{name!r}: a map key must be text, got {type(key).__name__}")
        return {key: plain(name, item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(name, item, depth + 1) for item in value]
    if isinstance(value, np.generic) and isinstance(value.item(), bool | int | float):
        return value.item()
    if isinstance(value, str | int | float):  # subclasses: enums, numpy.str_
        return str.__str__(value) if isinstance(value, str) else int(value) if isinstance(value, int) else float(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, np.ndarray) or _is_torch_tensor(value):
        raise InvalidInput(f"{name!r}: an array inside a list or map is not carried; give it a name of its own")
    raise InvalidInput(f"{name!r}: a value of type {type(value).__name__} is not carried")


def join_values(params: dict[str, Any], specs: Sequence[TensorSpec], tensors: Sequence[Buffer]) -> dict[str, Any]:
    """Hot path. Named values again: arrays are views on the tensors' bytes, read-only where those are.

    Raises:
        InvalidInput: a dtype that this machine does not have, a shape that it cannot index, or one name given twice.
    """
    values = params
    for spec, tensor in zip(specs, tensors, strict=True):
        if spec.name in values:
            raise InvalidInput(f"{spec.name!r} is given twice")
        values[spec.name] = array_from(spec, tensor)
    return values


def array_from(spec: TensorSpec, tensor: Buffer) -> Any:
    """Hot path. One tensor as an array over the same bytes; dtype `bytes` becomes a byte string (a copy)."""
    dtype = DTYPE_OF_NAME.get(spec.dtype)
    if dtype is None:
        if spec.dtype == "bytes":
            if len(spec.shape) != 1:
                raise InvalidInput(f"{spec.name!r}: bytes have one dimension, got shape {spec.shape}")
            return bytes(tensor)
        raise InvalidInput(f"{spec.name!r}: this machine has no dtype {spec.dtype!r}", dtype=spec.dtype)
    try:
        return np.ndarray(spec.shape, dtype, tensor)
    except ValueError as exc:  # a zero among huge dimensions: no bytes, and yet too big to index
        raise InvalidInput(f"{spec.name!r}: shape {spec.shape} cannot be indexed: {exc}") from exc


def array_of_torch(tensor: Any) -> np.ndarray[Any, Any]:
    """A NumPy array over a torch tensor's bytes; tensors of other devices are copied to the host."""
    import torch

    try:
        tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
        if tensor.dtype is torch.bfloat16:
            array: np.ndarray[Any, Any] = tensor.view(torch.uint16).numpy().view(BFLOAT16)
            return array
        return np.asarray(tensor.numpy())
    except (TypeError, RuntimeError) as exc:
        raise InvalidInput(f"a torch tensor of {tensor.dtype} is not carried: {exc}") from exc


def _is_torch_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)
