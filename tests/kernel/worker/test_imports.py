"""What a load has imported that its zygote had not."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from huterox_kernel.worker import imports, zygote
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


def test_a_preloaded_module_makes_way_for_one_of_its_name_beside_the_model(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(library, "helpers/__init__", "whose = 'library'")
    write(library, "helpers/more")
    write(library, "other", "whose = 'library'")
    for name in ("helpers", "helpers.more", "other"):
        importlib.import_module(name)
    monkeypatch.setattr(imports, "preloaded_later", {"helpers", "other"})
    models = tmp_path / "models"
    write(models, "deep/helpers", "whose = 'model'")
    give_way(str(models), "deep/model.py:Model")
    assert "helpers" not in sys.modules
    assert "helpers.more" not in sys.modules
    assert "other" in sys.modules


def test_configured_modules_make_way_for_nobody(library: Path, tmp_path: Path) -> None:
    write(tmp_path, "json", "")
    give_way(str(tmp_path), "json.py:Model")
    assert "json" in sys.modules


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


def test_a_module_that_leaves_a_gpu_open_touches_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zygote, "thread_count", lambda: 1)  # of the test's process: not the question here
    monkeypatch.setattr(zygote, "_GPUS", str(tmp_path / "nvidia"))
    before = zygote._open_files()
    assert zygote._unfit(before) == ""
    with (tmp_path / "nvidiactl").open("w"):
        assert zygote._unfit(before) == "it touches a GPU"
    with (tmp_path / "other").open("w"):
        assert zygote._unfit(before) == f"it leaves {tmp_path}/other open"
