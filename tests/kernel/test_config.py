"""The kernel's configuration file."""

import subprocess
import sys
from pathlib import Path

import pytest

from huterox_kernel.config import ConfigError, load_config, node_name

GOOD = 'switchboard = "ipc:///tmp/back.ipc"\ndir = "/tmp/kernel"\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "kernel.toml"
    path.write_text(text)
    return path


def test_a_file_with_the_two_required_keys_is_enough(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD))
    assert (config.slots, config.preload, config.die_with_parent) == (16, ["numpy", "torch"], False)
    assert node_name(config)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "missing required field `switchboard`"),
        (GOOD + "slot = 3\n", r"unknown key slot \(known: switchboard, dir, node, slots"),
        (GOOD + "slots = 0\n", "`int` >= 1 - at `\\$.slots`"),
        (GOOD + 'slots = "many"\n', "Expected `int`, got `str`"),
        (GOOD + "close_grace_s = -1.0\n", "close_grace_s"),
        (GOOD + "lane_ring_entries = 1000\n", "power of two"),
        (GOOD + 'preload = ["os; import sys"]\n', "not the name of a module"),
        ('switchboard = "/tmp/back.ipc"\ndir = "/tmp"\n', "expected ipc://PATH or tcp://HOST:PORT"),
        ('switchboard = "inproc://x"\ndir = "/tmp"\n', "expected ipc://PATH"),
        (f'switchboard = "ipc:///tmp/{"x" * 120}"\ndir = "/tmp"\n', "at most 107 bytes"),
        ('switchboard = "ipc:///tmp/b"\ndir = ""\n', "dir is empty"),
        ("slots = = 1\n", "not valid TOML"),
    ],
)
def test_a_mistake_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml: No such file"):
        load_config(tmp_path / "absent.toml")


@pytest.mark.system
def test_the_program_ends_with_code_2_and_one_line_on_a_mistake(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + "slot = 3\n")
    ended = subprocess.run(
        [sys.executable, "-m", "huterox_kernel", "--config", str(path)], capture_output=True, text=True, timeout=30
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("huterox_kernel: ")
    assert len(ended.stderr.splitlines()) == 1
