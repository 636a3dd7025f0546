"""The directory of one `huterox up`: private, locked, with the daemons' configuration in it."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from huterox.endpoint import SOCKET_NAME, check_ipc_path
from huterox_wire.errors import Conflict, InvalidInput

_BACK_NAME: Final = "kernels.ipc"
_SLOTS_MAX: Final = 4096
_NODE_LENGTH_MAX: Final = 64


class Settings(NamedTuple):
    """What `huterox up` was asked for."""

    host_mb: int
    slots: int
    preload: list[str] | None  # None: the kernel's own choice


class UpDir:
    """Paths and files of one directory.

    DIR/switchboard.ipc  where callers connect          DIR/huterox.db    the store
    DIR/kernels.ipc      where the kernel connects      DIR/kernel/       the kernel's own
    DIR/connector.toml, DIR/kernel.toml                 DIR/logs/         connector.log, kernel.log
    DIR/lock             holds the pid of the running `huterox up`
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        try:
            str(self.path).encode()
        except UnicodeEncodeError as exc:
            raise InvalidInput(f"the directory's name is no UTF-8: {str(self.path)!r}") from exc
        self.front = self.path / SOCKET_NAME
        self.back = self.path / _BACK_NAME
        self.logs = self.path / "logs"
        for name in (self.front, self.back):
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
        """Make the directory, private to this user, and hold its lock.

        Raises:
            Conflict: another `huterox up` runs on it; names its pid.
            InvalidInput: the directory cannot be used.
        """
        try:
            self._make_private()
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise InvalidInput(f"{self.path} cannot be used: {exc.strerror or exc}") from exc
        try:
            self._lock(lock)
            yield
        finally:
            os.close(lock)

    def _make_private(self) -> None:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = self.path.stat().st_uid
        if owner != os.getuid() or self.path.lstat().st_uid != os.getuid():
            raise InvalidInput(f"{self.path} belongs to user {owner}; choose another with --dir")
        self.path.chmod(0o700)
        self.logs.mkdir(mode=0o700, exist_ok=True)

    def _lock(self, lock: int) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            pid = os.pread(lock, 32, 0).decode("ascii", "replace").strip() or "?"
            raise Conflict(f"another `huterox up` runs on {self.path}: pid {pid}", pid=pid) from exc
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)

    def write_configs(self, settings: Settings) -> None:
        """Write what the two daemons read."""
        self._write(
            "connector",
            {
                "front": self.endpoint,
                "back": f"ipc://{self.back}",
                "store": str(self.path / "huterox.db"),
                "die_with_parent": True,
            },
        )
        kernel: dict[str, Any] = {
            "node": socket.gethostname()[:_NODE_LENGTH_MAX],
            "switchboard": f"ipc://{self.back}",
            "dir": str(self.path / "kernel"),
            "host_mb": settings.host_mb,
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
        self.config(daemon).write_text(text, encoding="utf-8")

    def remove_sockets(self) -> None:
        """Remove what a killed daemon has left, or what the ended ones need no longer."""
        for path in (self.front, self.back):
            path.unlink(missing_ok=True)


def check_settings(settings: Settings) -> None:
    """Raise InvalidInput for numbers that cannot be."""
    if settings.host_mb < 1:
        raise InvalidInput(f"--host-mb is at least 1, got {settings.host_mb}")
    if not 1 <= settings.slots <= _SLOTS_MAX:
        raise InvalidInput(f"--slots is from 1 to {_SLOTS_MAX}, got {settings.slots}")


def default_host_mb() -> int:
    """Half of the memory that this machine, or the control group around this process, has."""
    nbytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            nbytes = min(nbytes, int(Path(name).read_text()))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return max(1, nbytes // 2 // 1024**2)
