"""Paths of sockets and of the store, as a cleaner of temporary folders leaves them."""

import logging
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from huterox_connector.shell.paths import BoundPath, StorePaths, check_free
from huterox_wire.errors import Conflict, InvalidInput


@pytest.fixture
def router() -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        yield router


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "d" / "s.ipc"


def bound(router: zmq.Socket[bytes], path: Path) -> BoundPath:
    path.parent.mkdir(exist_ok=True)
    router.bind(f"ipc://{path}")
    return BoundPath(router, f"ipc://{path}", "caller")


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) == 0


def test_a_path_is_free_where_nothing_or_nobody_is(router: zmq.Socket[bytes], path: Path) -> None:
    check_free(f"ipc://{path}")
    check_free("tcp://127.0.0.1:1")
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(str(path))
    check_free(f"ipc://{path}")
    bound(router, path)
    with pytest.raises(Conflict, match="another process listens"):
        check_free(f"ipc://{path}")


def test_what_is_no_socket_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("mine")
    with pytest.raises(InvalidInput, match="is not a socket"):
        check_free(f"ipc://{path}")


def test_a_path_that_was_removed_is_made_again_with_its_folder(
    router: zmq.Socket[bytes], path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watched = bound(router, path)
    watched.look()
    shutil.rmtree(path.parent)
    watched.look()
    watched.look()
    assert connects(path)
    assert [path.name] == [file.name for file in path.parent.iterdir()]
    assert len(caplog.records) == 1


def test_what_cannot_be_made_again_is_told_once_and_tried_again(
    router: zmq.Socket[bytes], path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watched = bound(router, path)
    shutil.rmtree(path.parent)
    path.parent.write_text("no folder")
    watched.look()
    watched.look()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    path.parent.unlink()
    watched.look()
    assert connects(path)


def test_what_others_have_put_there_is_told_once_and_left_alone(
    router: zmq.Socket[bytes], path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watched = bound(router, path)
    path.unlink()
    path.write_text("theirs")
    watched.look()
    watched.look()
    assert path.read_text() == "theirs"
    assert ["something else lies at" in record.getMessage() for record in caplog.records] == [True]


def test_the_longest_path_has_room_to_be_made_again(router: zmq.Socket[bytes], tmp_path: Path) -> None:
    name = "s" * (107 - len(f"{tmp_path}/"))
    watched = bound(router, tmp_path / name)
    (tmp_path / name).unlink()
    watched.look()
    assert connects(tmp_path / name)


def test_files_of_the_store_that_have_gone_are_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("s.db", "s.db-wal"):
        (tmp_path / name).touch()
    paths = StorePaths(tmp_path / "s.db")
    paths.look()
    assert not caplog.records
    (tmp_path / "s.db-wal").unlink()
    (tmp_path / "s.db").rename(tmp_path / "other")
    (tmp_path / "s.db").touch()
    paths.look()
    paths.look()
    assert len(caplog.records) == 2
