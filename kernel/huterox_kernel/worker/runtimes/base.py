"""What every runtime gives to the worker: a loaded model whose methods are called by name."""

from collections.abc import Callable, Container, Iterable
from pathlib import Path
from typing import Any, Protocol

from huterox_wire.errors import InvalidInput, NotFound
from huterox_wire.nodes import ModelSpec

Announce = Callable[[str], None]
"""Told which stage begins: import, load, warmup."""


class LoadError(Exception):
    """The model cannot be loaded, for a reason that needs no traceback of ours."""


class Method(Protocol):
    """One method of a model.

    `function` is called with the inputs by keyword. `torch_inputs` says under which names arrays are given as torch
    tensors. `allocates`: it takes `allocate` too, which gives out memory for its results (see `outputs`).
    """

    name: str
    allocates: bool
    function: Callable[..., Any]
    torch_inputs: Container[str]

    def check(self, names: Iterable[str]) -> None:
        """Raise InvalidInput unless the method can be called with inputs of just these names."""


class Model(Protocol):
    """A loaded model."""

    def method(self, name: str) -> Method:
        """Raises NotFound, naming what there is."""


class Everything:
    """Holds every name."""

    def __contains__(self, _name: object) -> bool:
        return True


def unknown_method(name: str, known: Iterable[str]) -> NotFound:
    """The error for a method that a model does not have."""
    names = sorted(known)
    return NotFound(f"the model has no method {name!r}; it has {', '.join(names) or 'none'}", method=name, known=names)


def check_names(
    method: str, names: Iterable[str], required: Iterable[str], optional: Iterable[str], takes_any: bool = False
) -> None:
    """Raise InvalidInput where a name is missing or is not known, saying what the method takes."""
    given = set(names)
    required = list(required)
    missing = [name for name in required if name not in given]
    unknown = [] if takes_any else sorted(given - set(required) - set(optional))
    if not missing and not unknown:
        return
    takes = [*(f"{name} (required)" for name in required), *optional]
    faults = [f"no input {name!r} was given" for name in missing] + [f"{name!r} is not known" for name in unknown]
    raise InvalidInput(
        f"{method}(): {'; '.join(faults)}; it takes {', '.join(takes) or 'no inputs'}",
        missing=missing,
        unknown=unknown,
        required=required,
        optional=list(optional),
    )


def path_of(spec: ModelSpec, text: str) -> Path:
    """A file that the model file names, relative to the directory of the model file.

    Raises:
        LoadError: there is no such file.
    """
    path = Path(spec.source_dir, text).expanduser()
    if not path.is_file():
        raise LoadError(f"no such file: {path}")
    return path


def pick_device(spec: ModelSpec, device: str) -> str:
    """The device that the model is to use: "cpu" or "cuda", which is then the only one that the process sees.

    Args:
        device: the id of the device that the container was given; empty: none.
    Raises:
        LoadError: it needs one and was given none.
    """
    if spec.device == "cuda" and not device:
        raise LoadError("the model needs a CUDA device, and its container was given none")
    return "cuda" if device and spec.device != "cpu" else "cpu"
