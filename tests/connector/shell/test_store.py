"""The store's conformance suite."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from huterox_connector.core.effects import Commit, Journalled, Write
from huterox_connector.core.events import CommitFailed, Committed, Event
from huterox_connector.shell.store.base import Store, StoreConflict, StoreError
from huterox_connector.shell.store.sqlite import SqliteStore
from huterox_connector.shell.writer import Writer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    store = SqliteStore(path, events_max=5)
    yield store
    store.close()


def test_what_is_written_is_read(store: Store) -> None:
    store.transact([Write("a/1", b"x"), Write("a/2", b""), Write("b/1", b"y")])
    assert (store.get("a/1"), store.get("a/2"), store.get("none")) == (b"x", b"", None)
    assert store.scan("a/") == {"a/1": b"x", "a/2": b""}


def test_prefix_is_taken_to_the_letter(store: Store) -> None:
    store.transact([Write("a%/1", b"x"), Write("ab/1", b"y")])
    assert store.scan("a%") == {"a%/1": b"x"}


def test_record_is_replaced_and_removed(store: Store) -> None:
    store.transact([Write("k", b"1")])
    store.transact([Write("k", b"2"), Write("never there", None)])
    assert store.get("k") == b"2"
    store.transact([Write("k", None)])
    assert store.scan("") == {}


def test_transaction_whose_comparison_fails_writes_nothing(store: Store) -> None:
    store.transact([Write("k", b"1")])
    for compare in ({"k": b"0"}, {"k": None}, {"other": b"1"}):
        with pytest.raises(StoreConflict):
            store.transact([Write("k", b"2"), Write("j", b"2")], compare)
    assert store.scan("") == {"k": b"1"}
    store.transact([Write("k", b"2")], {"k": b"1", "other": None})
    assert store.get("k") == b"2"


def test_everything_survives_closing(path: Path) -> None:
    store = SqliteStore(path, events_max=5)
    store.transact([Write("k", b"1")])
    store.append_events([_event(1)])
    store.close()
    again = SqliteStore(path, events_max=5)
    assert again.get("k") == b"1"
    assert again.last_events(10) == [_event(1)]
    again.close()


def test_journal_keeps_the_newest_events_oldest_first(store: Store) -> None:
    for seq in range(1, 9):
        store.append_events([_event(seq)])
    assert [event.seq for event in store.last_events(100)] == [4, 5, 6, 7, 8]
    assert [event.seq for event in store.last_events(2)] == [7, 8]


def test_second_switchboard_on_one_store_is_refused(store: Store, path: Path) -> None:
    with pytest.raises(StoreError, match="in use"):
        SqliteStore(path, events_max=5)


def test_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "garbage.db"
    path.write_bytes(b"this is not a database" * 100)
    with pytest.raises(StoreError, match=r"garbage\.db") as caught:
        SqliteStore(path, events_max=5)
    assert open_files(path) == [], "though what was raised still holds what was there"
    assert caught.value.__cause__ is not None
    with pytest.raises(StoreError):
        SqliteStore(tmp_path / "no such folder" / "x.db", events_max=5)


def open_files(path: Path) -> list[str]:
    """What of this store is open in this process."""
    paths = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            paths.append(str(descriptor.readlink()))
    return [open_path for open_path in paths if open_path.startswith(str(path))]


def test_writer_reports_commits_in_order_and_finishes_on_close(path: Path) -> None:
    reports: list[Event] = []
    writer = Writer(SqliteStore(path, events_max=5), reports.append)
    writer.put(Commit(1, (Write("k", b"1"),)))
    writer.put([_event(1)])
    writer.put(Commit(2, (Write("k", b"2"),)))
    writer.close(timeout_s=10.0)
    assert reports == [Committed(1), Committed(2)]
    store = SqliteStore(path, events_max=5)
    assert store.get("k") == b"2"
    store.close()


def test_writer_reports_a_commit_that_failed(path: Path) -> None:
    class Full(SqliteStore):
        def transact(self, *_: object, **__: object) -> None:
            raise StoreError("disk full")

    reports: list[Event] = []
    writer = Writer(Full(path, events_max=5), reports.append)
    writer.put(Commit(1, (Write("k", b"1"),)))
    writer.close(timeout_s=10.0)
    assert reports == [CommitFailed(1, "disk full")]


def _event(seq: int) -> Journalled:
    return Journalled(seq, 1.5 * seq, "load", "m c1.1", "because", {"mb": seq, "nodes": ["n1"]})


def test_the_lock_holds_whatever_lies_beside_the_store(path: Path) -> None:
    store = SqliteStore(path, events_max=5)
    for file in path.parent.iterdir():
        if file != path:
            file.unlink()
    with pytest.raises(StoreError, match="in use by another switchboard"):
        SqliteStore(path, events_max=5)
    store.close()
