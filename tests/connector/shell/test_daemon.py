"""The daemon itself: restarts, what is removed under it, its rest and its end."""

import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import zmq
from tests.connector.shell.daemon import Daemon, serve

from huterox_connector.shell import daemon as daemon_module
from huterox_wire.header import pack_header, unpack_header
from huterox_wire.kinds import Flag, Kind
from huterox_wire.message import encode

pytestmark = pytest.mark.system
RANDOM = random.Random(1)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_what_was_acknowledged_is_there_after_a_restart(daemon: Daemon, how: int) -> None:
    _, _, handle, _ = serve(daemon)
    code = daemon.stop(how)
    assert code == (0 if how == signal.SIGTERM else -signal.SIGKILL)
    daemon.start()
    again = daemon.caller()
    status = again.ask("status")
    assert (status["epoch"], status["models"], status["services"]) == (2, 1, 1)
    assert again.open("s") == handle
    if how == signal.SIGTERM:  # a crash may take the last events with it, never desired state
        kinds = {event["kind"] for event in again.ask("events")["events"]}
        assert {"node.registered", "deploy", "create", "load", "ready"} <= kinds


def test_second_daemon_on_the_same_store_ends_with_one_clear_line(daemon: Daemon) -> None:
    daemon.caller().ask("status")
    command = [sys.executable, "-m", "huterox_connector", "--config", str(daemon.folder / "connector.toml")]
    second = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert second.returncode == 2
    assert second.stderr.strip().endswith("is in use by another switchboard")
    daemon.caller().ask("status")


def test_sockets_that_were_removed_are_made_again_and_nobody_loses_a_connection(daemon: Daemon) -> None:
    caller, kernel, handle, _ = serve(daemon)
    for name in ("n2", "n3"):  # what was made again is watched, too
        for path in ("front.ipc", "back.ipc"):
            (daemon.folder / path).unlink()
        assert daemon.caller().ask("status")
        assert daemon.kernel(name).receive_control(Kind.REGISTER)
    caller.send(encode(Kind.CALL, 11, handle, 5_000_000, b"\x80"))
    route, frames = kernel.receive_call()
    kernel.send([route, pack_header(Kind.REPLY, Flag.PACKED, 0, unpack_header(frames[0]).request_id)])
    assert unpack_header(caller.receive()[0]).request_id == 11
    log = (daemon.folder / "log").read_text()
    assert "front.ipc was removed; it was made again, for callers" in log
    assert "back.ipc was removed; it was made again, for kernels" in log


def test_a_store_that_was_removed_is_told_and_keeps_a_second_daemon_from_the_sockets(daemon: Daemon) -> None:
    caller = daemon.caller()
    assert caller.ask("status")
    (daemon.folder / "store.db").unlink()
    wait_for_log(daemon, "store.db was removed or replaced")
    command = [sys.executable, "-m", "huterox_connector", "--config", str(daemon.folder / "connector.toml")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 2
    assert "another process listens at" in ended.stderr
    assert caller.ask("status")
    assert daemon.caller().ask("status")


def wait_for_log(daemon: Daemon, text: str) -> None:
    deadline_s = time.monotonic() + 30
    while text not in (daemon.folder / "log").read_text():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def wakes(pid: int) -> int:
    """How often the threads of a process have gone to sleep."""
    statuses = [(task / "status").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0]) for status in statuses)


def test_an_idle_switchboard_sleeps(daemon: Daemon) -> None:
    """On a slow machine it wakes less often, never more."""
    serve(daemon)
    deadline_s = time.monotonic() + 30
    rate = float("inf")
    while rate > 8.0:  # a second or two after the last call
        assert time.monotonic() < deadline_s, f"{rate:.1f} wakes a second"
        begun_s, before = time.monotonic(), wakes(daemon.process.pid)
        time.sleep(1.0)
        rate = (wakes(daemon.process.pid) - before) / (time.monotonic() - begun_s)


def test_a_switchboard_ends_without_a_word_of_trouble(daemon: Daemon) -> None:
    serve(daemon)
    assert daemon.stop() == 0
    assert "Traceback" not in (daemon.folder / "log").read_text()


def test_a_daemon_ends_though_zeromq_does_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As where callers with much unread die a moment before."""
    goes, destroy = threading.Event(), zmq.Context.destroy

    def stuck(context: zmq.Context[zmq.Socket[bytes]], linger: int | None = None) -> None:
        goes.wait()
        destroy(context, linger)

    monkeypatch.setattr(daemon_module, "_CONTEXT_CLOSE_S", 0.05)
    monkeypatch.setattr(zmq.Context, "destroy", stuck)
    with daemon_module._zmq_context(0.0) as context:
        assert not context.closed
    assert [record.message for record in caplog.records] == ["ZeroMQ does not end in time; the process ends without it"]
    goes.set()
    until_s = time.monotonic() + 10.0
    while not context.closed:
        assert time.monotonic() < until_s
        time.sleep(0.005)
