"""What a model's load has imported that its zygote had not: told to the kernel, so that the next zygote has it.

Only modules of the interpreter's own library and of its installed packages count. What lies beside a model is the
model's own: it may differ from model to model under one name, so it is never preloaded, and where a model has such a
module beside it, the preloaded one of that name makes way (`give_way`).

How long each import took is not measured here, which would take hooks in the import system; the zygote that imports
them anew measures each. Here it is enough that the stages of the load that imported anything took long.
"""

import os
import sys
import sysconfig
import zlib
from typing import Final

from huterox_kernel.worker.control import Imported

DEAR_S: Final = 0.03
"""Loads whose imports took less are not worth a new zygote."""

MODULES_MAX: Final = 512
NAMES_NBYTES_MAX: Final = 32 * 1024

preloaded_later: set[str] = set()
"""Packages that only learned modules brought into this zygote; children inherit it."""


class Watch:
    """Sees what is imported from its making on.

    It looks at the end of the list of modules only: to touch a name is to count its references, and so to copy the page
    that it shares with the zygote. Going through all of them cost 3 MB of every worker's own memory.
    """

    def __init__(self) -> None:
        self._last = next(reversed(sys.modules))
        self._environment = dict(os.environ)

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
        return Imported(_bounded(names), sets_environment=dict(os.environ) != self._environment)


def library_folders() -> tuple[str, ...]:
    """Where this interpreter keeps its library and what is installed into it."""
    paths = sysconfig.get_paths()
    folders = {os.path.realpath(paths[key]) + os.sep for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    return tuple(sorted(folders))


def give_way(source_dir: str, entry: str) -> None:
    """Forget learned modules that have the name of something beside the model: the model means its own."""
    if not preloaded_later:
        return
    beside: set[str] = set()
    file, _, _ = entry.rpartition(":")
    entry_folder = os.path.dirname(os.path.join(source_dir, file)) if file.endswith(".py") else ""  # noqa: PTH118, PTH120
    for folder in {source_dir, entry_folder} - {""}:
        try:
            beside.update(item.partition(".")[0] for item in os.listdir(folder))  # noqa: PTH208 - Path is slower
        except OSError:
            continue
    for top in beside & preloaded_later:
        for name in [name for name in sys.modules if name == top or name.startswith(f"{top}.")]:
            del sys.modules[name]


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
