"""The logs of containers and zygotes: one file each, of which the end is kept, read by offsets that never go back.

Problem: a model writes straight into its file, at any speed, and goes on while its log is made shorter; so may what it
has started. Idea: the file only ever grows, and its front is given back to the file system as a hole. Nothing is copied
or renamed, no writer need know, nothing gets lost between two steps, and it takes no room on a full disk. A byte's
offset in the file is its offset for ever; what comes before the first byte that is no hole is not kept any more.

A thread looks at a file as soon as it has been written to, and rests a moment between two looks: so long a writer can
be ahead of it. Where the file system knows no holes, or the file has become very long, it is emptied instead; what was
written in that very moment is lost then, and offsets go on from what was there.

Whoever has a log open here keeps a descriptor of it: it is bounded, and can be read, even where its name was removed.
A log that cannot be made keeps no model from running: it has none then.
"""

import codecs
import logging
import os
import select
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from huterox_kernel.core.records import text_of
from huterox_kernel.shell.inotify import FolderWatch
from huterox_shm.segment import punch_pages
from huterox_wire.errors import NotFound

_log: Final = logging.getLogger("huterox.kernel")
_SUFFIX: Final = ".log"

REST_S: Final = 0.01
"""Between two looks at files that are written to."""

SHORT_REST_S: Final = 0.001
"""While one of them comes so fast that it had to be shortened."""

UNWATCHED_S: Final = 0.25
"""Between two looks where the system does not tell of writes."""

KEPT_PART: Final = 0.75
"""Of the bytes that a log may have, so many are left when it has more."""

FILE_NBYTES_MAX: Final = 1 << 40
"""Of a file, holes included: file systems have limits of their own, a little above."""


class LogText(NamedTuple):
    """A piece of a log, where it begins, and where to read on."""

    text: str
    offset: int
    next_offset: int


class _File:
    """An open log. `base` is the offset of the file's first byte, `kept_from` that of the first that is kept."""

    __slots__ = ("base", "descriptor", "kept_from", "users")

    def __init__(self, descriptor: int, base: int) -> None:
        self.descriptor = descriptor
        self.base = base
        self.kept_from = base + _first_data(descriptor)
        self.users = 0

    def end(self) -> int:
        return self.base + os.fstat(self.descriptor).st_size


class Logs:
    """All logs of one kernel, in one folder.

    Args:
        nbytes_max: kept of each.
        files_max: how many are kept of those that nobody writes to any more.
    """

    def __init__(self, folder: Path, nbytes_max: int, files_max: int) -> None:
        self._folder = folder
        self._nbytes_max = nbytes_max
        self._files_max = files_max
        self._files: dict[str, _File] = {}
        self._bases: dict[str, int] = {}  # of files that were emptied
        self._lock = threading.Lock()  # held where a file and what is known of it change together
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._is_closed = False
        self._watch = self._make_watch()
        self._thread = threading.Thread(target=self._run, name="huterox-logs", daemon=True)
        self._thread.start()

    def _make_watch(self) -> FolderWatch | None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            return FolderWatch(str(self._folder))
        except OSError as exc:
            _log.warning("%s cannot be watched (%s): logs are looked at now and then", self._folder, exc.strerror)
            return None

    def path(self, name: str) -> Path:
        """The file of a log."""
        return self._folder / f"{name}{_SUFFIX}"

    def open(self, name: str) -> int:
        """A descriptor to append to, the caller's to close; `release` follows when nobody writes any more."""
        try:
            return self._open(name)
        except OSError as exc:
            _log.warning("%s cannot be opened (%s): what is written there is lost", self.path(name), exc.strerror)
            return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)

    def _open(self, name: str) -> int:
        self._folder.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        with self._lock:
            descriptor = os.open(self.path(name), flags, 0o640)
            try:
                if (file := self._files.get(name)) is None:
                    file = self._files[name] = _File(os.dup(descriptor), self._bases.get(name, 0))
                elif not os.path.sameopenfile(file.descriptor, descriptor):  # its name was removed: a new one begins
                    file.base = file.kept_from = file.end()
                    os.dup2(descriptor, file.descriptor, inheritable=False)
            except BaseException:
                os.close(descriptor)
                raise
            file.users += 1
        os.eventfd_write(self._bell, 1)
        return descriptor

    def release(self, name: str) -> None:
        """One user less. Of those that were refused this may be called, too."""
        with self._lock:
            file = self._files.get(name)
            if file is None:
                return
            file.users -= 1
            if file.users > 0:
                return
            del self._files[name]
            os.close(file.descriptor)
        if not self._is_closed:
            os.eventfd_write(self._bell, 1)

    def close(self) -> None:
        """End the thread."""
        self._is_closed = True
        os.eventfd_write(self._bell, 1)
        self._thread.join()
        for file in self._files.values():
            os.close(file.descriptor)
        self._files.clear()
        os.close(self._bell)
        if self._watch is not None:
            self._watch.close()

    # Reading.

    def read(self, container: int, offset: int, limit: int) -> LogText:
        """Up to `limit` bytes from `offset`, or from the oldest byte that is kept; a negative offset counts from the
        end. A character is never cut in two.

        Raises:
            NotFound: there is no log of this container.
            OSError: it cannot be read.
        """
        name = text_of(container)
        with self._lock:
            if (file := self._files.get(name)) is not None:
                return _read(file, offset, limit)
            try:
                descriptor = os.open(self.path(name), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                raise NotFound(f"no log of container {name} is kept here", container=name) from None
            try:
                return _read(_File(descriptor, self._bases.get(name, 0)), offset, limit)
            finally:
                os.close(descriptor)

    def tail(self, name: str, nbytes: int) -> str:
        """The end of a log that belongs to no container, e.g. a zygote's."""
        try:
            with self.path(name).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - nbytes))
                return file.read(nbytes).decode(errors="replace")
        except OSError:
            return ""

    # Keeping them short: the thread.

    def _run(self) -> None:
        rest = select.poll()
        rest.register(self._bell, select.POLLIN)
        while not self._is_closed:
            poller = select.poll()
            poller.register(self._bell, select.POLLIN)
            if self._watch is not None:
                poller.register(self._watch.fileno(), select.POLLIN)
            poller.poll(None if self._watch is not None else UNWATCHED_S * 1000)
            rest_s = REST_S
            try:
                rest_s = SHORT_REST_S if self._look() else REST_S
            except Exception:  # noqa: BLE001 - what failed now may go well the next time
                _log.exception("logs could not be looked after")
            rest.poll(rest_s * 1000)

    def _look(self) -> bool:
        """Was anything shortened?"""
        with suppress(BlockingIOError):
            if os.eventfd_read(self._bell):
                self._remove_old()
        written = self._watch.read() if self._watch is not None else None
        if self._watch is not None and self._watch.has_ended:
            self._watch.close()
            self._watch = self._make_watch()
        paths = self._all() if written is None else [self._folder / name for name in written]
        was_shortened = False
        for path in paths:
            if path.suffix == _SUFFIX:
                was_shortened |= self.shorten(path.name.removesuffix(_SUFFIX))
        return was_shortened

    def _all(self) -> list[Path]:
        try:
            return list(self._folder.glob(f"*{_SUFFIX}"))
        except OSError:
            return []

    def shorten(self, name: str) -> bool:
        """Give back the front of a log that has become too long. Has it?"""
        with self._lock:
            if (file := self._files.get(name)) is not None:
                return self._shorten(name, file)
            try:  # what a model has started may have outlived it
                descriptor = os.open(self.path(name), os.O_RDWR | os.O_CLOEXEC)
            except OSError:
                return False
            try:
                return self._shorten(name, _File(descriptor, self._bases.get(name, 0)))
            finally:
                os.close(descriptor)

    def _shorten(self, name: str, file: _File) -> bool:
        """Called with the lock held: who reads must not find the hole before it is known."""
        status = os.fstat(file.descriptor)
        end = file.base + status.st_size
        if end - file.kept_from <= self._nbytes_max:
            return False
        if status.st_size < FILE_NBYTES_MAX:
            hole_nbytes = status.st_size - int(self._nbytes_max * KEPT_PART)
            hole_nbytes -= hole_nbytes % max(status.st_blksize, 4096)  # a part of a block would be zeros, and kept
            try:
                punch_pages(file.descriptor, 0, hole_nbytes)
            except OSError:  # no holes here
                pass
            else:
                file.kept_from = file.base + hole_nbytes
                return True
        os.ftruncate(file.descriptor, 0)
        self._bases[name] = file.base = file.kept_from = end
        return True

    def _remove_old(self) -> None:
        """Keep the newest of those that nobody writes to any more; remove the rest."""
        with self._lock:
            unused = [path for path in self._all() if path.name.removesuffix(_SUFFIX) not in self._files]
            unused.sort(key=_written_ns, reverse=True)
            for path in unused[self._files_max :]:
                path.unlink(missing_ok=True)
                self._bases.pop(path.name.removesuffix(_SUFFIX), None)


def _written_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _first_data(descriptor: int) -> int:
    """Where a file's data begin, after a hole at its front."""
    try:
        return os.lseek(descriptor, 0, os.SEEK_DATA)
    except OSError:  # nothing but a hole, or nothing at all
        return os.fstat(descriptor).st_size


def _read(file: _File, offset: int, limit: int) -> LogText:
    end = file.end()
    start = min(max(end + offset if offset < 0 else offset, file.kept_from), end)
    data = os.pread(file.descriptor, min(limit, end - start), start - file.base)
    text, consumed = codecs.utf_8_decode(data, "replace", False)
    if not consumed and data:  # nothing but the beginning of a character, and it may never go on
        text, consumed = codecs.utf_8_decode(data, "replace", True)
    return LogText(text, start, start + consumed)
