"""`huterox up`: its directory, its errors, and its supervision over stand-ins for the two daemons."""

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import huterox
from huterox.cli import main, supervisor, updir
from huterox.cli.restarts import RESTARTS_MAX, Restarts
from huterox.cli.updir import Settings, UpDir, check_settings
from huterox.endpoint import default_directory, find_endpoint
from huterox_wire.endpoints import IPC_PATH_NBYTES_MAX

WAIT_S = 30.0


def test_a_directory_whose_socket_path_is_too_long_is_refused_before_anything_is_made(tmp_path, capsys):
    path = tmp_path / ("d" * 100)
    assert main.main(["up", "--dir", str(path)]) == 1
    err = capsys.readouterr().err
    nbytes = len(str(path / "switchboard.ipc"))
    assert err.startswith("huterox: InvalidInput: ")
    assert f"at most {IPC_PATH_NBYTES_MAX} bytes, this one has {nbytes}" in err
    assert err.count("\n") == 1
    assert not path.exists()


def test_the_longest_path_that_fits_is_taken(tmp_path):
    room = IPC_PATH_NBYTES_MAX - len(f"{tmp_path}//switchboard.ipc")
    assert len(str(UpDir(tmp_path / ("d" * room)).front)) == IPC_PATH_NBYTES_MAX
    with pytest.raises(huterox.InvalidInput):
        UpDir(tmp_path / ("d" * (room + 1)))
    with pytest.raises(huterox.InvalidInput, match="107"):
        find_endpoint(f"ipc://{tmp_path}/{'d' * 200}")


def test_a_second_up_on_the_same_directory_names_the_first(tmp_path, capsys):
    with UpDir(tmp_path / "d").locked():
        assert main.main(["up", "--dir", str(tmp_path / "d")]) == 1
        err = capsys.readouterr().err
        assert err.startswith("huterox: Conflict: ")
        assert f"pid {os.getpid()}" in err
        assert err.count("\n") == 1
    with UpDir(tmp_path / "d").locked():
        pass


def test_a_second_up_is_kept_away_whatever_was_removed(tmp_path):
    path = tmp_path / "d"
    with UpDir(path).locked():
        shutil.rmtree(path)
        with pytest.raises(huterox.Conflict, match=f"pid {os.getpid()}"), UpDir(path).locked():
            pass
    with UpDir(path).locked():
        pass


def test_one_directory_by_two_names_is_held_once(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "state")
    with UpDir(tmp_path / "a", tmp_path / "state").locked():
        with pytest.raises(huterox.Conflict), UpDir(tmp_path / "b", tmp_path / "state").locked():
            pass
        with pytest.raises((huterox.Conflict, huterox.InvalidInput)), UpDir(tmp_path / "link").locked():
            pass


def test_a_socket_that_somebody_serves_is_not_cleared_away(tmp_path, monkeypatch):
    monkeypatch.setattr(updir, "_DEATH_S", 0.1)
    directory = UpDir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(directory.front))
        server.listen()
        with pytest.raises(huterox.Conflict, match="another process listens"), directory.locked():
            pass
    with directory.locked():  # it has ended, and left its socket
        directory.remove_sockets()
        assert not directory.front.exists()


def test_what_lasts_does_not_lie_where_it_is_wiped_at_logout(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert updir.state_directory() == tmp_path / "state" / "huterox"
    monkeypatch.setenv("XDG_STATE_HOME", "not/absolute")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert updir.state_directory() == tmp_path / ".local" / "state" / "huterox"
    directory = UpDir(tmp_path / "run", tmp_path / "state")
    assert {directory.front.parent, directory.back.parent, directory.lanes.parent} == {tmp_path / "run"}
    assert {directory.store.parent, directory.logs.parent} == {tmp_path / "state"}


def test_a_store_in_the_runtime_directory_is_taken_over_once(tmp_path):
    directory = UpDir(tmp_path / "run", tmp_path / "state")
    with directory.locked():
        assert not directory.adopt_store()
        for name in ("huterox.db", "huterox.db-wal"):
            (directory.path / name).write_text(name)
        assert directory.adopt_store()
        assert not directory.adopt_store()
        assert [path.name for path in directory.path.iterdir()] == []
        assert (directory.state / "huterox.db-wal").read_text() == "huterox.db-wal"
        (directory.path / "huterox.db").write_text("another")
        assert not directory.adopt_store()
        assert directory.store.read_text() == "huterox.db"


def test_a_daemons_log_keeps_its_end_while_the_daemon_writes(tmp_path):
    directory = UpDir(tmp_path)
    directory.logs.mkdir()
    daemon = supervisor.Daemon("kernel", "the kernel", directory, 1.0)
    daemon.shorten_log()  # there is none yet
    with daemon.log.open("ab", buffering=0) as log:
        for _ in range(3):
            log.write(b"x" * 8 * 1024**2)
            daemon.shorten_log()
            assert daemon.log.stat().st_blocks * 512 <= 16 * 1024**2
        log.write(b"\nlast words\n")
    assert daemon.last_words()[-1] == "last words"


def test_the_directory_is_made_private(tmp_path):
    path = tmp_path / "deep" / "d"
    path.mkdir(mode=0o755, parents=True)
    with UpDir(path).locked():
        assert path.stat().st_mode & 0o777 == 0o700
        assert (path / "logs").stat().st_mode & 0o777 == 0o700


def test_a_directory_that_cannot_be_used_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(huterox.InvalidInput, match="cannot be used"), UpDir(tmp_path / "file").locked():
        pass
    with pytest.raises(huterox.InvalidInput, match="cannot be used"), UpDir(tmp_path / "file" / "d").locked():
        pass
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(huterox.InvalidInput, match="belongs to user"), UpDir(tmp_path).locked():
        pass


def test_the_daemons_can_read_what_is_written_for_them(tmp_path):
    connector = pytest.importorskip("huterox_connector.config")
    kernel = pytest.importorskip("huterox_kernel.config")
    directory = UpDir(tmp_path / 'a "d" \\ ä')
    with directory.locked():
        directory.write_configs(Settings(host_mb=1024, slots=3, preload=["numpy"]))
        front = connector.load_config(directory.config("connector"))
        back = kernel.load_config(directory.config("kernel"))
    assert front.front == directory.endpoint
    assert front.back == back.switchboard
    assert (front.die_with_parent, back.die_with_parent) == (True, True)
    assert (back.host_mb, back.slots, back.preload) == (1024, 3, ["numpy"])
    assert back.dir == str(directory.path / "kernel")


def test_a_preload_that_was_not_given_is_left_to_the_kernel(tmp_path):
    directory = UpDir(tmp_path)
    with directory.locked():
        directory.write_configs(Settings(host_mb=1, slots=1, preload=None))
    assert "preload" not in tomllib.loads(directory.config("kernel").read_text())


@pytest.mark.parametrize("settings", [Settings(0, 1, None), Settings(1, 0, None), Settings(1, 10**6, None)])
def test_numbers_that_cannot_be_are_refused(settings):
    with pytest.raises(huterox.InvalidInput):
        check_settings(settings)


def test_half_of_the_memory_is_the_default(tmp_path):
    kernel = pytest.importorskip("huterox_kernel.config")
    directory = UpDir(tmp_path / "d")
    with directory.locked():
        directory.write_configs(Settings(host_mb=None, slots=1, preload=None))
        config = kernel.load_config(directory.config("kernel"))
    assert (config.host_mb, config.host_share) == (0, 0.5)


def test_the_default_directory_follows_the_runtime_directory(tmp_path, monkeypatch):
    monkeypatch.delenv("HUTEROX_ENDPOINT", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert find_endpoint() == f"ipc://{tmp_path}/huterox/switchboard.ipc"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "none"))
    assert default_directory() == Path(f"/tmp/huterox-{os.getuid()}")
    monkeypatch.setenv("HUTEROX_ENDPOINT", "tcp://h:1")
    assert find_endpoint() == "tcp://h:1"
    assert find_endpoint("ipc://@abstract") == "ipc://@abstract"
    for bad in ("http://h", "ipc://", "h:1"):
        with pytest.raises(huterox.InvalidInput, match="endpoint"):
            find_endpoint(bad)


def test_delays_grow_and_end_after_too_many_deaths_in_a_minute():
    restarts = Restarts()
    delays = [restarts.died(float(second), was_ready=True) for second in range(RESTARTS_MAX + 1)]
    assert delays == [0.2, 0.4, 0.8, 1.6, 3.2, None]


def test_old_deaths_are_forgotten():
    restarts = Restarts()
    for minute in range(20):
        assert restarts.died(minute * 61.0, was_ready=True) == 0.2


def test_a_daemon_that_was_never_ready_gets_fewer_chances():
    restarts = Restarts()
    assert [restarts.died(0.0, was_ready=False) for _ in range(3)] == [0.2, 0.4, None]


# --- the supervision, with stand-ins that are found before the real packages ------------------------------------------

STAND_IN = """
import json, os, signal, sys, tomllib, zmq
from huterox_wire.kinds import Kind
from huterox_wire.message import decode, encode
from huterox_wire.meta import AdminReplyMeta, encode_meta
name = __spec__.parent.removeprefix("huterox_")
config = tomllib.load(open(sys.argv[2], "rb"))
folder = os.path.dirname(sys.argv[2])
plan = json.load(open(os.path.join(folder, "plan.json"))).get(name, {})
if plan.get("crash"):
    print("reason one\\nreason two", flush=True)
    sys.exit(3)
def stop(*_):
    with open(os.path.join(folder, "order"), "a") as file:
        file.write(name + "\\n")
    if not plan.get("stubborn"):
        sys.exit(0)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, lambda *_: open(os.path.join(folder, "order"), "a").write(name + " interrupted\\n"))
print(name, "starts", flush=True)
router = zmq.Context().socket(zmq.ROUTER)
if name == "connector":
    router.bind(config["front"])
while True:
    identity, *frames = router.recv_multipart()
    result = encode_meta(AdminReplyMeta({"nodes_ready": 1}))
    router.send_multipart([identity, *encode(Kind.REPLY, decode(frames).header.request_id, 0, 0, result)])
"""


class Up:
    """A running `huterox up` over stand-ins."""

    def __init__(self, tmp_path: Path, plan: dict[str, Any]) -> None:
        for name in ("connector", "kernel"):
            package = tmp_path / "path" / f"huterox_{name}"
            package.mkdir(parents=True)
            (package / "__init__.py").touch()
            (package / "__main__.py").write_text(STAND_IN)
        self.folder = tmp_path / "d"
        self.folder.mkdir()
        (self.folder / "plan.json").write_text(json.dumps(plan))
        self.err = tmp_path / "err"
        with self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "huterox.cli.main", "up", "--dir", str(self.folder), "--host-mb", "64"],
                stdout=subprocess.PIPE,
                stderr=err,
                env={**os.environ, "PYTHONPATH": str(tmp_path / "path")},
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], WAIT_S)[0]
        assert self.process.stdout.readline() == b"ready\n"
        self._await(lambda: "kernel starts" in (self.folder / "logs" / "kernel.log").read_text())

    def _await(self, condition: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline_s, self.err.read_text()
            time.sleep(0.02)

    def child(self, name: str) -> int:
        """The pid of a daemon, once it runs."""
        deadline_s = time.monotonic() + WAIT_S
        while time.monotonic() < deadline_s:
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            for pid in map(int, children):
                with contextlib.suppress(OSError):
                    if f"huterox_{name}".encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                        return pid
            time.sleep(0.02)
        raise AssertionError(f"no {name} runs")

    def told(self, text: str) -> None:
        self._await(lambda: text in self.err.read_text())

    def order(self) -> list[str]:
        return (self.folder / "order").read_text().split("\n")[:-1]

    def close(self) -> None:
        if self.process.poll() is None:
            for name in ("connector", "kernel"):
                with contextlib.suppress(OSError, AssertionError):
                    os.kill(self.child(name), signal.SIGKILL)
            self.process.kill()
        self.process.wait(WAIT_S)
        self.process.stdout.close()


@pytest.fixture
def start_up(tmp_path: Path) -> Iterator[Any]:
    started: list[Up] = []

    def start(**plan: Any) -> Up:
        started.append(Up(tmp_path, plan))
        return started[-1]

    yield start
    for up in started:
        up.close()


@pytest.mark.system
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_kernel_before_the_switchboard_and_leaves_no_socket(start_up, number):
    up = start_up()
    up.wait_ready()
    up.process.send_signal(number)
    assert up.process.wait(WAIT_S) == 0
    assert up.order() == ["kernel", "connector"]
    assert not (up.folder / "switchboard.ipc").exists()


@pytest.mark.system
def test_ctrl_c_in_the_terminal_reaches_up_alone(start_up):
    up = start_up()
    up.wait_ready()
    os.killpg(up.process.pid, signal.SIGINT)
    assert up.process.wait(WAIT_S) == 0
    assert up.order() == ["kernel", "connector"]


@pytest.mark.system
@pytest.mark.parametrize("name", ["connector", "kernel"])
def test_a_daemon_that_dies_is_started_again_whatever_a_cleaner_has_left(start_up, name):
    up = start_up()
    up.wait_ready()
    shutil.rmtree(up.folder / "logs")
    for path in up.folder.glob("*.toml"):
        path.unlink()
    first = up.child(name)
    os.kill(first, signal.SIGKILL)
    up.told("has ended (killed by SIGKILL); it is started again in 0.2 s")
    deadline_s = time.monotonic() + WAIT_S
    while (second := up.child(name)) == first:
        assert time.monotonic() < deadline_s
    assert second != first
    up.process.terminate()
    assert up.process.wait(WAIT_S) == 0


@pytest.mark.system
def test_a_switchboard_that_does_not_answer_is_told(start_up):
    up = start_up()
    up.wait_ready()
    os.kill(up.child("connector"), signal.SIGSTOP)
    up.told("no calls can be made: the switchboard does not answer")
    os.kill(up.child("connector"), signal.SIGCONT)


@pytest.mark.system
def test_a_daemon_that_cannot_start_ends_up_with_its_last_words(start_up):
    up = start_up(kernel={"crash": True})
    assert up.process.wait(WAIT_S) == 1
    *before, last = up.err.read_text().splitlines()
    assert last.startswith("huterox: Unavailable: the kernel keeps ending (exit status 3)")
    assert last.endswith("reason two")
    assert any(line.endswith("kernel.log: reason one") for line in before)
    assert up.order() == ["connector"]


@pytest.mark.system
def test_a_second_signal_kills_what_does_not_end(start_up):
    up = start_up(kernel={"stubborn": True})
    up.wait_ready()
    up.process.send_signal(signal.SIGINT)
    up.told("stopping")
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(10) == 0, up.err.read_text()
    assert "is killed" in up.err.read_text()


@pytest.mark.system
def test_a_directory_is_free_again_after_up_was_killed(start_up):
    up = start_up()
    up.wait_ready()
    children = [up.child("connector"), up.child("kernel")]
    up.process.kill()
    up.process.wait(WAIT_S)
    for pid in children:  # the stand-ins do not ask to die with their parent
        os.kill(pid, signal.SIGKILL)
    with UpDir(up.folder).locked():
        pass
