"""`-i name=VALUE`: the inputs of a call from the command line."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huterox_wire.errors import InvalidInput


def parse_inputs(texts: Sequence[str]) -> dict[str, Any]:
    """Named inputs from `name=VALUE`, `name=@FILE` and `name:DTYPE=VALUE`.

    Raises:
        InvalidInput: tells which input is wrong and how.
    """
    inputs: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name, _, dtype = name.partition(":")
        if not equals or not name:
            raise InvalidInput(f"-i {text}: an input is given as name=VALUE or name=@FILE")
        if name in inputs:
            raise InvalidInput(f"-i {text}: {name!r} is given twice")
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
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _read(name: str, path: Path) -> Any:
    """An array from .npy, values from .json, bytes from anything else."""
    try:
        if path.suffix == ".npy":
            import numpy as np

            with path.open("rb") as file:
                return np.load(file, allow_pickle=False)
        data = path.read_bytes()
        return json.loads(data) if path.suffix == ".json" else data
    except OSError as exc:
        raise InvalidInput(f"input {name!r}: {path} cannot be read: {exc.strerror or exc}") from exc
    except (ValueError, EOFError, RecursionError) as exc:
        raise InvalidInput(f"input {name!r}: {path} is no {path.suffix[1:]} file: {exc}") from exc


def _as_array(name: str, value: Any, dtype: str) -> Any:
    import numpy as np

    from huterox.memory import dtype_of

    try:
        return np.asarray(value, dtype_of(dtype))
    except (ValueError, TypeError, OverflowError) as exc:
        raise InvalidInput(f"input {name!r}: no array of {dtype}: {exc}") from exc
