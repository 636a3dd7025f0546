"""The example configurations are read, and say what the defaults are."""

import tomllib
from pathlib import Path
from typing import Any

import msgspec

from huterox_connector.config import ConnectorConfig
from huterox_connector.config import load_config as load_connector
from huterox_connector.core.config import CoreConfig
from huterox_kernel.config import load_config as load_kernel

DEPLOY = Path(__file__).parent.parent.parent / "deploy"


def given(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text())


def test_connector_example_holds_the_defaults() -> None:
    path = DEPLOY / "connector.toml"
    config = load_connector(path)
    assert config.core == CoreConfig()
    minimal = {key: given(path)[key] for key in ("front", "back", "store")}
    assert config == msgspec.convert(minimal, type(config))


def test_kernel_example_holds_the_defaults() -> None:
    path = DEPLOY / "kernel.toml"
    config = load_kernel(path)
    minimal = {key: given(path)[key] for key in ("switchboard", "dir")}
    assert config == msgspec.convert(minimal, type(config))


def test_connector_example_has_every_key() -> None:
    table = given(DEPLOY / "connector.toml")
    assert set(table) == set(ConnectorConfig.__struct_fields__)
    assert set(table["core"]) == set(CoreConfig.__struct_fields__)
