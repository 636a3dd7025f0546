"""The embedded store: one SQLite file in WAL mode, one connection, used from one thread.

Two connections are never opened: SQLite before 3.51.3 can lose commits in WAL mode with two. `synchronous=FULL` puts a
transaction on disk before it returns. A lock on the file itself (of a kind that SQLite does not use) keeps a second
switchboard away: one on a file beside it would be gone with that file.
"""

import fcntl
import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import msgspec

from huterox_connector.core.effects import Journalled, Write
from huterox_connector.shell.store.base import StoreConflict, StoreError

_SCHEMA_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS records (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, subject TEXT NOT NULL,
    reason TEXT NOT NULL, details BLOB NOT NULL
);
"""


def lock_store(path: Path) -> int:
    """A descriptor that holds the lock. Raises StoreError."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise StoreError(f"store {path}: {exc}") from exc
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(fd)
        raise StoreError(f"store {path} is in use by another switchboard") from exc
    return fd


class SqliteStore:
    """Owns the file and its lock until `close`."""

    def __init__(self, path: Path, events_max: int, lock: int | None = None) -> None:
        """`lock` is what `lock_store` gave; taken over."""
        self._path = path
        self._events_max = events_max
        self._lock = lock_store(path) if lock is None else lock
        try:
            self._db = self._open()
        except BaseException:
            os.close(self._lock)
            raise

    def _open(self) -> sqlite3.Connection:
        with ExitStack() as undo:
            try:
                # The writer's thread is not the one that opens it, but only one thread at a time ever uses it.
                db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
                undo.callback(db.close)
                self._prepare(db)
            except sqlite3.Error as exc:
                raise StoreError(f"store {self._path}: {exc}") from exc
            undo.pop_all()
        return db

    def _prepare(self, db: sqlite3.Connection) -> None:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, _SCHEMA_VERSION):
            raise StoreError(f"store {self._path} has schema {version}; this switchboard knows {_SCHEMA_VERSION}")
        db.executescript(_SCHEMA)
        db.execute(f"PRAGMA user_version={_SCHEMA_VERSION}")

    def get(self, key: str) -> bytes | None:
        row = self._guard(lambda: self._db.execute("SELECT value FROM records WHERE key = ?", (key,)).fetchone())
        return row[0] if row else None

    def scan(self, prefix: str) -> dict[str, bytes]:
        query = "SELECT key, value FROM records WHERE substr(key, 1, ?) = ? ORDER BY key"
        rows = self._guard(lambda: self._db.execute(query, (len(prefix), prefix)).fetchall())
        return dict(rows)

    def transact(self, writes: Sequence[Write], compare: Mapping[str, bytes | None] | None = None) -> None:
        def work() -> None:
            for key, expected in (compare or {}).items():
                row = self._db.execute("SELECT value FROM records WHERE key = ?", (key,)).fetchone()
                if (row[0] if row else None) != expected:
                    raise StoreConflict(f"record {key!r} is not what it was expected to be")
            for write in writes:
                if write.value is None:
                    self._db.execute("DELETE FROM records WHERE key = ?", (write.key,))
                else:
                    self._db.execute("INSERT OR REPLACE INTO records VALUES (?, ?)", (write.key, write.value))

        self._in_transaction(work)

    def append_events(self, events: Sequence[Journalled]) -> None:
        def work() -> None:
            rows = [(e.seq, e.at, e.kind, e.subject, e.reason, msgspec.msgpack.encode(e.details)) for e in events]
            self._db.executemany("INSERT OR REPLACE INTO events VALUES (?, ?, ?, ?, ?, ?)", rows)
            if rows:
                self._db.execute("DELETE FROM events WHERE seq <= ?", (rows[-1][0] - self._events_max,))

        self._in_transaction(work)

    def last_events(self, count: int) -> list[Journalled]:
        query = "SELECT * FROM events ORDER BY seq DESC LIMIT ?"
        rows = self._guard(lambda: self._db.execute(query, (count,)).fetchall())
        decode = msgspec.msgpack.decode
        return [Journalled(s, at, kind, who, why, decode(facts)) for s, at, kind, who, why, facts in reversed(rows)]

    def close(self) -> None:
        self._db.close()
        os.close(self._lock)

    def _in_transaction(self, work: Callable[[], None]) -> None:
        def guarded() -> None:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                work()
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

        self._guard(guarded)

    def _guard(self, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except sqlite3.Error as exc:
            raise StoreError(f"store {self._path}: {exc}") from exc
