"""The import law: who may know whom, read from the source without running it.

Cores decide and shells act, so the pure modules import no IO; and the packages know each other in one direction only.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "huterox_wire": ROOT / "wire" / "huterox_wire",
    "huterox_shm": ROOT / "shm" / "huterox_shm",
    "huterox_connector": ROOT / "connector" / "huterox_connector",
    "huterox_kernel": ROOT / "kernel" / "huterox_kernel",
    "huterox": ROOT / "clients" / "python" / "huterox",
    "huterox_bench": ROOT / "bench" / "huterox_bench",
}
MAY_IMPORT = {
    "huterox_wire": set(),
    "huterox_shm": set(),
    "huterox_connector": {"huterox_wire"},
    "huterox_kernel": {"huterox_wire", "huterox_shm"},
    "huterox": {"huterox_wire", "huterox_shm"},
    "huterox_bench": set(PACKAGES),
}
LIGHT = {"huterox_wire", "huterox_shm", "huterox"}
"""What `pip install huterox` alone must be able to import, with these and the standard library."""
LIGHT_DEPENDENCIES = {"zmq", "msgspec", "numpy", "ml_dtypes"}

IO = {
    *("zmq", "asyncio", "socket", "subprocess", "threading", "multiprocessing", "time", "mmap"),
    *("_thread", "concurrent", "ctypes", "fcntl", "io", "os", "queue", "sched", "select", "selectors", "shutil"),
    *("signal", "sqlite3", "ssl", "tempfile", "urllib", "http", "psutil", "pynvml", "uvloop"),
}
UNPICKLERS = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}


def _pure() -> Iterator[Path]:
    yield from PACKAGES["huterox_wire"].rglob("*.py")
    yield from (PACKAGES["huterox_shm"] / f"{name}.py" for name in ("layout", "slab", "ring", "tensor", "errors"))
    for folder in ("core", "handlers"):
        yield from (PACKAGES["huterox_connector"] / folder).rglob("*.py")
    yield from (PACKAGES["huterox_kernel"] / "core").rglob("*.py")
    yield from (PACKAGES["huterox"] / name for name in ("core.py", "lease.py", "unread.py"))


def module_of(path: Path) -> str:
    """The dotted name of a module of ours."""
    name, folder = next((name, folder) for name, folder in PACKAGES.items() if path.is_relative_to(folder))
    parts = path.relative_to(folder).with_suffix("").parts
    return ".".join((name, *(part for part in parts if part != "__init__")))


ALL = sorted(path for folder in PACKAGES.values() for path in folder.rglob("*.py"))
PURE = sorted(_pure())
MODULES = {module_of(path): path for path in ALL}
PURE_MODULES = {module_of(path) for path in PURE}


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    """Dotted names of what a file imports: modules, or names in them where that is a module of ours."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    package = module_of(path).split(".")
    if path.name != "__init__.py":
        package.pop()
    found = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = {f"{module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else module for name in names}
    return found


def top(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def part_of(module: str) -> str:
    """The second word of a dotted name: core, handlers, shell, worker, ..."""
    return module.partition(".")[2].partition(".")[0]


by_path = pytest.mark.parametrize("path", ALL, ids=lambda path: module_of(path))
by_pure_path = pytest.mark.parametrize("path", PURE, ids=lambda path: module_of(path))


@by_pure_path
def test_a_pure_module_imports_no_io(path: Path) -> None:
    assert not IO & top(imports(path))


@by_pure_path
def test_a_pure_module_imports_only_pure_modules_of_ours(path: Path) -> None:
    ours = {name for name in imports(path) if name.partition(".")[0] in PACKAGES}
    packages = {name for name in ours if name in MODULES and MODULES[name].name == "__init__.py"}
    assert ours - packages <= PURE_MODULES
    for name in packages - PURE_MODULES:
        assert not imports(MODULES[name]), f"{name} is imported by a pure module and is not empty"


@by_path
def test_a_package_imports_only_those_that_it_may_know(path: Path) -> None:
    package = module_of(path).partition(".")[0]
    assert (top(imports(path)) & set(PACKAGES)) - {package} <= MAY_IMPORT[package]


@by_path
def test_core_knows_no_shell_and_handlers_know_no_shell(path: Path) -> None:
    module = module_of(path)
    inner = {part_of(name) for name in imports(path) if name.partition(".")[0] == module.partition(".")[0]}
    beyond = {"core": {"handlers", "shell", "worker", "__main__"}, "handlers": {"shell", "worker", "__main__"}}
    assert not inner & beyond.get(part_of(module), set())


@pytest.mark.parametrize("package", ["huterox_connector", "huterox_kernel"])
def test_only_main_and_the_shell_import_the_shell(package: str) -> None:
    for module, path in MODULES.items():
        if module.startswith(f"{package}.") and part_of(module) not in ("shell", "__main__"):
            assert not [name for name in imports(path) if name.startswith(f"{package}.shell")], module


@by_path
def test_nothing_can_unpickle(path: Path) -> None:
    assert not UNPICKLERS & top(imports(path))


@pytest.mark.parametrize("package", sorted(LIGHT))
def test_the_light_packages_import_nothing_heavy_at_the_top_level(package: str) -> None:
    known = {*sys.stdlib_module_names, *LIGHT_DEPENDENCIES, *LIGHT}
    for module, path in MODULES.items():
        if module.partition(".")[0] == package:
            assert top(imports(path, top_level_only=True)) <= known, module


def test_the_law_finds_what_it_looks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "huterox_shm"
    package.mkdir()
    monkeypatch.setitem(PACKAGES, "huterox_shm", package)
    module = package / "ring.py"
    module.write_text(
        "import os.path as p, json\nfrom . import lane\nfrom .slab import Slab\nfrom huterox_wire import header\n"
        "def f():\n    import time\n    from multiprocessing import shared_memory\n"
    )
    found = imports(module)
    assert top(found) == {"os", "json", "huterox_shm", "huterox_wire", "time", "multiprocessing"}
    assert {"huterox_shm.lane", "huterox_shm.slab", "huterox_wire.header"} <= found
    assert "time" not in imports(module, top_level_only=True)


def test_every_pure_module_that_the_law_names_exists() -> None:
    assert [path for path in PURE if not path.is_file()] == []
    assert len(PURE) > 20
