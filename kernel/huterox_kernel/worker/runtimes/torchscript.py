"""Models that are TorchScript files: `entry` is the file, and no class is needed.

"predict" means `forward`; other exported methods are called by their names. Inputs go by the names of the method's
arguments. Where none of the names given is known, they go by type, in order: arrays to the arguments that are tensors,
the rest to the others. A tensor comes back as "result", a tuple or list of them as "0", "1", ..., a dict as it is.
"""

import warnings
from collections.abc import Container, Iterable
from typing import Any

from huterox_kernel.worker.runtimes.base import (
    Announce,
    Everything,
    LoadError,
    Method,
    check_names,
    path_of,
    pick_device,
    unknown_method,
)
from huterox_wire.errors import InvalidInput
from huterox_wire.nodes import ModelSpec


class ScriptMethod:
    """One exported method and its arguments."""

    def __init__(self, name: str, function: Any, schema: Any, device: str) -> None:
        import torch

        self.name = name
        self.allocates = False
        self.function = self._call
        self.torch_inputs: Container[str] = Everything()
        self._torch = torch
        self._exported = function
        self._device = device
        self._arguments = {a.name: _is_tensor(a.type) for a in schema.arguments[1:]}  # the first is self
        self._required = [a.name for a in schema.arguments[1:] if not a.has_default_value()]
        self._optional = [name for name in self._arguments if name not in self._required]

    def check(self, names: Iterable[str]) -> None:
        """Names that are all unknown are matched by type in the call itself."""
        names = list(names)
        foreign = names and not any(name in self._arguments for name in names)
        if not foreign or not len(self._required) <= len(names) <= len(self._arguments):
            check_names(self.name, names, self._required, self._optional)

    def _call(self, /, **values: Any) -> Any:
        named = values if all(name in self._arguments for name in values) else self._match(values)
        inputs = {name: self._input(name, value) for name, value in named.items()}
        with self._torch.inference_mode():
            return _named_results(self._exported(**inputs))

    def _match(self, values: dict[str, Any]) -> dict[str, Any]:
        """Give values with foreign names to the arguments, in order: tensors to tensors, others to others."""
        is_tensor = {name: isinstance(value, self._torch.Tensor) for name, value in values.items()}
        named: dict[str, Any] = {}
        for wanted in (True, False):
            places = [name for name, kind in self._arguments.items() if kind is wanted]
            given = [name for name, kind in is_tensor.items() if kind is wanted]
            if len(given) > len(places):
                check_names(self.name, values, self._required, self._optional)
            named.update((place, values[name]) for place, name in zip(places, given, strict=False))
        check_names(self.name, named, self._required, self._optional)
        return named

    def _input(self, name: str, value: Any) -> Any:
        if not self._arguments[name] or value is None:
            return value
        if not isinstance(value, self._torch.Tensor):
            try:
                value = self._torch.tensor(value)
            except (TypeError, ValueError, RuntimeError) as exc:
                kind = type(value).__name__
                raise InvalidInput(f"{self.name}(): {name!r} must be an array, got {kind}: {exc}") from exc
        return value.to(self._device)


class ScriptModel:
    """A loaded TorchScript module."""

    def __init__(self, module: Any, device: str) -> None:
        self._module = module
        self._device = device
        self._methods: dict[str, Method] = {}

    def method(self, name: str) -> Method:
        """Raises NotFound."""
        method = self._methods.get(name)
        return method if method is not None else self._find(name)

    def _find(self, name: str) -> Method:
        exported = "forward" if name == "predict" and not self._has("predict") else name
        if not self._has(exported):
            raise unknown_method(name, self._names())
        schema = self._module._c._get_method(exported).schema
        method = ScriptMethod(name, getattr(self._module, exported), schema, self._device)
        self._methods[name] = method
        return method

    def _has(self, name: str) -> bool:
        return not name.startswith("_") and bool(self._module._c._has_method(name))

    def _names(self) -> list[str]:
        names = [name for name in self._module._c._method_names() if not name.startswith("_")]
        return ["predict", *names] if "forward" in names else names


def load(spec: ModelSpec, announce: Announce, device_id: str = "") -> ScriptModel:
    """Load a TorchScript file.

    Args:
        device_id: of the device that the container was given; empty: none.

    Raises:
        LoadError: no such file, not TorchScript, or torch is not installed here.
    """
    announce("import")
    try:
        import torch
    except ImportError as exc:
        raise LoadError(f"the torchscript runtime needs torch: {exc}") from exc
    path = path_of(spec, spec.entry)
    if spec.params:
        raise LoadError(f"a torchscript model takes no [params], got {sorted(spec.params)}")
    announce("load")
    device = pick_device(spec, device_id)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch would rather export than script
            module = torch.jit.load(str(path), map_location=device)
    except RuntimeError as exc:
        raise LoadError(f"{path} is not a TorchScript file that this torch can load: {exc}") from exc
    module.eval()
    announce("warmup")
    return ScriptModel(module, device)


def _is_tensor(kind: Any) -> bool:
    return str(kind) in ("Tensor", "Optional[Tensor]")


def _named_results(result: Any) -> Any:
    if isinstance(result, tuple | list):
        return {str(index): item for index, item in enumerate(result)}
    return result
