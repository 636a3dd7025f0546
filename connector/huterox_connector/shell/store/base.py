"""The store's interface. Desired state is few small records under keys; events are a journal beside them."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from huterox_connector.core.effects import Journalled, Write


class StoreError(Exception):
    """The store cannot be opened, read or written. Says where and why."""


class StoreConflict(StoreError):
    """A transaction's comparison did not hold; nothing was written."""


class Store(Protocol):
    """All calls block; they are made from one thread."""

    def get(self, key: str) -> bytes | None: ...

    def scan(self, prefix: str) -> dict[str, bytes]:
        """Keys that begin with `prefix`, in order, with their values."""

    def transact(self, writes: Sequence[Write], compare: Mapping[str, bytes | None] | None = None) -> None:
        """Write all or nothing, on disk when it returns.

        Raises:
            StoreConflict: a key does not have the value (None: no value) that `compare` expects.
            StoreError: the write failed; nothing was changed.
        """

    def append_events(self, events: Sequence[Journalled]) -> None:
        """Add to the journal. A crash may lose the last ones."""

    def last_events(self, count: int) -> list[Journalled]:
        """The newest events, oldest first."""

    def close(self) -> None: ...
