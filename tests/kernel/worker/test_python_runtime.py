"""Loading plain Python classes, and what their signatures take."""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from huterox_kernel.worker.runtimes import python
from huterox_kernel.worker.runtimes.base import LoadError
from huterox_wire.errors import InvalidInput, NotFound
from huterox_wire.nodes import ModelSpec

from .conftest import MODELS, Bench

Make = Callable[..., Bench]


@pytest.fixture(autouse=True)
def clean_imports(tmp_path: Path) -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if str(tmp_path) in str(getattr(sys.modules[name], "__spec__", "")):
            del sys.modules[name]


def load(entry: str, **values: Any) -> python.PythonModel:
    return python.load(ModelSpec(**{"name": "m", "source_dir": str(MODELS), "entry": entry, **values}), lambda _: None)


def test_stages_are_announced_in_order(bench: Make) -> None:
    assert bench("plain.py:Warm").stages == ["import", "load", "warmup"]


def test_warmup_runs_before_the_first_call(bench: Make) -> None:
    assert bench("plain.py:Warm").result() == {"result": 1}


def test_the_constructor_gets_params_and_the_device_if_it_takes_one(bench: Make) -> None:
    worker = bench("plain.py:Echo", params={"offset": 5})
    assert worker.result(x=np.zeros(1))["device"] == "cpu"
    assert worker.result("plus", x=np.zeros(1))["result"].tolist() == [6.0]


def test_a_device_among_the_params_wins(bench: Make) -> None:
    assert bench("plain.py:Echo", params={"device": "cpu:0"}).result(x=np.zeros(1))["device"] == "cpu:0"


def test_params_that_the_constructor_does_not_take_are_a_clear_error() -> None:
    with pytest.raises(LoadError, match=r"Echo\(.*\) cannot be called with \[params\] \['offste'\]: .*'offste'"):
        load("plain.py:Echo", params={"offste": 5})


def test_a_factory_function_may_stand_for_the_class() -> None:
    assert load("signatures.py:factory", params={"greeting": "hi"}).method("keyword").function(a=1) == 1


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ("plain.py", "expected path/file.py:Class or package.module:Class"),
        ("plain.py:", "expected path/file.py:Class"),
        (":Class", "expected path/file.py:Class"),
        ("absent.py:Class", "no such file: .*absent.py"),
        ("plain.py:Absent", r"plain.py has no class 'Absent'; it has Echo, "),
        ("plain.py:np", "has no class 'np'"),
    ],
)
def test_an_entry_that_leads_nowhere_is_a_clear_error(entry: str, text: str) -> None:
    with pytest.raises(LoadError, match=text):
        load(entry)


def test_an_import_that_fails_is_raised_as_it_is() -> None:
    with pytest.raises(ModuleNotFoundError, match="a_module_that_nobody_has"):
        load("broken_import.py:Model")


def test_a_module_that_does_not_exist_is_raised_as_it_is() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        load("no_such_package.module:Class")


def test_a_package_beside_the_model_file_can_be_the_entry(tmp_path: Path) -> None:
    package = tmp_path / "package_of_models"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "one.py").write_text("class Model:\n    def predict(self): return 'one'\n")
    model = load("package_of_models.one:Model", source_dir=str(tmp_path))
    assert model.method("predict").function() == "one"


def test_a_file_may_import_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "sibling.py").write_text("value = 3\n")
    (tmp_path / "deep" / "model.py").write_text(
        "import sibling\nclass Model:\n    def predict(self): return sibling.value\n"
    )
    assert load("deep/model.py:Model", source_dir=str(tmp_path)).method("predict").function() == 3


HELPED = "from .helper import value\nclass Model:\n    def predict(self): return [__name__, value]\n"


@pytest.mark.parametrize(
    ("files", "entry", "source", "name"),
    [
        (["folder_a/helper.py"], "folder_a/model.py:Model", ".", "folder_a.model"),
        (["deep_b/er/helper.py"], "deep_b/er/model.py:Model", ".", "deep_b.er.model"),
        (["pkg_c/__init__.py", "pkg_c/helper.py"], "pkg_c/model.py:Model", ".", "pkg_c.model"),
        (["src/pkg_d/__init__.py", "src/pkg_d/helper.py"], "src/pkg_d/model.py:Model", ".", "pkg_d.model"),
        (["pkg_e/__init__.py", "pkg_e/helper.py"], "model.py:Model", "pkg_e", "pkg_e.model"),
        (
            ["pkg_f/__init__.py", "pkg_f/sub/__init__.py", "pkg_f/sub/helper.py"],
            "sub/model.py:Model",
            "pkg_f",
            "pkg_f.sub.model",
        ),
        (["pkg_g/__init__.py", "pkg_g/helper.py", "toml/x"], "../pkg_g/model.py:Model", "toml", "pkg_g.model"),
        (["pkg_h/__init__.py", "pkg_h/helper.py"], "pkg_h.model:Model", ".", "pkg_h.model"),
        (["pkg_i/__init__.py", "pkg_i/helper.py"], "pkg_i.model:Model", "pkg_i", "pkg_i.model"),
        (["pkg_q/__init__.py", "pkg_q/helper.py"], "pkg_q/__init__.py:Model", ".", "pkg_q"),
        (["outer_r/plain_r/helper.py"], "plain_r/model.py:Model", "outer_r/../outer_r", "plain_r.model"),
        (["spaced_j/helper.py"], "spaced_j/my-model.py:Model", ".", "spaced_j.my-model"),
    ],
)
def test_a_file_has_the_name_by_which_python_finds_it_and_may_import_relatively(
    tmp_path: Path, files: list[str], entry: str, source: str, name: str
) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("value = 3\n" if file.endswith("helper.py") else "")
    folder = (tmp_path / files[-1]).parent if "toml" not in files[-1] else tmp_path / "pkg_g"
    stem = "__init__" if "__init__" in entry else name.rpartition(".")[2]
    (folder / f"{stem}.py").write_text(HELPED)
    assert load(entry, source_dir=str(tmp_path / source)).method("predict").function() == [name, 3]
    assert importlib.util.find_spec(name) is not None


@pytest.mark.parametrize("file", ["random.py", "model_k.v2.py", "json/model_l.v3.py", "twice_m.py"])
def test_a_file_whose_name_is_taken_or_is_none_is_loaded_all_the_same(tmp_path: Path, file: str) -> None:
    (tmp_path / "twice_m").mkdir()
    (tmp_path / "twice_m" / "__init__.py").write_text("")  # a package wins over a module of its name
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("class Model:\n    def predict(self): return [__name__, __file__]\n")
    name, where = load(f"{file}:Model", source_dir=str(tmp_path)).method("predict").function()
    assert name.startswith("huterox_model_")
    assert where == str(tmp_path / file)
    assert sys.modules[name].Model.__module__ == name


def test_in_a_folder_named_as_a_module_a_file_has_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "numpy").mkdir()
    (tmp_path / "numpy" / "model_n.py").write_text(
        "import numpy\nclass Model:\n    def predict(self): return __name__\n"
    )
    assert load("numpy/model_n.py:Model", source_dir=str(tmp_path)).method("predict").function() == "model_n"


def test_a_package_is_no_place_to_search_before_others(tmp_path: Path) -> None:
    """Its own `types_o.py` is found behind all others, for models that have always imported it so."""
    package, library = tmp_path / "pkg_o", tmp_path / "library"
    for folder in (package, library):
        folder.mkdir()
        (folder / "types_o.py").write_text(f"whose = {folder.name!r}\n")
    (package / "__init__.py").write_text("")
    (package / "only_o.py").write_text("whose = 'the package'\n")
    (package / "model.py").write_text(
        "import types_o, only_o\nclass Model:\n    def predict(self): return [types_o.whose, only_o.whose]\n"
    )
    sys.path.append(str(library))
    model = load("pkg_o/model.py:Model", source_dir=str(tmp_path))
    assert model.method("predict").function() == ["library", "the package"]


def test_an_error_in_the_package_of_a_model_is_raised_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "pkg_p").mkdir()
    (tmp_path / "pkg_p" / "__init__.py").write_text("import nobody_has_this")
    (tmp_path / "pkg_p" / "model.py").write_text("class Model: ...\n")
    with pytest.raises(ModuleNotFoundError, match="nobody_has_this"):
        load("pkg_p/model.py:Model", source_dir=str(tmp_path))


def test_a_model_that_needs_cuda_and_was_given_no_device_is_a_clear_error() -> None:
    with pytest.raises(LoadError, match="needs a CUDA device, and its container was given none"):
        load("plain.py:Echo", device="cuda")


@pytest.mark.parametrize(
    ("wants", "given", "used"),
    [
        ("cuda", "GPU-1", "cuda"),
        ("any", "GPU-1", "cuda"),
        ("any", "", "cpu"),
        ("cpu", "", "cpu"),
        ("cpu", "GPU-1", "cpu"),
    ],
)
def test_the_device_is_the_one_that_the_container_was_given(wants: Any, given: str, used: str) -> None:
    spec = ModelSpec(name="m", source_dir=str(MODELS), entry="plain.py:Sees", device=wants)
    model = python.load(spec, lambda _: None, given)
    assert model.method("predict").function()[0] == used


# Signatures.


def call(model: python.PythonModel, name: str, **values: Any) -> Any:
    method = model.method(name)
    method.check(values.keys())
    return method.function(**values)


def test_positional_only_parameters_are_given_in_their_order() -> None:
    model = load("signatures.py:Signatures")
    assert call(model, "positional", c=30, a=10) == [10, 2, 30]
    assert call(model, "positional", b=20, a=10) == [10, 20, 3]


def test_keyword_only_static_and_class_methods_can_be_called() -> None:
    model = load("signatures.py:Signatures")
    assert call(model, "keyword", a=4) == 4
    assert call(model, "static", a=5) == 5
    assert call(model, "of_class", a=6) == "Signatures6"


def test_variadic_parameters_are_no_names() -> None:
    model = load("signatures.py:Signatures")
    assert call(model, "packs") == 1
    with pytest.raises(InvalidInput, match="'values' is not known"):
        call(model, "packs", values=1)


def test_an_annotation_that_does_not_resolve_is_no_obstacle() -> None:
    assert call(load("signatures.py:Signatures"), "unknown_annotation", x=np.ones(3)) == 3


def test_functions_that_instances_hold_are_no_methods() -> None:
    with pytest.raises(NotFound):
        load("signatures.py:Signatures").method("helper")
