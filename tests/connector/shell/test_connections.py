"""More connections than are wanted, or than there are descriptors: nobody ends, old ones go on, new ones wait."""

import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.connector.shell.daemon import Daemon, Peer, running, serve
from tests.fault.relay import free_port

from huterox_wire.endpoints import hidden_path
from huterox_wire.header import pack_header, unpack_header
from huterox_wire.kinds import Flag, Kind
from huterox_wire.message import encode
from huterox_wire.nodes import HeartbeatMeta

pytestmark = pytest.mark.system
SOON_S = 15.0


def test_the_limit_of_descriptors_is_raised(tmp_path: Path) -> None:
    """It is started with half of what it may have."""
    with running(Daemon(tmp_path, descriptors_max=600)) as daemon:
        assert daemon.caller().ask("status")["nodes"] == 0
        (line,) = [line for line in limits_of(daemon) if line.startswith("Max open files")]
        assert line.split()[3:5] == ["600", "600"]


def test_more_callers_than_there_are_descriptors_end_nobody(tmp_path: Path) -> None:
    with running(Daemon(tmp_path, descriptors_max=256)) as daemon:
        caller, kernel, handle, _ = serve(daemon)
        with crowd(daemon, path_of(daemon.front), 400) as count:
            assert count > 110, "only the usual half of its descriptors are used"
            check_served(daemon, caller, kernel, handle)  # who is there stays
            late = daemon.caller()  # it tries again until there is room
            assert daemon.kernel("n2").receive_control(Kind.REGISTER)
        assert late.ask("status")["nodes"] == 2


@pytest.mark.parametrize("most", [4, 40])
def test_callers_beyond_connections_max_wait_until_others_leave(tmp_path: Path, most: int) -> None:
    with running(Daemon(tmp_path, connections_max=most)) as daemon:
        caller, kernel, handle, _ = serve(daemon)
        with crowd(daemon, path_of(daemon.front), most + 64) as count:
            assert count >= most - 1
            check_served(daemon, caller, kernel, handle)
            late = daemon.caller()
            for name in ("n2", "n3"):  # kernels are counted apart
                assert daemon.kernel(name).receive_control(Kind.REGISTER)
            late.send(encode(Kind.CALL, 12, handle, 60_000_000, b"\x80"))
            check_served(daemon, caller, kernel, handle)
            assert not late.socket.poll(0)
            assert not path_of(daemon.front).exists()
        check_served(daemon, late, kernel, handle, sent=12)
        for _ in range(3):  # and so again
            with crowd(daemon, path_of(daemon.front), most + 64):
                check_served(daemon, late, kernel, handle)
            another = daemon.caller()
            assert another.ask("status")["nodes"] == 3
            another.socket.close(linger=0)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_nobody_is_kept_out_by_what_one_leaves_that_ends_while_it_is_full(tmp_path: Path, how: int) -> None:
    with running(Daemon(tmp_path, connections_max=4)) as daemon:
        path = path_of(daemon.front)
        assert daemon.caller().ask("status")["nodes"] == 0
        with crowd(daemon, path, 64):
            assert hidden_path(path).exists()
            daemon.stop(how)
            assert hidden_path(path).exists() == (how == signal.SIGKILL)
        daemon.start()
        assert daemon.caller().ask("status")["nodes"] == 0
        assert not hidden_path(path).exists()


@pytest.mark.parametrize("settings", [{"connections_max": 40}, {"descriptors_max": 256}], ids=str)
def test_a_flood_of_the_kernels_socket_leaves_kernels_and_callers_alone(
    tmp_path: Path, settings: dict[str, int]
) -> None:
    with running(Daemon(tmp_path, **settings)) as daemon:
        caller, kernel, handle, _ = serve(daemon)
        with crowd(daemon, path_of(daemon.back), 400):
            check_served(daemon, caller, kernel, handle)
            late = daemon.kernel("n2")
            kernel.send_control(Kind.HEARTBEAT, HeartbeatMeta("n1", "b1"))
            kernel.receive_control(Kind.HEARTBEAT)
            if "connections_max" in settings:
                assert daemon.caller().ask("status")["nodes"] == 1
        assert late.receive_control(Kind.REGISTER)


def test_a_flood_by_tcp_takes_all_descriptors_and_ends_nobody(tmp_path: Path) -> None:
    """There is no path to hide. Kernels come by one, and are not let in where that would end the daemon."""
    with running(Daemon(tmp_path, descriptors_max=256, front=f"tcp://127.0.0.1:{free_port()}")) as daemon:
        caller, kernel, handle, _ = serve(daemon)
        host, port = daemon.front.removeprefix("tcp://").split(":")
        held: list[socket.socket] = []
        try:
            while daemon.descriptors() < 256:
                held.append(socket.create_connection((host, int(port)), timeout=SOON_S))
                assert len(held) < 600, "they do not take descriptors"
            for _ in range(20):  # these find none
                held.append(socket.create_connection((host, int(port)), timeout=SOON_S))
            check_served(daemon, caller, kernel, handle)
            assert not path_of(daemon.back).exists()
            late, second = daemon.caller(), daemon.kernel("n2")
            caller.ask("deploy", model={"name": "m2", "entry": "m.py:M"})  # is written to the store
            check_served(daemon, caller, kernel, handle)
        finally:
            for each in held:
                each.close()
        assert second.receive_control(Kind.REGISTER)
        assert late.ask("status")["nodes"] == 2


@contextmanager
def crowd(daemon: Daemon, path: Path, count_max: int) -> Iterator[int]:
    """So many connections of somebody who says nothing that the path is hidden; how many."""
    held: list[socket.socket] = []
    try:
        while path.exists():
            held.append(connected(path))
            assert len(held) <= count_max, "the switchboard lets everybody in"
            time.sleep(0.002)
        assert daemon.process.poll() is None
        yield len(held)
    finally:
        for each in held:
            each.close()


def check_served(daemon: Daemon, caller: Peer, kernel: Peer, handle: int, sent: int = 0) -> None:
    """A call is answered; `sent` is the number of one that was sent before."""
    number = sent or 11
    if not sent:
        caller.send(encode(Kind.CALL, number, handle, 5_000_000, b"\x80"))
    route, _ = kernel.receive_call()
    kernel.send([route, pack_header(Kind.REPLY, Flag.PACKED, 0, number)])
    assert unpack_header(caller.receive()[0]).request_id == number
    assert daemon.process.poll() is None


def path_of(endpoint: str) -> Path:
    return Path(endpoint.removeprefix("ipc://"))


def limits_of(daemon: Daemon) -> list[str]:
    return Path(f"/proc/{daemon.process.pid}/limits").read_text().splitlines()


def connected(path: Path) -> socket.socket:
    """A connection of somebody who says nothing; or who was not let in any more."""
    sock = socket.socket(socket.AF_UNIX)
    sock.setblocking(False)
    with suppress(OSError):
        sock.connect(str(path))
    return sock
