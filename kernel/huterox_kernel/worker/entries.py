"""The module that a model's entry names, imported under a name by which other processes can import it too.

`multiprocessing`, and whoever pickles by reference, names a module and has the other process import it. So a file gets
the name that Python itself would find it by: `pkg/model.py` is `pkg.model`, be `pkg` a package with an `__init__.py`
(then its root is looked for upwards) or a plain folder. Relative imports work for the same reason. A file whose name is
taken or is none (`numpy.py`, `model.v2.py`) is imported under a made-up one. Processes that a worker spawns know it:
they run the worker's main module (`find_in_children`), and have the entry's file as `sys.argv[0]`. Light, for they do.

    in `sys.path`, first to last        the entry's file lies in
    its folder, that of the model file  a plain folder
    root, model file's, ..., its folder a package, which is no place to search: its `types.py` is no `types`
"""

import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Final, NamedTuple

MADE_UP: Final = "huterox_model_"
_INIT: Final = "__init__.py"


class Places(NamedTuple):
    """Where a model's imports look, before and after all else, and the names that its file may have."""

    first: list[str]
    last: list[str]
    names: list[str]


def file_of(source_dir: str, entry: str) -> str:
    """The path of the file that an entry names; empty where it names a module."""
    text = entry.rpartition(":")[0]
    if not text.endswith(".py"):
        return ""
    return os.path.abspath(os.path.join(source_dir, os.path.expanduser(text)))  # noqa: PTH100, PTH111, PTH118 - and no ".."


def places_of(source_dir: str, file: str) -> Places:
    """
    Args:
        source_dir: where the model file lies; empty: nowhere.
        file: the entry's, absolute; empty: the entry names a module.
    """
    first: list[str] = []
    last: list[str] = []
    names: list[str] = []
    source_dir = os.path.abspath(source_dir) if source_dir else ""  # noqa: PTH100 - and no ".."
    if file:
        folder, stem = Path(file).parent, Path(file).stem
        root, parts = _root_of(folder)
        if parts:
            first, last = [str(root)], [str(folder)]
            names = [".".join(parts if stem == "__init__" else [*parts, stem])]
        else:
            first = [str(folder)]
            if source_dir and folder.is_relative_to(source_dir):
                names = [".".join([*folder.relative_to(source_dir).parts, stem])]
            names.append(stem)
    if source_dir and source_dir not in first:
        root, parts = _root_of(Path(source_dir))
        (last if parts else first).append(source_dir)
        if parts:
            first.append(str(root))
    return Places(list(dict.fromkeys(first)), list(dict.fromkeys(last)), [name for name in names if _is_name(name)])


def _root_of(folder: Path) -> tuple[Path, list[str]]:
    """Where the package that this folder is begins, and its name in parts; none where it is no package."""
    parts: list[str] = []
    while folder.name and (folder / _INIT).is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    return folder, parts


def _is_name(name: str) -> bool:
    return all(re.fullmatch(r"[^./\s]+", part) for part in name.split("."))


def search(places: Places) -> None:
    """Let imports find what lies beside the model."""
    missing = [folder for folder in places.first if folder not in sys.path]
    sys.path[:0] = missing
    sys.path += [folder for folder in places.last if folder not in sys.path]


def import_file(source_dir: str, file: str) -> ModuleType:
    """Import the entry's file. Raises whatever its code raises."""
    places = places_of(source_dir, file)
    search(places)
    for name in places.names:
        if _leads_to(name, file):
            return importlib.import_module(name)
    name = _made_up_name(file)
    spec = _spec_of(name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    assert spec.loader is not None
    spec.loader.exec_module(module)
    return module


def _leads_to(name: str, file: str) -> bool:
    """Would an import of this name give this file? Imports the packages that it lies in."""
    parent, _, _ = name.rpartition(".")
    if parent and parent in sys.modules and not hasattr(sys.modules[parent], "__path__"):
        return False
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError as exc:
        if exc.name and (name == exc.name or name.startswith(f"{exc.name}.")):
            return False
        raise
    except ValueError:  # a module that was put there by hand and has no spec
        return False
    return spec is not None and spec.origin is not None and os.path.realpath(spec.origin) == os.path.realpath(file)


def _made_up_name(file: str) -> str:
    return MADE_UP + re.sub(r"\W", "_", Path(file).stem)


def _spec_of(name: str, file: str) -> ModuleSpec:
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not Python source", path=file)
    return spec


class _MadeUp:
    """Finds the entry's file under its made-up name."""

    @staticmethod
    def find_spec(name: str, _path: Sequence[str] | None = None, _target: object = None) -> ModuleSpec | None:
        if not name.startswith(MADE_UP) or not sys.argv or name != _made_up_name(sys.argv[0]):
            return None
        return _spec_of(name, sys.argv[0])


def find_in_children() -> None:
    """In a process that `multiprocessing` has spawned for a model: let it find the model's module."""
    sys.meta_path.append(_MadeUp)
