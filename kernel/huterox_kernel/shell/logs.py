"""The containers' logs: one file each, rotated while it is written, read by logical offsets that never go back.

The worker appends to its file; when it grows too long, the kernel copies it beside itself and truncates it, so that the
worker need not know. Offsets that callers see count from the first byte ever written: they go on over a rotation, and
one that points before what is kept yields the oldest that is.
"""

import codecs
import os
import shutil
import threading
from pathlib import Path
from typing import NamedTuple

from huterox_kernel.core.records import text_of
from huterox_wire.errors import NotFound

_SUFFIX = ".log"
_OLD_SUFFIX = ".log.1"


class LogText(NamedTuple):
    """A piece of a log, and where to read on."""

    text: str
    next_offset: int


class Logs:
    """All logs of one kernel, in one folder. `rotate` and `remove_old` may run in another thread than the rest."""

    def __init__(self, folder: Path, nbytes_max: int, files_max: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._nbytes_max = nbytes_max
        self._files_max = files_max
        self._rotated_nbytes: dict[str, int] = {}  # what each log's file has lost at its front
        self._lock = threading.Lock()  # held where a file and what is known of it change together

    def path(self, name: str) -> Path:
        """The file of a log."""
        return self._folder / f"{name}{_SUFFIX}"

    def open(self, name: str) -> int:
        """A descriptor to append to; the caller closes it."""
        return os.open(self.path(name), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def read(self, container: int, offset: int, limit: int) -> LogText:
        """Up to `limit` bytes from `offset`; a negative offset counts from the end. A character is never cut in two.

        Raises:
            NotFound: there is no log of this container.
        """
        with self._lock:
            return self._read(text_of(container), offset, limit)

    def _read(self, name: str, offset: int, limit: int) -> LogText:
        path = self.path(name)
        try:
            nbytes = path.stat().st_size
        except FileNotFoundError:
            raise NotFound(f"no log of container {name} is kept here", container=name) from None
        base = self._rotated_nbytes.get(name, 0)
        old_path, old_nbytes = self._old(name, base)
        end = base + nbytes
        start = min(max(end + offset if offset < 0 else offset, base - old_nbytes), end)
        if start < base:
            data = _read(old_path, start - (base - old_nbytes), min(limit, base - start))
        else:
            data = _read(path, start - base, limit)
        return _decode(data, start)

    def _old(self, name: str, base: int) -> tuple[Path, int]:
        """The rotated part, where this kernel has rotated it: an older kernel's offsets are not known."""
        path = self._folder / f"{name}{_OLD_SUFFIX}"
        try:
            return path, path.stat().st_size if base else 0
        except FileNotFoundError:
            return path, 0

    def rotate(self) -> None:
        """Copy and truncate every log that has grown too long."""
        for path in self._folder.glob(f"*{_SUFFIX}"):
            try:
                if path.stat().st_size > self._nbytes_max:
                    self._rotate(path)
            except FileNotFoundError:
                continue

    def _rotate(self, path: Path) -> None:
        name = path.name.removesuffix(_SUFFIX)
        old = self._folder / f"{name}{_OLD_SUFFIX}"
        new = self._folder / f"{name}{_OLD_SUFFIX}.new"
        with path.open("rb") as source, new.open("wb") as target:
            shutil.copyfileobj(source, target)
            copied = source.tell()
        with self._lock:
            new.replace(old)
            os.truncate(path, 0)
            self._rotated_nbytes[name] = self._rotated_nbytes.get(name, 0) + copied

    def remove_old(self, in_use: set[str]) -> None:
        """Keep the newest containers' logs of those that nobody writes any more; remove the rest."""
        unused = [p for p in self._folder.glob(f"c*{_SUFFIX}") if p.name.removesuffix(_SUFFIX) not in in_use]
        unused.sort(key=lambda p: p.stat().st_mtime, reverse=True)
        for path in unused[self._files_max :]:
            name = path.name.removesuffix(_SUFFIX)
            path.unlink(missing_ok=True)
            (self._folder / f"{name}{_OLD_SUFFIX}").unlink(missing_ok=True)
            self._rotated_nbytes.pop(name, None)

    def tail(self, name: str, nbytes: int) -> str:
        """The end of a log that belongs to no container, e.g. a zygote's."""
        path = self.path(name)
        try:
            return _read(path, max(0, path.stat().st_size - nbytes), nbytes).decode(errors="replace")
        except FileNotFoundError:
            return ""


def _read(path: Path, start: int, limit: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(limit)


def _decode(data: bytes, start: int) -> LogText:
    text, consumed = codecs.utf_8_decode(data, "replace", False)
    if not consumed and data:  # nothing but the beginning of a character, and it may never go on
        text, consumed = codecs.utf_8_decode(data, "replace", True)
    return LogText(text, start + consumed)
