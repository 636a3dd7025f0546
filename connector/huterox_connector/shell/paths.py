"""What others find this daemon by on disk: the paths of its unix sockets, and of its store.

Cleaners of temporary folders remove them under a running daemon, which loses nothing that it has and yet cannot be
found any more. So they are looked at: a socket's path is made again, and of a store that has gone is told.

libzmq takes the place of whatever lies at a path, another daemon's socket too. So a path is looked at before it is
bound, and a socket that was made anew is renamed into its place.
"""

import logging
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import zmq

from huterox_wire.endpoints import hidden_path
from huterox_wire.errors import Conflict, InvalidInput

_log: Final = logging.getLogger(__name__)
_IPC: Final = "ipc://"
_MARK: Final = "~"  # the last character of the name that a socket has before it is renamed
_PROBE_S: Final = 1.0


class Identity(NamedTuple):
    """Which file it is, whatever its name."""

    device: int
    number: int


def identity_of(path: Path) -> Identity | None:
    """None: there is nothing."""
    try:
        status = path.stat()
    except OSError:
        return None
    return Identity(status.st_dev, status.st_ino)


def check_free(endpoint: str) -> None:
    """Before a bind. Raises Conflict where another process listens, InvalidInput where something else lies."""
    if (path := _path_of(endpoint)) is None:
        return
    try:
        mode = path.lstat().st_mode
    except OSError:  # nothing is there, or the bind will say what
        return
    if not stat.S_ISSOCK(mode):
        raise InvalidInput(f"{path} is not a socket; it is left alone")
    if _is_served(path):
        raise Conflict(f"another process listens at {path}")


def _path_of(endpoint: str) -> Path | None:
    name = endpoint.removeprefix(_IPC)
    return None if name == endpoint or name.startswith("@") else Path(name)


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_S)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:  # it has more to do than to answer
            return True
    return True


class BoundPath:
    """The path of a socket that was bound a moment ago. Does nothing for an endpoint that has none."""

    def __init__(self, sock: "zmq.Socket[bytes]", endpoint: str, whose: str) -> None:
        self._sock = sock
        self._whose = whose
        self._path = _path_of(endpoint)
        self._identity = identity_of(self._path) if self._path is not None else None
        self._told = ""
        self.is_hidden = False
        if self._path is not None:
            with suppress(OSError):  # what one has left that was killed while it was hidden
                hidden_path(self._path).unlink()

    def close(self) -> None:
        """Before the socket is closed: it removes what has its own name."""
        if self.is_hidden:
            self.show()

    def hide(self) -> bool:
        """Have nobody find the socket, until `show`. False: it is hidden, or not there, or has no path."""
        if self._path is None or self.is_hidden or identity_of(self._path) != self._identity:
            return False
        self.is_hidden = _renamed(self._path, hidden_path(self._path))
        return self.is_hidden

    def show(self) -> bool:
        """Let it be found again. False: what was hidden has gone; `look` makes it again."""
        assert self._path is not None
        self.is_hidden = False
        return _renamed(hidden_path(self._path), self._path)

    def look(self) -> None:
        """Make the path again where it has gone. Connections that exist are not touched."""
        if self._path is None or self.is_hidden or (found := identity_of(self._path)) == self._identity:
            return
        if found is not None:
            self._tell(f"something else lies at {self._path} now")
            return
        try:
            self._make_again(self._path)
        except (zmq.ZMQError, OSError) as exc:
            self._tell(f"{self._path} was removed, and cannot be made again ({exc})")

    def _tell(self, what: str) -> None:
        """Once, until it is something else."""
        if what != self._told:
            _log.error("%s: no %s can connect to this switchboard", what, self._whose)
        self._told = what

    def _make_again(self, path: Path) -> None:
        """The old listener stays: to end it would end the connections that came by it."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = path.with_name(path.name[:-1] + _MARK)  # no longer: a socket's path has a limit
        self._sock.bind(f"{_IPC}{name}")
        try:
            name.rename(path)
        except OSError:
            self._sock.unbind(f"{_IPC}{name}")
            raise
        self._identity, self._told = identity_of(path), ""
        _log.warning("%s was removed; it was made again, for %ss", path, self._whose)


def _renamed(old: Path, new: Path) -> bool:
    try:
        old.rename(new)
    except OSError:
        return False
    return True


class StorePaths:
    """The files of the store, which go on without their names until the daemon ends."""

    def __init__(self, path: Path) -> None:
        self._identities = {
            file: identity for file in (path, Path(f"{path}-wal")) if (identity := identity_of(file)) is not None
        }

    def look(self) -> None:
        """Tell, once, of files that have gone."""
        for file, identity in list(self._identities.items()):
            if identity_of(file) != identity:
                del self._identities[file]
                _log.error(
                    "the store's file %s was removed or replaced: what it holds is lost when this switchboard ends",
                    file,
                )
