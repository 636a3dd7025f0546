"""The store's thread: the loop hands it work and hears of the result, and never waits for the disk."""

import logging
import queue
import threading
from collections.abc import Callable, Sequence

from huterox_connector.core.effects import Commit, Journalled, Keep
from huterox_connector.core.events import CommitFailed, Committed, Event
from huterox_connector.shell.store.base import Store, StoreError

_log = logging.getLogger(__name__)


class Writer:
    """Runs commits and journal entries in order. `report` is called in the writer's thread.

    Its queue is bounded by the core: one commit at a time, and one batch of journal entries per tick.
    """

    def __init__(self, store: Store, report: Callable[[Event], None]) -> None:
        self._store = store
        self._report = report
        self._queue: queue.SimpleQueue[Commit | Keep | Sequence[Journalled] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    def put(self, work: Commit | Keep | Sequence[Journalled]) -> None:
        self._queue.put(work)

    def close(self, timeout_s: float) -> None:
        """Finish what was handed over, then close the store."""
        self._queue.put(None)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            _log.error("the store did not finish writing within %.1f s", timeout_s)
        else:
            self._store.close()

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            if isinstance(work, Commit):
                self._report(self._commit(work))
            elif isinstance(work, Keep):
                self._keep(work)
            else:
                self._append(work)

    def _commit(self, commit: Commit) -> Event:
        try:
            self._store.transact(commit.writes)
        except Exception as exc:  # noqa: BLE001 - whatever it is, somebody waits for the answer
            _log.error("a change was not written: %s", exc, exc_info=not isinstance(exc, StoreError))
            return CommitFailed(commit.ticket, str(exc))
        return Committed(commit.ticket)

    def _keep(self, kept: Keep) -> None:
        try:
            self._store.transact(kept.writes)
        except Exception as exc:  # noqa: BLE001 - measurements are made again; the next commit must find this thread alive
            _log.error("%d measurements were not written: %s", len(kept.writes), exc)

    def _append(self, events: Sequence[Journalled]) -> None:
        try:
            self._store.append_events(events)
        except Exception as exc:  # noqa: BLE001 - the next commit must still find this thread alive
            _log.error("%d journal entries were not written: %s", len(events), exc)
