"""`deploy/*.toml` say that they hold every default: they do, with the values that the code has."""

import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from huterox_connector.config import ConnectorConfig
from huterox_connector.config import load_config as load_connector
from huterox_kernel.config import KernelConfig
from huterox_kernel.config import load_config as load_kernel

DEPLOY = Path(__file__).parents[1] / "deploy"
CONFIGS: dict[str, tuple[Any, Any]] = {
    "connector.toml": (ConnectorConfig, load_connector),
    "kernel.toml": (KernelConfig, load_kernel),
}


def defaults_of(config: type[msgspec.Struct]) -> dict[str, Any]:
    """Every field that has a default, with it; of a nested configuration its own."""
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(config):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            found[field.name] = defaults_of(field.type)
        elif field.default is not msgspec.NODEFAULT:
            found[field.name] = field.default
        elif field.default_factory is not msgspec.NODEFAULT:
            found[field.name] = field.default_factory()
    return found


def required_of(config: type[msgspec.Struct]) -> set[str]:
    return {field.name for field in msgspec.structs.fields(config) if field.required}


def test_every_file_is_compared() -> None:
    assert {path.name for path in DEPLOY.glob("*.toml")} == set(CONFIGS)


@pytest.mark.parametrize("name", CONFIGS)
def test_file_holds_every_default_and_nothing_else(name: str) -> None:
    config, load = CONFIGS[name]
    written = tomllib.loads((DEPLOY / name).read_text())
    assert {key: value for key, value in written.items() if key not in required_of(config)} == defaults_of(config)
    assert required_of(config) <= written.keys()
    load(DEPLOY / name)


def test_nested_configurations_are_compared_too() -> None:
    assert defaults_of(ConnectorConfig)["core"]["heartbeat_s"] == 0.5
