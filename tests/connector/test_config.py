from pathlib import Path

import pytest

from huterox_connector.config import config_from, load_config
from huterox_wire.endpoints import IPC_PATH_NBYTES_MAX
from huterox_wire.errors import InvalidInput

GOOD = {"front": "ipc:///tmp/f", "back": "tcp://127.0.0.1:5555", "store": "/tmp/s.db"}


def test_file_is_read_with_its_tables(tmp_path: Path) -> None:
    path = tmp_path / "connector.toml"
    path.write_text('front = "ipc:///tmp/f"\nback = "ipc:///tmp/b"\nstore = "s.db"\n[core]\npolicy = "clock"\n')
    config = load_config(path)
    assert (config.front, config.core.policy, config.core.heartbeat_s) == ("ipc:///tmp/f", "clock", 0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frnt": "x"}, "frnt"),
        ({"front": 5}, "front"),
        ({"core": {"policy": "best"}}, "best.*lru"),
        ({"core": {"heartbeat": 1}}, "heartbeat"),
        ({"front": "http://x"}, "http://x"),
        ({"front": "ipc://"}, "ipc://"),
        ({"front": "tcp://0.0.0.0:5555"}, "identities"),
        ({"back": "tcp://*:5555"}, "identities"),
        ({"back": "ipc://" + "x" * (IPC_PATH_NBYTES_MAX + 1)}, "108 bytes.*107"),
    ],
)
def test_mistake_is_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        config_from({**GOOD, **change})


def test_longest_socket_path_is_taken() -> None:
    config_from({**GOOD, "front": "ipc://" + "x" * IPC_PATH_NBYTES_MAX})


@pytest.mark.parametrize("text", ["not toml at all [", "front = 1", ""])
def test_file_with_a_mistake_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.toml"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=r"broken\.toml"):
        load_config(path)
    with pytest.raises(InvalidInput, match=r"missing\.toml"):
        load_config(tmp_path / "missing.toml")
