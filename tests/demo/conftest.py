"""The demo's modules are plain files, not a package: tests load them by path, as the worker does."""

import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

DEMO = Path(__file__).parents[2] / "demo"


def load(file: str) -> ModuleType:
    path = DEMO / file
    name = f"huterox_demo_{path.stem}"
    if name not in sys.modules:
        spec = spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = sys.modules[name] = module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope="session")
def demo_folder() -> Path:
    return DEMO


@pytest.fixture(scope="session")
def load_demo_module() -> Callable[[str], ModuleType]:
    return load


@pytest.fixture(scope="session")
def inputs() -> ModuleType:
    return load("inputs.py")


@pytest.fixture(scope="session")
def show() -> ModuleType:
    return load("show.py")


@pytest.fixture(scope="session")
def vad_module() -> ModuleType:
    return load("models/vad.py")


@pytest.fixture(scope="session")
def embedder_module() -> ModuleType:
    return load("models/embedder.py")


@pytest.fixture(scope="session")
def reader_module() -> ModuleType:
    return load("models/reader.py")
