"""The disk of the simulated switchboard: writes reach it in order, a little later, or not at all."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from huterox_connector.core import desired, measured
from huterox_connector.core import effects as asked
from huterox_connector.core import events as happened

if TYPE_CHECKING:
    from tests.simulation.world import World

FULL = 0.04
"""How often it is."""


class Disk:
    """What survives a switchboard. What was under way when that one was killed is lost."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._stored: dict[str, bytes] = {}
        self._free_s = 0.0  # when the writes before are done

    def read(self) -> tuple[desired.Desired, measured.Measured]:
        seen, unreadable = measured.decode(self._stored)
        assert not unreadable, f"{unreadable} cannot be read back"
        return desired.decode(self._stored), seen

    def commit(self, effect: asked.Commit) -> None:
        world = self._world
        fails, epoch = world.random.random() < FULL * world.trouble, world.epoch

        def written() -> None:
            if epoch != world.epoch:
                return
            if fails:
                world.on(happened.CommitFailed(effect.ticket, "disk full"))
                return
            self._write(effect.writes)
            world.on(happened.Committed(effect.ticket))

        world.after(self._delay_s(), written)

    def keep(self, effect: asked.Keep) -> None:
        epoch = self._world.epoch
        self._world.after(self._delay_s(), lambda: self._write(effect.writes) if epoch == self._world.epoch else None)

    def _delay_s(self) -> float:
        now_s = self._world.now_s
        self._free_s = max(self._free_s, now_s) + self._world.random.uniform(0.0005, 0.01)
        return self._free_s - now_s

    def _write(self, writes: Sequence[asked.Write]) -> None:
        for write in writes:
            self._stored.pop(write.key, None)
            if write.value is not None:
                self._stored[write.key] = write.value
