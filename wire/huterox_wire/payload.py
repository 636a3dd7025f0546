"""Named values <-> meta fields and tensor bytes: what a call's arguments and results are on the wire.

Arrays at the top level become tensors (`huterox_wire.arrays` tells which); bytes of some size too; everything else is
plain msgpack.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from huterox_wire.arrays import DTYPE_OF_NAME, NAME_OF_DTYPE, array_of, is_torch_tensor, nbytes_of, wire_array
from huterox_wire.errors import InvalidInput, TooLarge
from huterox_wire.header import Buffer
from huterox_wire.limits import BLOB_NBYTES_MIN, DEPTH_MAX, NAME_NBYTES_MAX, RANK_MAX, TENSORS_MAX
from huterox_wire.message import check_message_nbytes, packed_nbytes
from huterox_wire.meta import TensorSpec

Values = Mapping[str, Any]
_PLAIN: Final = frozenset({str, int, float, bool, type(None)})
_NO_NUMBERS: Final = (np.datetime64, np.timedelta64, np.void)  # what item() gives of them is not all that they are


def split_values(values: Values) -> tuple[dict[str, Any], list[TensorSpec], list[Buffer]]:
    """Hot path. Part named values into plain params, tensor descriptions, and the tensors' bytes.

    The buffers borrow the arrays' memory where they are C-contiguous and little-endian; other arrays are copied.

    Raises:
        InvalidInput: a name that is not carried, an object array, a dtype, rank or type that is not carried, or an
            array inside a list or map.
        TooLarge: more than TENSORS_MAX arrays, or arrays that are too large for one message, where some of them would
            have to be copied.
    """
    params: dict[str, Any] = {}
    specs: list[TensorSpec] = []
    buffers: list[Buffer] = []
    is_checked = False
    for name, value in values.items():
        if not isinstance(name, str) or not 0 < len(name) <= NAME_NBYTES_MAX:
            raise _bad_name(name)
        kind = type(value)
        if kind in _PLAIN:
            params[name] = value
        elif kind is not np.ndarray or not _add_array(name, value, specs, buffers):
            if not is_checked:
                check_before_copies(values)
                is_checked = True
            _add_other(name, value, params, specs, buffers)
    _check_count(len(specs))
    return params, specs, buffers


def _add_array(name: str, array: np.ndarray[Any, Any], specs: list[TensorSpec], buffers: list[Buffer]) -> bool:
    """Hot path. Append one array's description and its bytes. False: it is not as the wire has it."""
    try:
        dtype_name = NAME_OF_DTYPE.get(array.dtype)
    except TypeError:  # a dtype that has no hash
        return False
    if dtype_name is None or array.ndim > RANK_MAX or not array.flags.c_contiguous:
        return False
    specs.append(TensorSpec(name, dtype_name, list(array.shape)))
    # reshape(-1).view also takes what memoryview.cast refuses: bfloat16, zero sizes and zero dimensions.
    buffers.append(array.reshape(-1).view(np.uint8).data)
    return True


def check_before_copies(values: Values) -> None:
    """Raise TooLarge where arrays and byte strings alone, whatever the map takes, are too much for one message."""
    sizes = [nbytes for value in values.values() if (nbytes := nbytes_of(value)) is not None]
    _check_count(len(sizes))
    check_message_nbytes(packed_nbytes(0, sizes))


def _check_count(count: int) -> None:
    if count > TENSORS_MAX:
        raise TooLarge(f"{count} arrays in one message; at most {TENSORS_MAX}", limit=TENSORS_MAX)


def _bad_name(name: Any) -> InvalidInput:
    if not isinstance(name, str):
        return InvalidInput(f"a value's name must be text, got {type(name).__name__}")
    return InvalidInput(f"a value's name has 1 to {NAME_NBYTES_MAX} characters, got {len(name)}", limit=NAME_NBYTES_MAX)


def _add_other(name: str, value: Any, params: dict[str, Any], specs: list[TensorSpec], buffers: list[Buffer]) -> None:
    if isinstance(value, bytes | bytearray | memoryview):
        data = value if type(value) is bytes else _bytes_of(name, value)
        if len(data) < BLOB_NBYTES_MIN:
            params[name] = data
        else:
            specs.append(TensorSpec(name, "bytes", [len(data)]))
            buffers.append(data)
    elif (array := array_of(name, value)) is not None:
        _add_array(name, wire_array(name, array), specs, buffers)
    else:
        params[name] = plain(name, value)


def _bytes_of(name: str, value: bytes | bytearray | memoryview) -> bytes:
    if isinstance(value, memoryview) and (value.format not in ("B", "b", "c") or value.ndim != 1):
        raise InvalidInput(
            f"{name!r}: a memoryview of format {value.format!r} and {value.ndim} dimensions is not carried:"
            " send numpy.asarray(...) of it, or .tobytes()"
        )
    return bytes(value)


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
    if isinstance(value, np.generic) and not isinstance(value, _NO_NUMBERS):
        item = value.item()
        if type(item) in _PLAIN or type(item) is bytes:
            return item
    elif isinstance(value, str | int | float):  # subclasses: enums
        return str.__str__(value) if isinstance(value, str) else int(value) if isinstance(value, int) else float(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return _bytes_of(name, value)
    if isinstance(value, np.ndarray) or is_torch_tensor(value):
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
