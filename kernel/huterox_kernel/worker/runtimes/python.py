"""Models that are plain Python classes: `path/file.py:Class` or `package.module:Class`.

The constructor gets the model file's `params`, and `device` where it has a parameter of that name. Every method of the
class whose name has no leading underscore can be called. A parameter annotated `torch.Tensor` gets a tensor over the
bytes that the caller sent, any other a read-only NumPy array. A keyword-only parameter `allocate` is not the caller's
to give: see `outputs`.
"""

import importlib
import inspect
import sys
import typing
from collections.abc import Callable, Container, Iterable
from types import ModuleType
from typing import Any

from huterox_kernel.worker import entries
from huterox_kernel.worker.runtimes.base import (
    Announce,
    LoadError,
    Method,
    check_names,
    path_of,
    pick_device,
    unknown_method,
)
from huterox_wire.nodes import ModelSpec

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class PythonMethod:
    """A bound method and what its signature says."""

    __slots__ = (
        "allocates",
        "function",
        "name",
        "torch_inputs",
        "_bound",
        "_optional",
        "_positional",
        "_required",
        "_takes_any",
    )

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name = name
        self._bound = function
        parameters = _signature_of(function)
        self.allocates = any(p.name == "allocate" and p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters)
        if self.allocates:
            parameters = [p for p in parameters if p.name != "allocate"]
        self._positional = [p.name for p in parameters if p.kind is inspect.Parameter.POSITIONAL_ONLY]
        self.function = self._call_by_position if self._positional else function
        named = [p for p in parameters if p.kind in _NAMED or p.kind is inspect.Parameter.POSITIONAL_ONLY]
        self._required = frozenset(p.name for p in named if p.default is inspect.Parameter.empty)
        self._optional = {p.name: None for p in named if p.name not in self._required}
        self._takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
        self.torch_inputs: Container[str] = _torch_inputs(function, named)

    def check(self, names: Iterable[str]) -> None:
        """Hot path where the names are just the required ones."""
        if names != self._required:
            check_names(self.name, names, sorted(self._required), self._optional, self._takes_any)

    def _call_by_position(self, /, **values: Any) -> Any:
        first = [values.pop(name) for name in self._positional if name in values]
        return self._bound(*first, **values)


class PythonModel:
    """An instance of the model's class."""

    def __init__(self, instance: Any) -> None:
        self._instance = instance
        self._methods: dict[str, Method] = {}

    def method(self, name: str) -> Method:
        """Hot path. Raises NotFound."""
        method = self._methods.get(name)
        return method if method is not None else self._find(name)

    def _find(self, name: str) -> Method:
        if name not in self._names():
            raise unknown_method(name, self._names())
        self._methods[name] = method = PythonMethod(name, getattr(self._instance, name))
        return method

    def _names(self) -> set[str]:
        cls = type(self._instance)
        return {name for name in dir(cls) if not name.startswith("_") and inspect.isroutine(getattr(cls, name, None))}


def load(spec: ModelSpec, announce: Announce, device_id: str = "") -> PythonModel:
    """Import the model's code, make its instance, warm it up.

    Args:
        device_id: of the device that the container was given; empty: none.
    Raises:
        LoadError: file, module or class cannot be found, or the constructor does not take these params.
        Exception: whatever the model's own code raises.
    """
    announce("import")
    factory = _find_class(spec)
    announce("load")
    instance = factory(**_arguments(spec, factory, pick_device(spec, device_id)))
    announce("warmup")
    model = PythonModel(instance)
    if inspect.isroutine(getattr(type(instance), "warmup", None)):
        instance.warmup()
    return model


def _find_class(spec: ModelSpec) -> Callable[..., Any]:
    module_text, separator, class_name = spec.entry.rpartition(":")
    if not separator or not module_text or not class_name:
        raise LoadError(f"entry {spec.entry!r}: expected path/file.py:Class or package.module:Class")
    if module_text.endswith(".py"):
        path_of(spec, module_text)
        module = entries.import_file(spec.source_dir, entries.file_of(spec.source_dir, spec.entry))
    else:
        entries.search(entries.places_of(spec.source_dir, ""))
        module = importlib.import_module(module_text)
    factory = getattr(module, class_name, None)
    if not callable(factory):
        classes = ", ".join(_classes_of(module)) or "none"
        raise LoadError(f"{module_text} has no class {class_name!r}; it has {classes}")
    return typing.cast(Callable[..., Any], factory)


def _classes_of(module: ModuleType) -> list[str]:
    """Names of the classes that the module itself defines."""
    own = [value for value in vars(module).values() if inspect.isclass(value) and value.__module__ == module.__name__]
    return sorted(cls.__name__ for cls in own if not cls.__name__.startswith("_"))


def _arguments(spec: ModelSpec, factory: Callable[..., Any], device: str) -> dict[str, Any]:
    """What the constructor is called with."""
    arguments = dict(spec.params)
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # written in C, and does not tell
        return arguments
    if "device" in signature.parameters:
        arguments.setdefault("device", device)
    try:
        signature.bind(**arguments)
    except TypeError as exc:
        takes = signature.replace(return_annotation=inspect.Signature.empty)
        name = getattr(factory, "__name__", spec.entry)
        raise LoadError(f"{name}{takes} cannot be called with [params] {sorted(spec.params)}: {exc}") from exc
    return arguments


def _signature_of(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # written in C, and does not tell: takes what comes
        return [inspect.Parameter("arguments", inspect.Parameter.VAR_KEYWORD)]


def _torch_inputs(function: Callable[..., Any], parameters: list[inspect.Parameter]) -> frozenset[str]:
    """Names of the parameters that are annotated as torch tensors, also as text or as one choice of several."""
    torch = sys.modules.get("torch")
    if torch is None:
        return frozenset()
    try:
        hints = typing.get_type_hints(function)
    except Exception:  # noqa: BLE001 - annotations are the author's, and may name what does not exist at run time
        hints = {p.name: p.annotation for p in parameters}
    return frozenset(p.name for p in parameters if _is_tensor(hints.get(p.name), torch))


def _is_tensor(annotation: Any, torch: ModuleType) -> bool:
    if isinstance(annotation, str):
        return annotation in ("torch.Tensor", "Tensor")
    choices = typing.get_args(annotation) or (annotation,)
    return any(inspect.isclass(choice) and issubclass(choice, torch.Tensor) for choice in choices)
