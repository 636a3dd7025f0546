"""The connector's configuration: one TOML file, every limit and time with its unit, checked before anything starts."""

import tomllib
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from huterox_connector.core.config import CoreConfig
from huterox_connector.core.placement import PLACEMENTS
from huterox_connector.core.replacer import POLICIES
from huterox_wire.endpoints import check_endpoint
from huterox_wire.errors import InvalidInput


class ConnectorConfig(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Everything the switchboard daemon can be told."""

    front: str  # where callers connect, e.g. ipc:///run/huterox/switchboard.ipc
    back: str  # where kernels connect
    store: str  # file of the SQLite store
    die_with_parent: bool = False  # SIGKILL when the process that started this one ends
    tick_s: float = 0.05
    batch_max: int = 64  # messages taken from one socket before the other has its turn
    hwm: int = 20_000  # messages that wait for one peer; above core.calls_max, so that only a dead one reaches it
    connections_max: int = 8192  # by ipc: of callers, and of kernels; fewer where the system gives fewer descriptors
    caller_nbytes_max: int = 256 * 1024 * 1024  # answers that may wait for one caller to read them
    callers_nbytes_max: int = 1024 * 1024 * 1024  # for all callers; one may have as much waiting as is left of it
    linger_ms: int = 200
    drain_s: float = 5.0  # at stop: how long calls in flight may take to end
    admin_rate_per_s: float = 500.0  # OPEN, LEASE and ADMIN from one peer
    admin_burst: int = 1000
    log_level: str = "INFO"
    core: CoreConfig = CoreConfig()


def load_config(path: Path) -> ConnectorConfig:
    """Read and check a configuration file. Raises InvalidInput, naming the file and what is wrong in it."""
    try:
        table = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise InvalidInput(f"{path}: {exc}") from exc
    try:
        return config_from(table)
    except InvalidInput as exc:
        raise InvalidInput(f"{path}: {exc}") from exc


def config_from(table: dict[str, Any]) -> ConnectorConfig:
    try:
        config = msgspec.convert(table, ConnectorConfig)
    except msgspec.ValidationError as exc:
        raise InvalidInput(str(exc)) from exc
    if config.core.policy not in POLICIES:
        raise InvalidInput(f"core.policy {config.core.policy!r} is unknown; known are {', '.join(POLICIES)}")
    for node, policy in config.core.node_policies.items():
        if policy not in POLICIES:
            raise InvalidInput(
                f"core.node_policies: {policy!r} of node {node!r} is unknown; known are {', '.join(POLICIES)}"
            )
    if config.core.placement not in PLACEMENTS:
        raise InvalidInput(f"core.placement {config.core.placement!r} is unknown; known are {', '.join(PLACEMENTS)}")
    for endpoint in (config.front, config.back):
        check_endpoint(endpoint)
    return config
