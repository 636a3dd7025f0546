"""Values as an array of a dtype that they fit, or not at all.

NumPy makes 1 of 1.5, True of 2, infinity of 1e39 and a number of "3" without a word. Here a whole number stays what it
is, and a fraction may be rounded to the dtype's precision, which is what precision means; anything else is refused.
"""

from math import isfinite
from typing import Any

import numpy as np

from huterox.memory import dtype_of

_DEPTH_MAX = 32
_SHOWN_MAX = 60


def exact_array(value: Any, name: str) -> np.ndarray[Any, Any]:
    """An array of `value`: a number, a boolean, nested lists of them, or an array.

    Raises:
        ValueError: it does not fit; tells which element does not.
        InvalidInput: there is no such dtype.
    """
    dtype = dtype_of(name)
    if isinstance(value, np.ndarray):
        return _converted(value, dtype)
    if isinstance(value, bytes):
        raise ValueError("the bytes of a file are no numbers; .npy and .json files are")
    items = np.empty((), object)
    items[()] = value
    if isinstance(value, list):
        items = _nested(value)
    array = np.empty(items.shape, dtype)
    for index, item in np.ndenumerate(items):
        array[index] = _fitting(item, dtype)
    return array


def _nested(values: list[Any]) -> np.ndarray[Any, Any]:
    """Nested lists as an array of objects. Raises ValueError: they are not all of one length."""
    shape: list[int] = []
    level: Any = values
    while isinstance(level, list):
        shape.append(len(level))
        level = level[0] if level else None
    if len(shape) > _DEPTH_MAX:
        raise ValueError(f"lists nested {len(shape)} deep")
    flat: list[Any] = []
    _flatten(values, shape, flat)
    items = np.empty(len(flat), object)
    for index, item in enumerate(flat):
        items[index] = item
    return items.reshape(shape)


def _flatten(values: Any, shape: list[int], flat: list[Any]) -> None:
    if not shape:
        if isinstance(values, list):
            raise ValueError("its lists are nested unequally")
        flat.append(values)
        return
    if not isinstance(values, list) or len(values) != shape[0]:
        raise ValueError(f"its lists are of different lengths: {_shown(values)} beside {shape[0]} elements")
    for value in values:
        _flatten(value, shape[1:], flat)


def _fitting(item: Any, dtype: np.dtype[Any]) -> Any:
    """The element as the dtype has it. Raises ValueError."""
    if isinstance(item, bool):
        if dtype.kind != "b":
            raise ValueError(f"{str(item).lower()} is a boolean, no number")
        return item
    if not isinstance(item, int | float):
        raise ValueError(f"{_shown(item)} is no number")
    if dtype.kind == "b":
        if item not in (0, 1):
            raise ValueError(f"{item} is neither true nor false")
        return bool(item)
    if dtype.kind in "iu":
        return _whole(item, dtype)
    return _fraction(item, dtype)


def _whole(item: float, dtype: np.dtype[Any]) -> int:
    if not isfinite(item) or item != int(item):
        raise ValueError(f"{item} is no whole number")
    info = np.iinfo(dtype)
    if not info.min <= item <= info.max:
        raise ValueError(f"{_shown(item)} is not between {info.min} and {info.max}")
    return int(item)


def _fraction(item: float, dtype: np.dtype[Any]) -> Any:
    """A whole number must be kept exactly; a fraction is rounded, but neither to infinity nor to zero."""
    number = float(item)  # OverflowError says so by itself
    with np.errstate(all="ignore"):
        fitted = np.array(number).astype(dtype)
    back = fitted.astype(complex if dtype.kind == "c" else float)
    if isinstance(item, int) and (number != item or back != number):
        raise ValueError(f"{_shown(item)} cannot be kept exactly")
    if isfinite(number) and (not np.isfinite(back) or (number and not back)):
        raise ValueError(f"{item} is beyond its range")
    return fitted[()]


def _converted(array: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """An array of another dtype, by the same rules."""
    if array.dtype == dtype or array.dtype.newbyteorder("=") == dtype:
        return array.astype(dtype, copy=False)
    source = array
    if source.dtype.kind == "V" and source.dtype.names is None and dtype.kind != "V":
        source = source.astype(np.float64)  # ml_dtypes: bfloat16 and its kin
    if source.dtype.kind not in "biufc":
        raise ValueError(f"an array of {array.dtype} holds no numbers")
    if source.dtype.kind == "b" and dtype.kind != "b":
        raise ValueError("an array of booleans holds no numbers")
    if source.dtype.kind == "c" and dtype.kind != "c":
        raise ValueError("complex numbers have two parts")
    with np.errstate(all="ignore"):
        fitted = source.astype(dtype)
        if dtype.kind in "biu" or source.dtype.kind in "biu":
            wrong = _differing(source, fitted)
        else:
            back = fitted.astype(source.dtype)
            wrong = np.isfinite(source) & (~np.isfinite(back) | ((source != 0) & (back == 0)))
    if wrong.any():
        raise ValueError(f"its element {source[wrong].flat[0]} does not fit")
    return fitted


def _differing(source: np.ndarray[Any, Any], fitted: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Where the whole number is another one; compared as Python's numbers, which are exact."""
    pairs = zip(source.ravel().tolist(), fitted.astype(_plain(fitted.dtype)).ravel().tolist(), strict=True)
    return np.array([left != right for left, right in pairs], bool).reshape(source.shape)


def _plain(dtype: np.dtype[Any]) -> Any:
    return dtype if dtype.kind in "biufc" else np.float64


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN_MAX else text[:_SHOWN_MAX] + "..."
