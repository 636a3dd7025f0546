"""What a call in a lane looks like: its inputs as plain arrays, and the key of the form that it has."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from huterox_wire.arrays import array_of
from huterox_wire.limits import BLOB_NBYTES_MIN
from huterox_wire.payload import check_before_copies

_CONSTANTS: Final = frozenset({type(None), bool, int})
_TEXT_MAX: Final = 256
"""Longer text is no part of a form: it rarely comes again, and would be remembered at both ends."""

_ndarray = np.ndarray


def plain_arrays(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """All kinds of arrays as plain NumPy arrays. Raises InvalidInput, TooLarge."""
    if all((kind := type(value)) is _ndarray or kind in _CONSTANTS or kind is str for value in inputs.values()):
        return inputs
    check_before_copies(inputs)
    return {name: _plain_array(name, value) for name, value in inputs.items()}


def _plain_array(name: str, value: Any) -> Any:
    """An input as a plain NumPy array where it is a kind of array; anything else as it is. Raises InvalidInput."""
    kind = type(value)
    if kind is _ndarray or kind in _CONSTANTS or kind is str:
        return value
    array = array_of(name, value)
    return value if array is None else array


def is_tensor(value: Any) -> bool:
    return type(value) is _ndarray or (type(value) is bytes and len(value) >= BLOB_NBYTES_MIN)


def key_of(method: str, inputs: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """Hot path. What a call's form follows from; None where plain values are too manifold to be part of one."""
    if len(inputs) == 1:
        ((name, value),) = inputs.items()
        if type(value) is _ndarray:
            return (method, name, value.dtype, value.shape)
    key: list[Any] = [method]
    for name, value in inputs.items():
        kind = type(value)
        if kind is _ndarray:
            key += (name, value.dtype, value.shape)
        elif kind in _CONSTANTS or (kind is str and len(value) <= _TEXT_MAX):
            key += (name, kind, value)
        elif kind is float:
            key += (name, kind, repr(value))  # 0.0 equals -0.0, and NaN not even itself
        elif kind is bytes:
            key += (name, kind, len(value) if len(value) >= BLOB_NBYTES_MIN else value)
        else:
            return None
    return tuple(key)
