"""The kernel's configuration file."""

import subprocess
import sys
from pathlib import Path

import pytest

from huterox_kernel.config import ConfigError, KernelConfig, lane_socket, load_config, node_name
from huterox_shm.slab import Slab
from huterox_wire.limits import MESSAGE_NBYTES_MAX

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
        (GOOD + 'devices = "gpu0"\n', 'expected "all" or a list of ids'),
        (GOOD + "devices = 3\n", "devices"),
        (GOOD + "device_mb = -1\n", "device_mb"),
        (GOOD + "device_mb = { GPU-1 = -5 }\n", "device_mb"),
        (GOOD + "memory_return_timeout_s = 0.0\n", "memory_return_timeout_s"),
        (GOOD + 'preload = ["os; import sys"]\n', "not the name of a module"),
        ('switchboard = "/tmp/back.ipc"\ndir = "/tmp"\n', "expected ipc://PATH or tcp://HOST:PORT"),
        ('switchboard = "inproc://x"\ndir = "/tmp"\n', "expected ipc://PATH"),
        ('switchboard = "tcp://10.0.0.5:5555"\ndir = "/tmp"\n', "identities, in a later version"),
        (f'switchboard = "ipc:///tmp/{"x" * 120}"\ndir = "/tmp"\n', "at most 107 bytes"),
        ('switchboard = "ipc:///tmp/b"\ndir = ""\n', "dir is empty"),
        ("slots = = 1\n", "not valid TOML"),
        (GOOD + "lease_ring_entries = 1000\n", "lease_ring_entries = 1000: expected a power of two"),
        (GOOD + "lease_half_mb = 512\nlease_half_mb_max = 256\n", "more than lease_half_mb_max"),
        (GOOD + "lease_lanes_max = -1\n", "lease_lanes_max"),
        (GOOD + "worker_spin_us = 1001\n", "worker_spin_us"),
        (GOOD + "lease_uids = [-1]\n", "lease_uids"),
        (GOOD + f'lease_socket = "/tmp/{"x" * 120}"\n', "lease_socket = .*at most 107 bytes"),
        (f'switchboard = "ipc:///tmp/b"\ndir = "/tmp/{"x" * 100}"\n', "lease_socket = .*lanes.sock.*at most 107 bytes"),
    ],
)
def test_a_mistake_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_lanes_are_fetched_in_the_kernels_folder_unless_it_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    relative = 'switchboard = "ipc:///tmp/back.ipc"\ndir = "kernel"\n'
    assert lane_socket(load_config(write(tmp_path, relative))) == f"{tmp_path}/kernel/lanes.sock"
    assert lane_socket(load_config(write(tmp_path, relative + 'lease_socket = "/run/l.sock"\n'))) == "/run/l.sock"


@pytest.mark.system
@pytest.mark.parametrize("what", ["a file", "a folder that is not there"])
def test_a_lane_socket_that_cannot_be_is_one_clear_line(tmp_path: Path, what: str) -> None:
    where = write(tmp_path, "") if what == "a file" else tmp_path / "absent" / "lanes.sock"
    text = f'switchboard = "ipc:///tmp/back.ipc"\ndir = "{tmp_path}/k"\nlease_socket = "{where}"\n'
    (tmp_path / "other.toml").write_text(text)
    command = [sys.executable, "-m", "huterox_kernel", "--config", str(tmp_path / "other.toml")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert ended.returncode == 2
    assert f"huterox_kernel: lease_socket = '{where}': " in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


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


def test_lanes_have_room_for_the_largest_message_unless_they_are_set_to_less() -> None:
    config = KernelConfig(switchboard="ipc:///tmp/b", dir="/tmp")
    for half_mb in (config.lane_half_mb, config.lease_half_mb):
        assert Slab(0, half_mb << 20).nbytes_max >= MESSAGE_NBYTES_MAX
