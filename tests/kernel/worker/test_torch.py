"""torch in the worker: tensors over the lane's bytes, and TorchScript files."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from huterox_kernel.worker.answers import _copy_tensor
from huterox_kernel.worker.runtimes.base import LoadError
from huterox_wire.errors import InvalidInput, ModelError, NotFound

from .conftest import MODELS, Bench

pytestmark = pytest.mark.torch
Make = Callable[..., Bench]


@pytest.fixture(autouse=True)
def torch() -> Any:
    """Imported by who runs these tests, not by all who collect them."""
    return pytest.importorskip("torch")


# Python models.


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64", "complex64"]
)
def test_a_parameter_annotated_as_a_tensor_gets_one_of_the_same_dtype(bench: Make, torch: Any, dtype: str) -> None:
    array = np.array([[0, 1], [1, 0]], dtype)
    result = bench("tensors.py:Tensors").result(x=array)
    assert result["dtype"] == f"torch.{dtype}"
    assert result["y"].tolist() == (torch.from_numpy(array) + 1).tolist()


def test_bfloat16_comes_and_goes(bench: Make) -> None:
    array = np.array([1.5, -2.0, float("inf")], ml_dtypes.bfloat16)
    worker = bench("tensors.py:Tensors")
    result = worker.result(x=array)
    assert result["dtype"] == "torch.bfloat16"
    assert (result["y"].dtype, result["y"].tolist()) == (array.dtype, [2.5, -1.0, float("inf")])
    assert worker.result("half", x=np.array([1.5], np.float32))["result"].dtype == array.dtype


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3)])
def test_tensors_of_odd_shapes_come_back(bench: Make, shape: tuple[int, ...]) -> None:
    assert bench("tensors.py:Tensors").result(x=np.zeros(shape, np.float32))["y"].shape == shape


@pytest.mark.parametrize(("method", "kind"), [("by_text", "Tensor"), ("optional", "Tensor"), ("array", "ndarray")])
def test_the_annotation_decides_between_tensor_and_array(bench: Make, method: str, kind: str) -> None:
    assert bench("tensors.py:Tensors").result(method, x=np.zeros(1, np.float32)) == {"result": kind}


def test_a_tensor_lies_over_the_callers_own_bytes(bench: Make) -> None:
    worker = bench("tensors.py:Tensors")
    worker.send("address", x=np.zeros(10_000, np.float32))
    memory = np.frombuffer(worker.container.view(0, worker.container.layout.segment_nbytes), np.uint8)
    begin = memory.__array_interface__["data"][0]
    worker.run()
    address = worker.take()[0][2]["result"]
    half = worker.container.layout.request_half
    assert half <= address - begin < half + worker.container.layout.request_half_nbytes
    assert address % 64 == 0


def test_a_tensor_that_the_model_keeps_keeps_its_bytes(bench: Make) -> None:
    worker = bench("tensors.py:Tensors")
    worker.result("keep", x=np.full(100, 2.0, np.float32))
    assert worker.lent_count() == 1
    worker.result(x=np.full(5000, 9.0, np.float32))
    assert worker.result("forget") == {"result": 198.0}
    worker.run()
    worker.take()
    assert worker.lent_count() == 0


def test_a_result_that_requires_grad_is_carried(bench: Make) -> None:
    assert bench("tensors.py:Tensors").result("needs_grad", x=np.ones(2, np.float32))["result"].tolist() == [1, 1]


def test_a_dtype_that_torch_does_not_have_is_the_callers_error(bench: Make) -> None:
    with pytest.raises(InvalidInput, match="longdouble"):
        bench("tensors.py:Tensors").result(x=np.zeros(1, np.longdouble))


# TorchScript.


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = importlib.util.spec_from_file_location("scripted", MODELS / "scripted.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    path = tmp_path_factory.mktemp("script") / "model.pt"
    module.save(path)
    return path


@pytest.fixture
def scripted(bench: Make, script: Path) -> Bench:
    return bench(script.name, source_dir=str(script.parent), runtime="torchscript")


X = np.array([1.0, 2.0], np.float32)


def test_predict_is_forward_and_a_tensor_is_called_result(scripted: Bench) -> None:
    assert scripted.result(x=X)["result"].tolist() == [2.0, 4.0]
    assert scripted.result("forward", x=X, scale=3.0)["result"].tolist() == [3.0, 6.0]


def test_a_tuple_is_named_by_position_and_a_dict_as_it_is(scripted: Bench) -> None:
    result = scripted.result("pair", x=X, y=X)
    assert {name: array.tolist() for name, array in result.items()} == {"0": [2.0, 4.0], "1": [0.0, 0.0]}
    assert scripted.result("named", x=X)["twice"].tolist() == [2.0, 4.0]


def test_inputs_with_foreign_names_go_by_type_and_order(scripted: Bench) -> None:
    assert scripted.result(factor=5.0, audio=X)["result"].tolist() == [5.0, 10.0]
    assert scripted.result("pair", first=X, second=2 * X)["1"].tolist() == [-1.0, -2.0]


def test_numbers_and_lists_become_tensors_where_tensors_are_taken(scripted: Bench) -> None:
    assert scripted.result(x=[1.0, 2.0])["result"].tolist() == [2.0, 4.0]


@pytest.mark.parametrize(
    ("method", "values", "text"),
    [
        ("predict", {}, r"no input 'x' was given; it takes x \(required\), scale"),
        ("predict", {"x": X, "y": X}, "'y' is not known"),
        ("predict", {"a": X, "b": X}, "it takes x"),
        ("pair", {"a": X}, "no input 'x' was given"),
        ("predict", {"a": X, "b": 1.0, "c": 2.0}, "it takes x"),
        ("predict", {"x": "text"}, "'x' must be an array, got str"),
    ],
)
def test_inputs_that_the_method_does_not_take_are_refused(
    scripted: Bench, method: str, values: dict[str, Any], text: str
) -> None:
    with pytest.raises(InvalidInput, match=text):
        scripted.result(method, **values)


def test_a_method_that_is_not_exported_is_not_found(scripted: Bench) -> None:
    with pytest.raises(NotFound, match="it has count, fails, forward, named, pair, predict"):
        scripted.result("train")


def test_a_script_that_raises_is_a_model_error(scripted: Bench) -> None:
    with pytest.raises(ModelError, match="RuntimeError"):
        scripted.result("fails", x=X)


def test_a_script_keeps_its_state_between_calls(scripted: Bench) -> None:
    assert [scripted.result("count")["result"].tolist() for _ in range(2)] == [[1.0], [2.0]]


def test_a_file_that_is_no_torchscript_is_a_clear_error(bench: Make, tmp_path: Path) -> None:
    (tmp_path / "bad.pt").write_bytes(b"not a script")
    with pytest.raises(LoadError, match=r"bad\.pt is not a TorchScript file"):
        bench("bad.pt", source_dir=str(tmp_path), runtime="torchscript")


def test_a_script_takes_no_params(bench: Make, script: Path) -> None:
    with pytest.raises(LoadError, match=r"takes no \[params\]"):
        bench(script.name, source_dir=str(script.parent), runtime="torchscript", params={"a": 1})


def test_what_goes_wrong_on_a_device_is_not_blamed_on_the_tensors_type(torch: Any) -> None:
    """A kernel that has failed is told by the copy that waits for it. Tensors of the device `meta` have no content."""
    with pytest.raises(ModelError, match="taken from its device"):
        _copy_tensor(np.zeros(3, np.float32), torch.empty(3, device="meta"))
