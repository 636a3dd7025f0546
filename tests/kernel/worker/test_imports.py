"""What a load has imported that its zygote had not."""

import builtins
import importlib
import sys
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from huterox_kernel.worker import imports
from huterox_kernel.worker.imports import MODULES_MAX, Watch, give_way


@pytest.fixture(autouse=True)
def clean_modules() -> Iterator[None]:
    """Modules that a test forgets and imports anew are the old ones again after it."""
    path, modules = list(sys.path), dict(sys.modules)
    yield
    sys.path[:] = path
    for name in [name for name in sys.modules if modules.get(name) is not sys.modules[name]]:
        del sys.modules[name]
    sys.modules.update(modules)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(imports, "library_folders", lambda: (f"{folder}/",))
    return folder


def write(folder: Path, name: str, code: str = "") -> None:
    path = folder / f"{name.replace('.', '/')}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code)
    importlib.invalidate_caches()


def test_library_modules_are_told_those_that_import_others_before_them(library: Path) -> None:
    write(library, "outer", "import inner")
    write(library, "inner")
    write(library, "last")
    watch = Watch()
    importlib.import_module("outer")
    importlib.import_module("last")
    assert watch.count() == 3
    result = watch.result("")
    assert result is not None
    assert (result.modules, result.sets_environment) == (["last", "outer", "inner"], False)


def test_what_was_there_before_is_not_told(library: Path) -> None:
    write(library, "early")
    importlib.import_module("early")
    watch = Watch()
    importlib.import_module("early")
    assert watch.count() == 0
    assert watch.result("") is None


def test_what_lies_beside_a_model_is_the_models_own(library: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    write(models, "helper")
    write(library, "package/models/one", "")  # a model that is installed itself
    write(library, "useful")
    sys.path.insert(0, str(models))
    sys.path.insert(0, str(library / "package" / "models"))
    watch = Watch()
    for name in ("helper", "one", "useful"):
        importlib.import_module(name)
    result = watch.result(str(library / "package" / "models"))
    assert result is not None
    assert result.modules == ["useful"]


def test_a_load_that_sets_environment_variables_says_so(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(library, "telling")
    watch = Watch()
    monkeypatch.setenv("TELLING_OFF", "1")
    importlib.import_module("telling")
    result = watch.result("")
    assert result is not None
    assert result.sets_environment


def test_a_load_that_takes_modules_away_teaches_nothing(library: Path) -> None:
    write(library, "late")
    write(library, "marker")
    importlib.import_module("marker")
    watch = Watch()
    importlib.import_module("late")
    del sys.modules["marker"]
    assert watch.result("") is None


def test_what_is_told_is_bounded(library: Path) -> None:
    for index in range(MODULES_MAX + 10):
        write(library, f"many_{index}")
    watch = Watch()
    for index in range(MODULES_MAX + 10):
        importlib.import_module(f"many_{index}")
    result = watch.result("")
    assert result is not None
    assert len(result.modules) == MODULES_MAX


@pytest.fixture
def plain_import(monkeypatch: pytest.MonkeyPatch) -> None:
    """`builtins.__import__` is the old one again after the test."""
    monkeypatch.setattr(builtins, "__import__", builtins.__import__)


def test_a_preloaded_module_makes_way_for_one_of_its_name_beside_the_model(library: Path, tmp_path: Path) -> None:
    write(library, "helpers/__init__", "whose = 'library'")
    write(library, "helpers/more")
    for name in ("other", "weights", "fast"):
        write(library, name, "whose = 'library'")
    for name in ("helpers", "helpers.more", "other", "weights", "fast"):
        importlib.import_module(name)
    models = tmp_path / "models"
    write(models, "helpers", "whose = 'model'")
    (models / "weights").mkdir()  # plain data: no import finds it before a module
    (models / f"fast{EXTENSION_SUFFIXES[0]}").write_bytes(b"")
    write(models, "__main__", "")
    give_way([str(models)], "")
    assert {"helpers", "helpers.more", "other", "weights", "fast", "__main__"} & sys.modules.keys() == {
        "other",
        "weights",
        "__main__",
    }


def test_a_model_that_is_installed_among_the_libraries_hides_none_of_them(library: Path) -> None:
    write(library, "package/__init__")
    write(library, "single")
    for name in ("package", "single"):
        importlib.import_module(name)
    give_way([str(library)], "")
    assert {"package", "single"} <= sys.modules.keys()


@pytest.mark.usefixtures("plain_import")
def test_what_the_worker_needs_makes_way_for_nobody_and_the_model_is_told(library: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    for name in ("numpy", "json"):
        write(models, name, "raise RuntimeError('of the model')")
    write(models, "model", "import json")
    write(models, "deep/model", "from numpy import zeros")
    write(models, "innocent", "import random")
    write(library, "a_library", "import json, numpy")
    sys.path.insert(0, str(models))
    give_way([str(models)], "")
    assert "numpy" in sys.modules
    importlib.import_module("a_library")
    importlib.import_module("innocent")
    for name, hidden in (("model", "json"), ("deep.model", "numpy")):
        with pytest.raises(ImportError, match=f"{models}/{hidden}.py has the name of a module that the worker itself"):
            importlib.import_module(name)


@pytest.mark.usefixtures("plain_import")
def test_an_entry_named_as_a_module_may_import_that_module(tmp_path: Path) -> None:
    write(tmp_path, "random", "")
    before = builtins.__import__
    give_way([str(tmp_path)], str(tmp_path / "random.py"))
    assert builtins.__import__ is before


def test_the_fingerprint_changes_when_a_package_is_installed(library: Path) -> None:
    before = imports.fingerprint()
    assert imports.fingerprint() == before
    write(library, "new_package")
    assert imports.fingerprint() != before


def test_bytecode_that_comes_is_no_change_of_packages(library: Path) -> None:
    """Or all that was skipped would be tried again after the first imports."""
    (library / "package").mkdir()
    before = imports.fingerprint()
    (library / "__pycache__").mkdir()
    (library / "package" / "__pycache__").mkdir()
    assert imports.fingerprint() == before


def test_a_package_that_is_installed_again_is_another(library: Path) -> None:
    (library / "package-1.0.dist-info").mkdir()
    before = imports.fingerprint()
    (library / "package-1.0.dist-info" / "RECORD").touch()
    assert imports.fingerprint() != before
