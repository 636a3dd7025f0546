"""The directory of one `huterox up`: private, locked, with the daemons' configuration in it."""

import fcntl
import hashlib
import json
import os
import shutil
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from huterox.endpoint import SOCKET_NAME, check_ipc_path
from huterox_wire.errors import Conflict, InvalidInput

_BACK_NAME: Final = "kernels.ipc"
_LANES_NAME: Final = "lanes.sock"
_SLOTS_MAX: Final = 4096
_NODE_LENGTH_MAX: Final = 64
_STORE_NAME: Final = "huterox.db"
_STORE_SUFFIXES: Final = ("", "-wal", "-shm")
_PEER: Final = struct.Struct("3i")  # of SO_PEERCRED: pid, uid, gid
_BACKLOG: Final = 4096  # nobody accepts: each one who has asked whose it is stays there
_DEATH_S: Final = 2.0
"""Daemons whose `huterox up` was killed take so long to end, at the most."""


class Settings(NamedTuple):
    """What `huterox up` was asked for."""

    host_mb: int | None  # None: half of what there is
    slots: int
    preload: list[str] | None  # None: the kernel's own choice


class UpDir:
    """Paths and files of one `huterox up`: what connects it, in DIR, and what lasts, in STATE.

    DIR/switchboard.ipc  where callers connect          STATE/huterox.db    the store
    DIR/kernels.ipc      where the kernel connects      STATE/kernel/       the kernel's own
    DIR/lanes.sock       where callers fetch lanes      STATE/logs/         connector.log, kernel.log
    DIR/connector.toml, DIR/kernel.toml

    A runtime directory is wiped at every logout, and /tmp by cleaners; so by default STATE is another one. With a
    directory of the user's choice both are the same.

    The lock lasts whatever is removed: it is on both directories themselves, and on a name of the system's that is made
    of DIR's path.
    """

    def __init__(self, path: Path, state: Path | None = None) -> None:
        self.path = _checked(path)
        self.state = self.path if state is None else _checked(state)
        self.front = self.path / SOCKET_NAME
        self.back = self.path / _BACK_NAME
        self.lanes = self.path / _LANES_NAME
        self.logs = self.state / "logs"
        self.store = self.state / _STORE_NAME
        for name in (self.front, self.back, self.lanes):
            check_ipc_path(str(name))

    @property
    def endpoint(self) -> str:
        return f"ipc://{self.front}"

    def config(self, daemon: str) -> Path:
        return self.path / f"{daemon}.toml"

    def log(self, daemon: str) -> Path:
        return self.logs / f"{daemon}.log"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the directories, private to this user, and hold their lock.

        Raises:
            Conflict: another `huterox up` runs on one of them, or something else listens there; names its pid.
            InvalidInput: a directory cannot be used.
        """
        with ExitStack() as held:
            held.enter_context(_named_lock(self.path))
            for directory in {self.path: None, self.state: None}:
                try:
                    _make_private(directory)
                    held.enter_context(_directory_lock(directory))
                except OSError as exc:
                    raise InvalidInput(f"{directory} cannot be used: {exc.strerror or exc}") from exc
            self.logs.mkdir(mode=0o700, exist_ok=True)
            for path in (self.front, self.back):
                _await_silence(path)
            yield

    def adopt_store(self) -> bool:
        """Take over a store that an earlier version has left in DIR. Was there one?"""
        old = self.path / _STORE_NAME
        if old == self.store or self.store.exists() or not old.exists():
            return False
        for suffix in reversed(_STORE_SUFFIXES):  # the store itself last: then it is complete
            if (part := old.with_name(old.name + suffix)).exists():
                shutil.move(part, self.store.with_name(self.store.name + suffix))
        return True

    def write_configs(self, settings: Settings) -> None:
        """Write what the two daemons read, once more before each start: a cleaner may have been here."""
        _make_private(self.path)
        self.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._write(
            "connector",
            {
                "front": self.endpoint,
                "back": f"ipc://{self.back}",
                "store": str(self.store),
                "die_with_parent": True,
            },
        )
        kernel: dict[str, Any] = {
            "node": socket.gethostname()[:_NODE_LENGTH_MAX],
            "switchboard": f"ipc://{self.back}",
            "dir": str(self.state / "kernel"),
            "lease_socket": str(self.lanes),
            **({"host_share": 0.5} if settings.host_mb is None else {"host_mb": settings.host_mb}),
            "slots": settings.slots,
            "die_with_parent": True,
        }
        if settings.preload is not None:
            kernel["preload"] = settings.preload
        self._write("kernel", kernel)

    def _write(self, daemon: str, values: Mapping[str, Any]) -> None:
        # What JSON writes of text, whole numbers, truth values and lists is TOML as well, but for one character.
        lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
        text = "\n".join(["# Written by `huterox up` at every start.", *lines, ""]).replace("\x7f", "\\u007f")
        path = self.config(daemon)
        with suppress(OSError):
            if path.read_bytes() == text.encode():
                return
        new = path.with_suffix(".new")  # a full disk must not leave half of it
        new.write_text(text, encoding="utf-8")
        new.replace(path)

    def remove_sockets(self) -> None:
        """Remove what a killed daemon has left, or what the ended ones need no longer."""
        for path in (self.front, self.back):
            path.unlink(missing_ok=True)


def state_directory() -> Path | None:
    """Where the state of this user's programs belongs; None where there is no such place."""
    home = os.environ.get("XDG_STATE_HOME", "")
    if not Path(home).is_absolute():
        home = str(Path("~/.local/state").expanduser())
    return Path(home) / "huterox" if Path(home).is_absolute() else None


def _checked(path: Path) -> Path:
    path = path.expanduser().absolute()
    try:
        str(path).encode()
    except UnicodeEncodeError as exc:
        raise InvalidInput(f"the directory's name is no UTF-8: {str(path)!r}") from exc
    return path


def _make_private(path: Path) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    owner = path.stat().st_uid
    if owner != os.getuid() or path.lstat().st_uid != os.getuid():
        raise InvalidInput(f"{path} belongs to user {owner}; choose another with --dir")
    path.chmod(0o700)


@contextmanager
def _named_lock(path: Path) -> Iterator[None]:
    """A socket of a name that no file has. It ends with this process, and tells whose it is."""
    # The same path is another directory where other file systems are mounted.
    text = "\0".join([os.readlink("/proc/self/ns/mnt"), os.path.realpath(path)])  # noqa: PTH115
    name = f"\0huterox-up-{os.getuid()}-{hashlib.sha256(os.fsencode(text)).hexdigest()[:32]}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as lock:
        try:
            lock.bind(name)
            lock.listen(_BACKLOG)
        except OSError as exc:
            if (pid := _listener(name)) is not None:
                raise _taken(path, str(pid)) from exc
        yield


def _listener(name: str) -> int | None:
    """The pid of this user's process that listens there; another user's is not meant."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(name)
            credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        except OSError:
            return None
    pid, uid, _ = _PEER.unpack(credentials)
    return pid if uid == os.getuid() else None


@contextmanager
def _directory_lock(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as exc:
        raise _taken(path, "?") from exc
    finally:
        os.close(descriptor)


def _taken(path: Path, pid: str) -> Conflict:
    return Conflict(f"another `huterox up` runs on {path}: pid {pid}", pid=pid)


def _await_silence(path: Path) -> None:
    """Raises Conflict where somebody listens at this path, and does not end soon."""
    until_s = time.monotonic() + _DEATH_S
    while _is_served(path):
        if time.monotonic() > until_s:
            raise Conflict(f"another process listens at {path}; end it, or choose another directory with --dir")
        time.sleep(0.05)


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(str(path))
        except BlockingIOError:  # it has more to do than to answer
            return True
        except OSError:
            return False
    return True


def check_settings(settings: Settings) -> None:
    """Raise InvalidInput for numbers that cannot be."""
    if settings.host_mb is not None and settings.host_mb < 1:
        raise InvalidInput(f"--host-mb is at least 1, got {settings.host_mb}")
    if not 1 <= settings.slots <= _SLOTS_MAX:
        raise InvalidInput(f"--slots is from 1 to {_SLOTS_MAX}, got {settings.slots}")
