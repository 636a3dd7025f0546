"""The socket where callers fetch the lanes that they were promised.

A caller connects, says hello with its token, and gets one packet: a grant with the lane's descriptors, or a refusal.
Then the connection says nothing more and stays open for as long as the lane lives: its end tells each side that the
other one has gone, however it went.

Who may connect: the kernel's own user, root, and whom the configuration names; the system says who it is. Who does not
say hello soon is closed; when too many are silent, the oldest go first, so that silence keeps nobody out.
"""

import logging
import os
import socket
import stat
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Final

from huterox_shm.errors import HandoverError
from huterox_shm.handover import peer_uid, send_descriptors
from huterox_wire.errors import HuteroxError, Unauthorized
from huterox_wire.leases import HELLO_NBYTES_MAX, encode_refused

_log: Final = logging.getLogger("huterox.kernel")

HELLO_S: Final = 2.0
SILENT_MAX: Final = 64
ACCEPTS_MAX: Final = 16  # in one turn of the loop
ACCEPT_RETRY_S: Final = 0.2
_BACKLOG: Final = 512


def bind_lane_socket(path: str, *, for_all: bool) -> socket.socket:
    """The listening socket. One that a kernel which was killed has left behind is replaced.

    Args:
        for_all: other users may connect (and are then asked who they are).
    Raises:
        OSError: the path cannot be used, or another process listens there.
    """
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.setblocking(False)
        sock.bind(path)
        Path(path).chmod(0o666 if for_all else 0o600)
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _identity_of(path: Path) -> tuple[int, int] | None:
    """Which file it is, whatever its name; None: there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _remove_stale(path: str) -> None:
    try:
        mode = Path(path).lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(f"{path} is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink(missing_ok=True)
        except BlockingIOError as exc:
            raise FileExistsError(f"another process listens at {path}") from exc
        else:
            raise FileExistsError(f"another process listens at {path}")


class Connection:
    """One caller's connection: silent, asking, or with a lane."""

    __slots__ = ("sock", "timer")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.timer: TimerHandle | None = None


class Handover:
    """Serves the socket.

    Args:
        uids: who may connect beside root and the kernel's own user.
        on_hello: takes a connection and the packet that came by it, and answers with `grant` or `refuse`.
        on_end: told of a connection with a lane that has ended, or that said more than it may; it is closed then.
    """

    def __init__(
        self,
        loop: AbstractEventLoop,
        sock: socket.socket,
        uids: Collection[int],
        on_hello: Callable[[Connection, bytes], None],
        on_end: Callable[[Connection], None],
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._path = Path(sock.getsockname())
        self._identity = _identity_of(self._path)
        self._told = ""
        self._for_all = bool(uids)
        self._uids = {0, os.geteuid(), *uids}
        self._on_hello = on_hello
        self._on_end = on_end
        self._silent: dict[Connection, None] = {}  # in the order of their coming
        self._granted: set[Connection] = set()
        self._retry: TimerHandle | None = None

    def start(self) -> None:
        """Accept from now on."""
        self._retry = None
        self._loop.add_reader(self._sock.fileno(), self._on_connect)

    def close(self) -> None:
        """End all connections, and take the socket away."""
        if self._retry is not None:
            self._retry.cancel()
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
        if _identity_of(self._path) == self._identity:
            self._path.unlink(missing_ok=True)
        for connection in [*self._silent, *self._granted]:
            self.end(connection)

    def look(self) -> None:
        """Make the socket's path again where it was removed: a cleaner of temporary folders does. Lanes go on."""
        if (found := _identity_of(self._path)) == self._identity:
            return
        try:
            if found is not None:
                raise FileExistsError("something else lies there")
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            sock = bind_lane_socket(str(self._path), for_all=self._for_all)
        except OSError as exc:
            what = f"{self._path} was removed, and cannot be made again ({exc}): no caller can fetch a lane"
            if what != self._told:
                _log.error("%s", what)
            self._told = what
            return
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
        self._sock, self._identity, self._told = sock, _identity_of(self._path), ""
        if self._retry is None:
            self.start()
        _log.warning("%s was removed; it was made again", self._path)

    def grant(self, connection: Connection, packet: bytes, descriptors: Sequence[int]) -> None:
        """Hand a lane over; the descriptors stay the giver's. `on_end` will tell when the caller has gone.

        Raises:
            OSError, HandoverError: it cannot be sent; the connection is closed.
        """
        try:
            send_descriptors(connection.sock, packet, descriptors)
        except (OSError, HandoverError):
            self.end(connection)
            raise
        self._granted.add(connection)
        self._loop.add_reader(connection.sock.fileno(), self._on_sound, connection)

    def refuse(self, connection: Connection, error: HuteroxError) -> None:
        """Say why there is no lane, and close."""
        try:
            connection.sock.send(encode_refused(error))
        except OSError:  # it has gone
            pass
        self.end(connection)

    def end(self, connection: Connection) -> None:
        """Close a connection; says nothing to anybody. Once more does no harm."""
        self._leave_silence(connection)
        self._granted.discard(connection)
        if connection.sock.fileno() >= 0:
            self._loop.remove_reader(connection.sock.fileno())
            connection.sock.close()

    # Coming.

    def _on_connect(self) -> None:
        for _ in range(ACCEPTS_MAX):
            try:
                sock, _ = self._sock.accept()
            except BlockingIOError:
                return
            except OSError:  # no descriptors, most likely: who waits in the queue must not keep us busy
                self._loop.remove_reader(self._sock.fileno())
                self._retry = self._loop.call_later(ACCEPT_RETRY_S, self.start)
                return
            self._on_accepted(sock)

    def _on_accepted(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        connection = Connection(sock)
        uid = peer_uid(sock)
        if uid not in self._uids:
            self._read(connection)  # what is unread when a socket is closed takes our answer with it
            self.refuse(connection, Unauthorized(f"user {uid} may have no lanes here"))
            return
        if len(self._silent) >= SILENT_MAX:
            self.end(next(iter(self._silent)))
        self._silent[connection] = None
        connection.timer = self._loop.call_later(HELLO_S, self.end, connection)
        self._loop.add_reader(sock.fileno(), self._on_packet, connection)

    def _on_packet(self, connection: Connection) -> None:
        packet = self._read(connection)
        if not packet:
            self.end(connection)
            return
        self._leave_silence(connection)
        self._loop.remove_reader(connection.sock.fileno())
        self._on_hello(connection, packet)

    def _read(self, connection: Connection) -> bytes:
        """One packet, or nothing. Descriptors that come with it are closed by the system: they have no room."""
        try:
            return connection.sock.recv(HELLO_NBYTES_MAX + 1)
        except OSError:
            return b""

    def _leave_silence(self, connection: Connection) -> None:
        self._silent.pop(connection, None)
        if connection.timer is not None:
            connection.timer.cancel()
            connection.timer = None

    # Going.

    def _on_sound(self, connection: Connection) -> None:
        """The end of the caller, or a word that it should not say: the same to us."""
        self.end(connection)
        self._on_end(connection)
