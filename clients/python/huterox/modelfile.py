"""Model files: reading, checking, and saying exactly what is wrong with one."""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Final

import msgspec

from huterox_wire.errors import HuteroxError, InvalidInput
from huterox_wire.meta import check_plain
from huterox_wire.nodes import InputSpec, ModelSpec, Resources

_BATCHING: Final = {"max_batch": 1, "max_delay_ms": 0}
"""Keys of a model file that have one legal value so far."""

FILE_NBYTES_MAX: Final = 1024 * 1024


def read_model(model: str | PathLike[str] | Mapping[str, Any]) -> dict[str, Any]:
    """The checked model as the switchboard takes it, from a file's path or from a mapping of the same shape.

    Raises:
        InvalidInput: names the file, the key, and what was expected.
    """
    if isinstance(model, Mapping):
        return check_model(model, source="the model", directory=Path.cwd())
    if not isinstance(model, str | PathLike):
        raise InvalidInput(f"a model is given as a path or a mapping, got {type(model).__name__}")
    path = Path(model)
    return check_model(_parse(path), source=str(path), directory=path.resolve().parent)


def _parse(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > FILE_NBYTES_MAX:
            raise InvalidInput(f"{path}: a model file has at most {FILE_NBYTES_MAX} bytes", limit=FILE_NBYTES_MAX)
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise InvalidInput(f"{path}: cannot be read: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise InvalidInput(f"{path}: is no TOML: {exc}") from exc


def check_model(model: Mapping[str, Any], *, source: str, directory: Path) -> dict[str, Any]:
    """The checked model. `source` is what messages call it; relative paths start at `directory`."""
    fields = dict(model)
    try:
        _check_batching(fields)
        _check_runtime(fields)
        _check_keys(fields)
        check_plain(fields.get("params"))
        spec = msgspec.convert(fields, ModelSpec)
    except msgspec.ValidationError as exc:
        raise InvalidInput(f"{source}: {_readable(exc)}") from exc
    except HuteroxError as exc:
        raise InvalidInput(f"{source}: {exc}", **exc.details) from exc
    spec.source_dir = str(directory / spec.source_dir)
    builtins: dict[str, Any] = msgspec.to_builtins(spec)
    return builtins


def _check_batching(fields: dict[str, Any]) -> None:
    for key, only in _BATCHING.items():
        value = fields.pop(key, only)
        if value != only or isinstance(value, bool):
            raise InvalidInput(f"{key}: batching is not available yet; leave it out or set it to {only}", key=key)


def _check_runtime(fields: dict[str, Any]) -> None:
    if fields.get("runtime") == "torch-export":
        raise InvalidInput(
            "runtime: 'torch-export' is not available yet; use 'torchscript', or 'python' with a class that"
            " loads the program",
            key="runtime",
        )


def _check_keys(fields: dict[str, Any]) -> None:
    _check_known(fields, [*_names(ModelSpec), *_BATCHING], "")
    if isinstance(resources := fields.get("resources"), Mapping):
        _check_known(resources, _names(Resources), "resources.")
    if isinstance(inputs := fields.get("inputs"), Mapping):
        for name, spec in inputs.items():
            if isinstance(spec, Mapping):
                _check_known(spec, _names(InputSpec), f"inputs.{name}.")


def _check_known(given: Mapping[str, Any], known: Iterable[str], prefix: str) -> None:
    known = sorted(known)
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known are {', '.join(known)}"
            raise InvalidInput(f"unknown key {prefix}{key}; {hint}", key=f"{prefix}{key}")


def _names(struct: type[msgspec.Struct]) -> list[str]:
    return [field.name for field in msgspec.structs.fields(struct)]


def _readable(error: msgspec.ValidationError) -> str:
    """msgspec says "Expected `int`, got `str` - at `$.resources.host_mb`"; people read the key first."""
    text, _, where = str(error).partition(" - at `")
    key = where.rstrip("`").removeprefix("$").removeprefix(".")
    text = text.replace("`", "")
    return f"{key}: {text[:1].lower()}{text[1:]}" if key else f"{text[:1].lower()}{text[1:]}"
