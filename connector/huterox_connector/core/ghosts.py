"""What has been evicted, remembered for a while: a fault on it tells how much more memory would have kept it.

Source: the refault distance of the Linux kernel (Weiner 2014, mm/workingset.c). The node counts the bytes that it has
evicted. A container leaves its place in that count behind; when its model is loaded again, the difference is what was
evicted after it, itself included: with so much more memory it would never have left.
"""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Final

from huterox_connector.core.vectors import MIB

GHOSTS_MAX: Final = 1024
STEPS_MB: Final = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
"""More memory by so much: how many loads it would have saved is counted for each."""


@dataclass(slots=True, frozen=True)
class Ghost:
    """One page that was evicted."""

    at_nbytes: int  # the node's count of evicted bytes before it left
    evicted_s: float
    load_s: float
    made_room_for: str


@dataclass(slots=True, frozen=True)
class Refault:
    """A page that was evicted is loaded again."""

    more_nbytes: int  # memory that would have kept it
    gone_s: float  # how long it was away
    made_room_for: str

    def facts(self) -> dict[str, Any]:
        return {
            "more_mb_would_have_kept_it": -(-self.more_nbytes // MIB),
            "gone_for_s": round(self.gone_s, 3),
            "made_room_for": self.made_room_for,
        }


class Ghosts:
    """The ghosts of one node, and what they have told. Bounded: the oldest is forgotten."""

    def __init__(self) -> None:
        self._ghosts: OrderedDict[Hashable, Ghost] = OrderedDict()
        self._evicted_nbytes = 0
        self.refaults = 0
        self.refault_load_s = 0.0  # what loading them again has cost
        self._within: dict[int, tuple[int, float]] = dict.fromkeys(STEPS_MB, (0, 0.0))

    def __len__(self) -> int:
        return len(self._ghosts)

    def evicted(self, page: Hashable, nbytes: int, load_s: float, made_room_for: str, now_s: float) -> None:
        """`page` left to make room."""
        self._ghosts.pop(page, None)
        self._ghosts[page] = Ghost(self._evicted_nbytes, now_s, load_s, made_room_for)
        self._evicted_nbytes += nbytes
        if len(self._ghosts) > GHOSTS_MAX:
            self._ghosts.popitem(last=False)

    def refault(self, page: Hashable, now_s: float) -> Refault | None:
        """`page` is loaded again; None where it is not known to have been evicted here."""
        ghost = self._ghosts.pop(page, None)
        if ghost is None:
            return None
        more_nbytes = self._evicted_nbytes - ghost.at_nbytes
        self.refaults += 1
        self.refault_load_s += ghost.load_s
        for step_mb, (count, saved_s) in self._within.items():
            if more_nbytes <= step_mb * MIB:
                self._within[step_mb] = (count + 1, saved_s + ghost.load_s)
        return Refault(more_nbytes, now_s - ghost.evicted_s, ghost.made_room_for)

    def summary(self) -> dict[str, Any]:
        """How many loads, and seconds of loading, more memory would have saved, by how much more."""
        would_save = [
            {"more_mb": step_mb, "loads": count, "load_s": round(saved_s, 3)}
            for step_mb, (count, saved_s) in self._within.items()
            if count
        ]
        return {"refaults": self.refaults, "load_s": round(self.refault_load_s, 3), "would_save": would_save}
