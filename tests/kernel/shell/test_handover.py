"""The socket where lanes are fetched: whose it is, and who may come."""

import asyncio
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from pathlib import Path

import pytest

from huterox_kernel.shell import handover
from huterox_kernel.shell.handover import Connection, Handover, bind_lane_socket
from huterox_wire.errors import Unauthorized
from huterox_wire.leases import decode_granted_or_refused


@pytest.fixture
def path() -> Iterator[str]:
    """A short one."""
    folder = tempfile.mkdtemp(prefix="hxs-")
    yield f"{folder}/lanes.sock"
    shutil.rmtree(folder)


def connected(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.setblocking(False)
    sock.connect(path)
    return sock


def test_a_socket_that_a_killed_kernel_left_is_replaced(path: str) -> None:
    bind_lane_socket(path, for_all=False).close()
    assert Path(path).exists()
    with bind_lane_socket(path, for_all=False), connected(path):
        pass


def test_a_socket_that_somebody_serves_is_not_taken_away(path: str) -> None:
    with bind_lane_socket(path, for_all=False):
        with pytest.raises(FileExistsError, match="another process listens"):
            bind_lane_socket(path, for_all=False)
        connected(path).close()


def test_what_is_no_socket_is_left_alone(path: str) -> None:
    Path(path).write_text("mine")
    with pytest.raises(FileExistsError, match="is not a socket"):
        bind_lane_socket(path, for_all=False)
    assert Path(path).read_text() == "mine"


@pytest.mark.parametrize(("for_all", "mode"), [(False, 0o600), (True, 0o666)])
def test_only_the_own_user_may_connect_unless_others_are_named(path: str, for_all: bool, mode: int) -> None:
    with bind_lane_socket(path, for_all=for_all):
        assert stat.S_IMODE(Path(path).stat().st_mode) == mode


Said = list[tuple[Connection, bytes]]


def run(
    path: str, test: Callable[[Handover, Said, list[Connection]], Awaitable[None]], uids: Collection[int] = ()
) -> None:
    async def main() -> None:
        hellos: Said = []
        ends: list[Connection] = []
        sock = bind_lane_socket(path, for_all=False)
        served = Handover(asyncio.get_running_loop(), sock, uids, lambda *hello: hellos.append(hello), ends.append)
        served.start()
        try:
            await test(served, hellos, ends)
        finally:
            served.close()

    asyncio.run(main())


async def until(done: Callable[[], object]) -> None:
    until_s = time.monotonic() + 20.0
    while not done():
        assert time.monotonic() < until_s, "nothing came"
        await asyncio.sleep(0.001)


def test_a_hello_is_passed_on_and_its_connection_is_watched_once_it_has_a_lane(path: str) -> None:
    async def test(served: Handover, hellos: Said, ends: list[Connection]) -> None:
        sock = connected(path)
        sock.send(b"hello")
        await until(lambda: hellos)
        ((connection, packet),) = hellos
        assert packet == b"hello"
        served.grant(connection, b"+grant", [0, 1, 2])
        message, descriptors, _, _ = socket.recv_fds(sock, 100, 8)
        for descriptor in descriptors:
            socket.close(descriptor)
        assert (message, len(descriptors)) == (b"+grant", 3)
        assert not ends
        sock.close()
        await until(lambda: ends == [connection])
        served.end(connection)

    run(path, test)


def test_a_user_who_is_not_named_is_told_so(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "peer_uid", lambda sock: 12345)

    async def test(served: Handover, hellos: Said, ends: list[Connection]) -> None:
        with connected(path) as sock:
            sock.send(b"hello")
            answer = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 1 << 16), 20.0)
            with pytest.raises(Unauthorized, match="user 12345"):
                decode_granted_or_refused(answer)
            assert not hellos

    run(path, test)


def test_a_user_who_is_named_may_come(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "peer_uid", lambda sock: 12345)

    async def test(served: Handover, hellos: Said, ends: list[Connection]) -> None:
        with connected(path) as sock:
            sock.send(b"hello")
            await until(lambda: hellos)
            served.end(hellos[0][0])

    run(path, test, uids=[12345])


def test_a_caller_that_went_before_its_grant_is_an_error_and_closed(path: str) -> None:
    async def test(served: Handover, hellos: Said, ends: list[Connection]) -> None:
        sock = connected(path)
        sock.send(b"hello")
        sock.close()
        await until(lambda: hellos)
        ((connection, _),) = hellos
        with pytest.raises(OSError):
            served.grant(connection, b"+grant", [0, 1, 2])
        assert connection.sock.fileno() == -1
        assert not ends

    run(path, test)


def test_the_socket_goes_with_its_kernel_and_so_do_all_connections(path: str) -> None:
    async def test(served: Handover, hellos: Said, ends: list[Connection]) -> None:
        socks = [connected(path) for _ in range(3)]
        socks[0].send(b"hello")
        await until(lambda: hellos)
        served.grant(hellos[0][0], b"+", [0])
        served.close()
        socks[0].recv(1)
        for sock in socks:
            assert sock.recv(1) == b""
            sock.close()
        assert not Path(path).exists()
        served.close = lambda: None  # type: ignore[method-assign]

    run(path, test)


def test_a_path_that_was_removed_is_made_again_and_lanes_go_on(path: str) -> None:
    async def test(served: Handover, hellos: Said, ends: list[Connection]) -> None:
        granted = connected(path)
        granted.send(b"hello")
        await until(lambda: hellos)
        served.grant(hellos[0][0], b"+", [0])
        for _ in range(2):  # what was made again is watched, too
            shutil.rmtree(Path(path).parent)
            served.look()
            served.look()
            with connected(path) as sock:
                sock.send(b"again")
                await until(lambda: hellos[-1][1] == b"again")
                served.end(hellos.pop()[0])
        assert not ends
        granted.close()
        await until(lambda: ends == [hellos[0][0]])

    run(path, test)


def test_what_others_have_put_there_is_told_once_and_left_alone(path: str, caplog: pytest.LogCaptureFixture) -> None:
    async def test(served: Handover, hellos: Said, ends: list[Connection]) -> None:
        Path(path).unlink()
        with bind_lane_socket(path, for_all=False):
            served.look()
            served.look()
            served.close()
            assert Path(path).exists()
        served.close = lambda: None  # type: ignore[method-assign]

    run(path, test)
    assert ["something else lies there" in record.getMessage() for record in caplog.records] == [True]
