"""What has been evicted, remembered for a while: a fault on it tells how much more memory would have kept it.

Source: the refault distance of the Linux kernel (Weiner 2014, mm/workingset.c). The node counts the bytes that it has
evicted. A container leaves its place in that count behind; when its model is loaded again, the difference is what was
evicted after it, itself included: with so much more memory it would never have left. Where slots were short and memory
was not, slots are counted in the same way: more memory would not have kept it.
"""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Final

from huterox_connector.core.vectors import MIB

GHOSTS_MAX: Final = 1024
STEPS_MB: Final = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
"""More memory by so much: how many loads it would have saved is counted for each."""
STEPS_SLOTS: Final = (1, 2, 4, 8, 16, 32)
"""More slots likewise."""

Within = dict[int, tuple[int, float]]
"""By step: loads that it would have saved, and the seconds that they took."""


@dataclass(slots=True, frozen=True)
class Ghost:
    """One page that was evicted."""

    at_nbytes: int  # the node's count of bytes that were evicted for memory, before it left
    at_slots: int  # and of containers that were evicted for a slot
    for_memory: bool
    for_slot: bool
    evicted_s: float
    load_s: float
    made_room_for: str


@dataclass(slots=True, frozen=True)
class Refault:
    """A page that was evicted is loaded again."""

    more_nbytes: int  # memory that would have kept it; 0: that was not short
    more_slots: int  # and slots
    gone_s: float  # how long it was away
    made_room_for: str

    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        if self.more_nbytes:
            facts["more_mb_would_have_kept_it"] = -(-self.more_nbytes // MIB)
        if self.more_slots:
            facts["more_slots_would_have_kept_it"] = self.more_slots
        return {**facts, "gone_for_s": round(self.gone_s, 3), "made_room_for": self.made_room_for}


class Ghosts:
    """The ghosts of one node, and what they have told. Bounded: the oldest is forgotten."""

    def __init__(self) -> None:
        self._ghosts: OrderedDict[Hashable, Ghost] = OrderedDict()
        self._evicted_nbytes = 0  # for memory
        self._evicted_slots = 0  # containers, for a slot
        self.refaults = 0
        self.refault_load_s = 0.0  # what loading them again has cost
        self._within_mb: Within = dict.fromkeys(STEPS_MB, (0, 0.0))
        self._within_slots: Within = dict.fromkeys(STEPS_SLOTS, (0, 0.0))

    def __len__(self) -> int:
        return len(self._ghosts)

    def evicted(
        self,
        page: Hashable,
        nbytes: int,
        load_s: float,
        made_room_for: str,
        now_s: float,
        *,
        for_memory: bool = True,
        for_slot: bool = False,
    ) -> None:
        """`page` left to make room: memory was short, or slots were, or both."""
        self._ghosts.pop(page, None)
        ghost = Ghost(self._evicted_nbytes, self._evicted_slots, for_memory, for_slot, now_s, load_s, made_room_for)
        self._ghosts[page] = ghost
        self._evicted_nbytes += nbytes * for_memory
        self._evicted_slots += for_slot
        if len(self._ghosts) > GHOSTS_MAX:
            self._ghosts.popitem(last=False)

    def refault(self, page: Hashable, now_s: float) -> Refault | None:
        """`page` is loaded again; None where it is not known to have been evicted here."""
        ghost = self._ghosts.pop(page, None)
        if ghost is None:
            return None
        more_nbytes = (self._evicted_nbytes - ghost.at_nbytes) * ghost.for_memory
        more_slots = (self._evicted_slots - ghost.at_slots) * ghost.for_slot
        self.refaults += 1
        self.refault_load_s += ghost.load_s
        if not ghost.for_slot:  # where both were short, neither alone would have helped
            _count(self._within_mb, -(-more_nbytes // MIB), ghost.load_s)
        elif not ghost.for_memory:
            _count(self._within_slots, more_slots, ghost.load_s)
        return Refault(more_nbytes, more_slots, now_s - ghost.evicted_s, ghost.made_room_for)

    def summary(self) -> dict[str, Any]:
        """How many loads, and seconds of loading, more memory or more slots would have saved, by how much more."""
        return {
            "refaults": self.refaults,
            "load_s": round(self.refault_load_s, 3),
            "would_save": _steps("more_mb", self._within_mb),
            "slots_would_save": _steps("more_slots", self._within_slots),
        }


def _count(within: Within, needed: int, load_s: float) -> None:
    for step, (count, saved_s) in within.items():
        if needed <= step:
            within[step] = (count + 1, saved_s + load_s)


def _steps(name: str, within: Within) -> list[dict[str, Any]]:
    return [
        {name: step, "loads": count, "load_s": round(saved_s, 3)} for step, (count, saved_s) in within.items() if count
    ]
