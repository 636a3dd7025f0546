"""Who commands the kernels: this start of this store's switchboard, in an epoch.

Kernels refuse commands of an older epoch than the newest they have seen, so a paused old switchboard cannot undo what a
new one does. The store counts epochs; but a store can be lost, restored from an older copy, or put in another's place.
Then its epochs fall behind what kernels have seen. So kernels tell that when they register, and the switchboard steps
beyond it, on disk first, before it commands anything.

The epoch says who is newer; `store` and `mark` say who it is: two starts that took the same epoch are told apart.
"""

from dataclasses import dataclass
from hashlib import blake2b
from math import inf
from typing import Final

from msgspec import msgpack

from huterox_connector.core.effects import Commit, Write
from huterox_wire.nodes import EPOCH_MAX, ModelSpec, RegisterMeta

EPOCH_KEY: Final = "epoch"
STORE_KEY: Final = "store"
TICKET: Final = 0
"""Of the commit of an epoch; those of changes are larger."""

TRY_AGAIN_S: Final = 2.0
"""After an epoch could not be written."""


@dataclass(slots=True)
class Term:
    """The one that commands. `epoch` only grows; `mark` is this start's, `store` the store's for ever, both random."""

    epoch: int
    mark: int
    store: str = ""
    _wanted: int = 0  # the epoch that is being written; 0: none
    _again_s: float = -inf

    def is_behind(self, seen: RegisterMeta) -> bool:
        """Whether a kernel would refuse what is commanded in this epoch, or take it for another's."""
        if seen.epoch_seen != self.epoch:
            return seen.epoch_seen > self.epoch
        return bool(seen.mark_seen) and seen.mark_seen != self.mark

    def is_foreign(self, seen: RegisterMeta) -> bool:
        """Whether a kernel was commanded from another store before."""
        return bool(seen.store_seen) and seen.store_seen != self.store

    def revision_of(self, spec: ModelSpec) -> str:
        """What a container of this deployment is known by. The same specification of another store is another."""
        plain = self.store.encode() + msgpack.encode(spec, order="deterministic")
        return blake2b(plain, digest_size=8).hexdigest()

    def step_beyond(self, epoch: int, now_s: float) -> list[Commit]:
        """Take an epoch that is larger than `epoch`; it holds once it is written."""
        if self._wanted or now_s < self._again_s or epoch >= EPOCH_MAX:
            return []
        self._wanted = epoch + 1
        return [Commit(TICKET, (Write(EPOCH_KEY, str(self._wanted).encode()),))]

    def stepped(self) -> None:
        """The epoch is on disk."""
        self.epoch, self._wanted = max(self.epoch, self._wanted), 0

    def step_failed(self, now_s: float) -> None:
        self._wanted, self._again_s = 0, now_s + TRY_AGAIN_S
