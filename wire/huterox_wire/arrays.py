"""What people call an array, as the NumPy array that means the same; or a refusal that names what it is.

An array travels as dtype, shape and bytes. What means more than these (a mask, a unit, a calendar, names, a sparse
layout, a scale) would lose it in silence, so it is refused. So is a class of somebody's own: nobody here knows what it
adds. torch is never imported here.
"""

import sys
from typing import Any, Final

import ml_dtypes
import numpy as np

from huterox_wire.dtypes import ITEM_NBYTES
from huterox_wire.errors import InvalidInput
from huterox_wire.limits import BLOB_NBYTES_MIN, RANK_MAX

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

_PLAIN_CLASSES: Final = frozenset({np.ndarray, np.matrix, np.memmap, np.recarray})
"""These mean their bytes. `recarray` only where its dtype is a plain one, which is another check."""

_KINDS: Final = frozenset("biufcV")  # of dtypes that may be the wire's, in some byte order; V: bfloat16
_ADVICE: Final = {
    "U": "send text as str or a list of str",
    "S": "send text as str or a list of str, or the bytes as bytes",
    "T": "send text as str or a list of str",
    "O": "send numbers as an array of numbers, other things as lists and maps",
    "M": "send .astype('int64'), and the unit beside it",
    "m": "send .astype('int64'), and the unit beside it",
}


def array_of(name: str, value: Any) -> np.ndarray[Any, Any] | None:
    """A plain NumPy array over the bytes of any kind of array, tensor or NumPy scalar; None: it is none.

    Raises:
        InvalidInput: it means more than its bytes, or has none.
    """
    kind = type(value)
    if kind is np.ndarray:
        return value  # type: ignore[no-any-return]
    if isinstance(value, np.ndarray):
        if kind not in _PLAIN_CLASSES:
            raise _foreign_class(name, value)
        return np.asarray(value)
    if isinstance(value, np.generic) and not isinstance(value, str | bytes):
        return np.asarray(value)
    return array_of_torch(name, value) if is_torch_tensor(value) else None


def name_of_dtype(name: str, dtype: np.dtype[Any]) -> str:
    """What the wire calls a dtype, of whatever byte order.

    Raises:
        InvalidInput: it has no such dtype.
    """
    # Asked for the kind first: a dtype of another kind may have no byte order, or no hash.
    if dtype.kind in _KINDS and (known := NAME_OF_DTYPE.get(dtype.newbyteorder("<"))) is not None:
        return known
    advice = _ADVICE.get(dtype.kind) or ("send each field as an array of its own" if dtype.fields else "")
    hint = f" ({advice})" if advice else ""
    raise InvalidInput(f"{name!r}: arrays of dtype {dtype} are not carried{hint}", dtype=str(dtype))


def nbytes_of(value: Any) -> int | None:
    """How many bytes a top-level value takes as a tensor; None: it is no array, or cannot say."""
    if isinstance(value, bytes | bytearray):
        return len(value) if len(value) >= BLOB_NBYTES_MIN else None
    if isinstance(value, memoryview):
        return value.nbytes if value.nbytes >= BLOB_NBYTES_MIN else None
    if isinstance(value, np.ndarray) or is_plain_tensor(value):
        return int(value.nbytes)
    return None


def wire_array(name: str, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """An array as the wire has it, contiguous and little-endian. Copied where it must be.

    Raises:
        InvalidInput: too many dimensions, or a dtype that is not carried.
    """
    if array.ndim > RANK_MAX:
        raise InvalidInput(f"{name!r}: an array of rank {array.ndim}; at most {RANK_MAX}", limit=RANK_MAX)
    return np.asarray(array, DTYPE_OF_NAME[name_of_dtype(name, array.dtype)], order="C")


def _foreign_class(name: str, value: np.ndarray[Any, Any]) -> InvalidInput:
    cls = type(value)
    title = f"{cls.__module__}.{cls.__qualname__}"
    if isinstance(value, np.ma.MaskedArray):
        advice = "its mask would be lost; send .filled(...), or .data and the mask as two arrays"
    else:
        advice = "what it adds to its numbers would be lost; send numpy.asarray(...) of it"
    return InvalidInput(f"{name!r}: a {title} is not carried: {advice}", type=title)


# torch.


def is_torch_tensor(value: Any) -> bool:
    """Is it a tensor, or of a class made of it?"""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_plain_tensor(value: Any) -> bool:
    """A torch tensor that dtype, shape and numbers say all of."""
    torch = sys.modules.get("torch")
    return (
        torch is not None
        and type(value) is torch.Tensor
        and value.layout is torch.strided
        and not value.is_nested
        and not value.is_quantized
        and not _has_names(value)
    )


def array_of_torch(name: str, tensor: Any) -> np.ndarray[Any, Any]:
    """A NumPy array over a torch tensor's bytes; tensors of other devices are copied to the host.

    Raises:
        InvalidInput: it means more than its bytes, or NumPy has no such dtype.
    """
    torch = sys.modules["torch"]
    if type(tensor) is torch.nn.Parameter:
        tensor = tensor.data
    if not is_plain_tensor(tensor):
        raise _foreign_tensor(name, tensor)
    try:
        if tensor.dtype is torch.bfloat16:
            bits = tensor.detach().cpu().view(torch.uint16)
            array: np.ndarray[Any, Any] = bits.numpy().view(BFLOAT16)
            return array
        return np.asarray(tensor.numpy(force=True))  # force: with conjugates and negatives, which are lazy, carried out
    except (TypeError, RuntimeError) as exc:
        raise InvalidInput(f"{name!r}: a torch tensor of {tensor.dtype} is not carried: {exc}") from exc


def _has_names(tensor: Any) -> bool:
    ask = getattr(tensor, "has_names", None)  # later versions of torch have no named tensors
    return ask is not None and bool(ask())


def _foreign_tensor(name: str, tensor: Any) -> InvalidInput:
    torch = sys.modules["torch"]
    cls = type(tensor)
    if cls is not torch.Tensor:
        what = f"a {cls.__module__}.{cls.__qualname__}"
        advice = "what it adds to its numbers would be lost; send .as_subclass(torch.Tensor)"
    elif tensor.is_nested:
        what, advice = "a nested torch tensor", "send it padded, and the lengths beside it"
    elif tensor.layout is not torch.strided:
        what, advice = f"a torch tensor of layout {tensor.layout}", "send .to_dense()"
    elif tensor.is_quantized:
        what, advice = f"a quantized torch tensor of {tensor.dtype}", "send .dequantize(), or .int_repr() and its scale"
    else:
        what, advice = "a torch tensor with names", "send .rename(None), and the names beside it"
    return InvalidInput(f"{name!r}: {what} is not carried: {advice}", type=what)
