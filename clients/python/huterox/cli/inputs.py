"""`-i name=VALUE`: the inputs of a call from the command line. What does not fit is refused, and never changed."""

import json
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from huterox_wire.errors import InvalidInput

_TAKEN = frozenset({"timeout"})
"""Names that `Service.call` has for itself."""


def parse_inputs(texts: Sequence[str]) -> dict[str, Any]:
    """Named inputs from `name=VALUE`, `name=@FILE` and `name:DTYPE=VALUE`.

    Raises:
        InvalidInput: tells which input is wrong and how.
    """
    inputs: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name, colon, dtype = name.partition(":")
        if not equals or not name.strip() or (colon and not dtype):
            raise InvalidInput(f"-i {text}: an input is given as name=VALUE, name=@FILE or name:DTYPE=VALUE")
        if name in inputs:
            raise InvalidInput(f"-i {text}: {name!r} is given twice")
        if name in _TAKEN:
            raise InvalidInput(f"-i {text}: an input cannot be named {name!r} here; --{name} is for the call itself")
        parsed = _parse_value(name, value)
        inputs[name] = _as_array(name, parsed, dtype) if dtype else parsed
    return inputs


def _parse_value(name: str, text: str) -> Any:
    """JSON if it is JSON, else text; `@FILE` is the file's content, `@@...` is text that begins with @."""
    if text.startswith("@@"):
        return text[1:]
    if text.startswith("@"):
        return _read(name, Path(text[1:]).expanduser())
    try:
        return _loads(text)
    except json.JSONDecodeError:
        return text
    except (ValueError, RecursionError) as exc:
        raise InvalidInput(f"input {name!r}: {exc}") from exc


def _loads(text: str | bytes) -> Any:
    """JSON, but for names that come twice in an object and numbers that are no longer the same."""
    return json.loads(text, object_pairs_hook=_object, parse_float=_float)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [key for key, _ in pairs]
        raise _Refused(f"{next(key for key in names if names.count(key) > 1)!r} comes twice in one object")
    return values


def _float(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        raise _Refused(f"{text} is beyond what a number can be")
    return value


class _Refused(ValueError):
    """JSON, and yet no value."""


def _read(name: str, path: Path) -> Any:
    """An array from .npy, values from .json, bytes from anything else."""
    try:
        if path.suffix == ".npy":
            return _load_array(path)
        data = path.read_bytes()
        return _loads(data) if path.suffix == ".json" else data
    except OSError as exc:
        raise InvalidInput(f"input {name!r}: {path} cannot be read: {exc.strerror or exc}") from exc
    except (ValueError, EOFError, RecursionError, MemoryError, OverflowError) as exc:
        reason = str(exc) or type(exc).__name__
        raise InvalidInput(f"input {name!r}: {path} is no {path.suffix[1:]} file: {reason}") from exc


def _load_array(path: Path) -> Any:
    import numpy as np

    with path.open("rb") as file:
        array = np.load(file, allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise ValueError("it is an archive of several arrays")
    return array


def _as_array(name: str, value: Any, dtype: str) -> Any:
    from huterox.cli.exact import exact_array

    try:
        return exact_array(value, dtype)
    except (ValueError, TypeError, OverflowError) as exc:
        raise InvalidInput(f"input {name!r}: no array of {dtype}: {exc}") from exc
    except InvalidInput as exc:
        reason = exc.message.removeprefix("'empty': ")
        raise InvalidInput(f"input {name!r}: {reason}") from exc
