"""The disk of the simulated switchboard: writes reach it in order, a little later, or not at all."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from huterox_connector.core import desired, measured
from huterox_connector.core import effects as asked
from huterox_connector.core import events as happened
from huterox_connector.core.term import EPOCH_KEY, STORE_KEY, Term
from huterox_wire.ids import MARK_MAX

if TYPE_CHECKING:
    from tests.simulation.world import World

FULL = 0.04
"""How often it is."""
COPIED: Final = 0.05
"""How often a write is followed by a copy of all."""
COPIES_MAX: Final = 4


class Disk:
    """What survives a switchboard. What was under way when that one was killed is lost."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._stored: dict[str, bytes] = {}
        self._free_s = 0.0  # when the writes before are done
        self._copies: list[dict[str, bytes]] = []

    def next_term(self) -> Term:
        """What a new switchboard takes before it does anything."""
        random = self._world.random
        epoch = int(self._stored.get(EPOCH_KEY, b"0")) + 1
        store = self._stored.get(STORE_KEY) or b"%016x" % random.getrandbits(64)
        self._write((asked.Write(EPOCH_KEY, b"%d" % epoch), asked.Write(STORE_KEY, store)))
        return Term(epoch, random.randint(1, MARK_MAX), store.decode())

    def lose(self) -> None:
        """Somebody deletes the file."""
        self._stored = {}

    def roll_back(self) -> None:
        """Somebody restores an older copy, where there is one."""
        if self._copies:
            self._stored = dict(self._world.random.choice(self._copies))

    def read(self) -> tuple[desired.Desired, measured.Measured]:
        seen, unreadable = measured.decode(self._stored)
        assert not unreadable, f"{unreadable} cannot be read back"
        return desired.decode(self._stored), seen

    def commit(self, effect: asked.Commit) -> None:
        world = self._world
        fails, starts = world.random.random() < FULL * world.trouble, world.starts

        def written() -> None:
            if starts != world.starts:
                return
            if fails:
                world.on(happened.CommitFailed(effect.ticket, "disk full"))
                return
            self._write(effect.writes)
            world.on(happened.Committed(effect.ticket))

        world.after(self._delay_s(), written)

    def keep(self, effect: asked.Keep) -> None:
        starts = self._world.starts
        self._world.after(self._delay_s(), lambda: self._write(effect.writes) if starts == self._world.starts else None)

    def _delay_s(self) -> float:
        now_s = self._world.now_s
        self._free_s = max(self._free_s, now_s) + self._world.random.uniform(0.0005, 0.01)
        return self._free_s - now_s

    def _write(self, writes: Sequence[asked.Write]) -> None:
        for write in writes:
            self._stored.pop(write.key, None)
            if write.value is not None:
                self._stored[write.key] = write.value
        if self._world.random.random() < COPIED:
            self._copies = [*self._copies[1 - COPIES_MAX :], dict(self._stored)]
