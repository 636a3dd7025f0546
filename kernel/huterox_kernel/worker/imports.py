"""What a model's load has imported that its zygote had not: told to the kernel, so that the next zygote has it.

Only modules of the interpreter's own library and of its installed packages count. What lies beside a model is the
model's own: it may differ from model to model under one name, so it is never preloaded, and where a model has such a
module beside it, the preloaded one of that name makes way (`give_way`). What the worker itself needs cannot; there the
model is told when it imports it.

How long each import took is not measured here, which would take hooks in the import system; the zygote that imports
them anew measures each. Here it is enough that the stages of the load that imported anything took long.
"""

import builtins
import mmap
import os
import sys
import sysconfig
import zlib
from collections.abc import Iterable, Iterator
from importlib.machinery import all_suffixes
from types import ModuleType
from typing import Any, Final

from huterox_kernel.worker.control import Imported

DEAR_S: Final = 0.03
"""Loads whose imports took less are not worth a new zygote."""

MODULES_MAX: Final = 512
NAMES_NBYTES_MAX: Final = 32 * 1024

_NEEDED: Final = frozenset({"huterox_kernel", "huterox_shm", "huterox_wire", "ml_dtypes", "msgspec", "numpy", "torch"})
"""What the worker itself uses, beside the standard library."""

_ENDINGS: Final = tuple(all_suffixes())


class Watch:
    """Sees what is imported from its making on.

    It looks at the end of the list of modules only: to touch a name is to count its references, and so to copy the page
    that it shares with the zygote. Going through all of them cost 3 MB of every worker's own memory.
    """

    def __init__(self) -> None:
        self._last = next(reversed(sys.modules))
        self._environment = dict(os.environ)
        self._begun_with, self._grown = _resident_nbytes(), 0

    def end_of_imports(self) -> None:
        """The model's code has been imported; what the process takes from now on are its weights."""
        self._grown = max(0, _resident_nbytes() - self._begun_with)

    def count(self) -> int:
        """How many modules have come since."""
        return len(self._new())

    def _new(self) -> list[str]:
        """Names that came since, those that import others before them; none where that cannot be told.

        A module moves to the end of the list when it is complete, so what it has imported stands before it.
        """
        names: list[str] = []
        try:
            for name in reversed(sys.modules):
                if name == self._last:
                    return names
                names.append(name)
        except RuntimeError:  # another thread imports
            pass
        return []

    def result(self, source_dir: str) -> Imported | None:
        """The library modules among them; None where there are none."""
        new = self._new()
        own = os.path.realpath(source_dir) + os.sep if source_dir else ""
        libraries = library_folders()
        names = [name for name in new if _is_library(name, libraries, own)]
        if not names:
            return None
        return Imported(_bounded(names), dict(os.environ) != self._environment, self._grown)


def _resident_nbytes() -> int:
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - as short as it gets in every load
        return int(file.read().split()[1]) * mmap.PAGESIZE


def library_folders() -> tuple[str, ...]:
    """Where this interpreter keeps its library and what is installed into it."""
    paths = sysconfig.get_paths()
    folders = {os.path.realpath(paths[key]) + os.sep for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    return tuple(sorted(folders))


def give_way(folders: Iterable[str], file: str) -> None:
    """Forget preloaded modules that have the name of something beside the model: the model means its own.

    Args:
        folders: where the model's imports look first.
        file: the entry's, which is no module beside itself.
    """
    folders = list(folders)
    hidden: dict[str, str] = {}
    for folder in folders:
        for top, path in _modules_in(folder):
            # Asked by name: to go through all modules would copy every page that has one.
            if path == file or top not in sys.modules or _is_of(sys.modules[top], path):
                continue
            if _is_needed(top):
                hidden[top] = path
            else:
                for name in [name for name in sys.modules if name == top or name.startswith(f"{top}.")]:
                    del sys.modules[name]
    if hidden:
        _refuse_imports(hidden, folders)


def _modules_in(folder: str) -> Iterator[tuple[str, str]]:
    """Modules and packages in a folder, each with its path. A folder without `__init__.py` stands behind all others."""
    try:
        items = list(os.scandir(folder))
    except OSError:
        return
    for item in items:
        name, _, ending = item.name.partition(".")
        is_package = not ending and os.path.isfile(os.path.join(item.path, "__init__.py"))  # noqa: PTH113, PTH118
        if not name.startswith("__") and (is_package or item.name.endswith(_ENDINGS)):
            yield name, item.path


def _is_of(module: ModuleType, path: str) -> bool:
    """Is it the very one that lies there, as where a model is installed among the libraries?"""
    origin = getattr(getattr(module, "__spec__", None), "origin", None)
    return isinstance(origin, str) and f"{os.path.realpath(origin)}/".startswith(f"{os.path.realpath(path)}/")


def _is_needed(top: str) -> bool:
    return top in _NEEDED or top in sys.stdlib_module_names


def _refuse_imports(hidden: dict[str, str], folders: list[str]) -> None:
    """Refuse that the model's own files import these by name: they mean theirs, and would get another.

    Without this the import would go well, and what follows would fail for a reason that nobody sees.
    """
    import_module = builtins.__import__
    own, libraries = tuple(f"{folder}/" for folder in folders), library_folders()

    def import_or_refuse(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        top = name.partition(".")[0]
        if not level and top in hidden:
            by = str((globals or {}).get("__file__", ""))
            if by.startswith(own) and not os.path.realpath(by).startswith(libraries):
                reason = f"{hidden[top]} has the name of a module that the worker itself needs: rename it"
                raise ImportError(reason, name=name, path=hidden[top])
        return import_module(name, globals, locals, fromlist, level)

    builtins.__import__ = import_or_refuse


def _is_library(name: str, libraries: tuple[str, ...], own: str) -> bool:
    spec = getattr(sys.modules.get(name), "__spec__", None)
    origin = getattr(spec, "origin", None)
    if not isinstance(origin, str) or getattr(spec, "name", name) != name:  # built in, made up, or another's alias
        return False
    path = os.path.realpath(origin)
    return path.startswith(libraries) and not (own and path.startswith(own))


def _bounded(names: list[str]) -> list[str]:
    kept: list[str] = []
    nbytes = 0
    for name in names[:MODULES_MAX]:
        nbytes += len(name.encode())
        if nbytes > NAMES_NBYTES_MAX:
            break
        kept.append(name)
    return kept


def fingerprint() -> str:
    """Changes when packages are installed or removed, or the interpreter is another. Not with bytecode that comes."""
    stamps = [sys.version]
    for folder in library_folders():
        try:
            with os.scandir(folder) as entries:
                stamps.extend(sorted(_stamp(entry) for entry in entries if entry.name != "__pycache__"))
        except OSError:
            continue
    return f"{zlib.crc32(chr(0).join(stamps).encode(errors='surrogateescape')):08x}"


def _stamp(entry: os.DirEntry[str]) -> str:
    """A package's folder is known by its name alone: its time changes with the bytecode in it."""
    timed = entry.name.endswith(".dist-info") or not entry.is_dir()
    return f"{entry.path}:{entry.stat().st_mtime_ns}" if timed else entry.path
