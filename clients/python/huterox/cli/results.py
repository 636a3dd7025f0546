"""Results of a call: a summary for people, JSON for programs, a file for NumPy."""

import base64
import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from huterox.cli.render import nbytes_text
from huterox_wire.arrays import BFLOAT16, NAME_OF_DTYPE
from huterox_wire.errors import InvalidInput

_SHOWN_MAX: Final = 16  # elements of an array that are printed as they are
_INDENT: Final = "\n  "


def summary(result: Mapping[str, Any]) -> str:
    """Each value under its name; arrays as dtype, shape and what is in them."""
    if not result:
        return "(no values)"
    width = max(len(name) for name in result)
    return "\n".join(f"{name:<{width}}  {_summary_of(value)}" for name, value in result.items())


def _summary_of(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{_dtype_name(value)} {list(value.shape)}{_contents(value)}"
    if isinstance(value, bytes):
        return f"bytes, {nbytes_text(len(value))}"
    return value if isinstance(value, str) else json.dumps(jsonable(value), ensure_ascii=False)


def _contents(array: np.ndarray[Any, Any]) -> str:
    """The elements where they are few; what they range over and some of them where they are many."""
    if array.size == 0:
        return ""
    text = np.array2string(array, threshold=_SHOWN_MAX, precision=6, suppress_small=True)
    text = f"  {text}" if "\n" not in text else _INDENT + text.replace("\n", _INDENT)
    if array.size <= _SHOWN_MAX or array.dtype.kind in "cb":
        return text
    numbers = array.astype("float64")
    return f"  min {numbers.min():g}  max {numbers.max():g}  mean {numbers.mean():g}{text}"


def _dtype_name(array: np.ndarray[Any, Any]) -> str:
    return NAME_OF_DTYPE.get(array.dtype, str(array.dtype))


def jsonable(value: Any) -> Any:
    """`value` as strict JSON can hold it.

    Arrays and bytes become {dtype, shape, data}: nested lists for arrays, base64 for bytes. NaN and the infinities,
    which JSON lacks, become "NaN", "Infinity" and "-Infinity"; complex numbers become [real, imaginary].
    """
    if isinstance(value, np.ndarray):
        data = value.astype("float32") if value.dtype == BFLOAT16 else value
        return {"dtype": _dtype_name(value), "shape": list(value.shape), "data": jsonable(data.tolist())}
    if isinstance(value, bytes):
        return {"dtype": "bytes", "shape": [len(value)], "data": base64.b64encode(value).decode()}
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else _not_finite(float(value))
    if isinstance(value, complex | np.complexfloating):
        return [jsonable(float(value.real)), jsonable(float(value.imag))]
    if isinstance(value, Mapping):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [jsonable(item) for item in value]
    return value


def _not_finite(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def save(path: Path, result: Mapping[str, Any]) -> list[str]:
    """Write the arrays (and bytes, as uint8) to an .npz file; bfloat16, which the format lacks, as float32.

    Returns:
        The names that were saved.
    """
    arrays = {
        name: np.frombuffer(value, np.uint8) if isinstance(value, bytes) else value
        for name, value in result.items()
        if isinstance(value, np.ndarray | bytes)
    }
    try:
        # Not numpy.savez: it takes names as keyword arguments, some of which are its own.
        with zipfile.ZipFile(path, "w") as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    data = array.astype("float32") if array.dtype == BFLOAT16 else array
                    np.lib.format.write_array(file, data, allow_pickle=False)
    except OSError as exc:
        raise InvalidInput(f"{path} cannot be written: {exc.strerror or exc}") from exc
    return list(arrays)
