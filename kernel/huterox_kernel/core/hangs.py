"""Which workers do not come back: from a call whose time is over, to calls that wait for them, or after a DRAIN.

A worker shows the deadline of the call that it runs, and what it counts moves whenever it tells answers or takes calls.
So one that hangs is told from one that is busy, however it hangs: in Python, in C with the interpreter's lock, stopped.

    runs a call, its deadline + `hang_grace_s` is over                                     hung
    runs no call, and for `hang_grace_s` has not looked at a doorbell that was rung        hung
    is to drain, and for `drain_grace_s` since then nothing has moved                      hung

A call without a deadline may take for ever, but for the last. What was seen once is looked at again before it counts: a
machine that was paused as a whole goes on as if nothing had been.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from huterox_shm.layout import NO_END

AGAIN_S: Final = 0.5
"""Nothing may have moved for so long, at the least."""


class Sight(NamedTuple):
    """What is seen of a worker from outside. `running_until_us`: see `huterox_shm.layout.RUNNING_UNTIL`.

    `moved` changes when it takes calls or tells answers. `is_unheard`: a doorbell was rung, and it has not looked.
    `owes`: calls of its, or lanes, have not ended.
    """

    running_until_us: int
    moved: int
    is_unheard: bool
    owes: bool


def together(sights: Sequence[Sight]) -> Sight:
    """Of all lanes of a worker: it runs one call at a time, at most."""
    running, moved, unheard, owes = zip(*sights, strict=True)
    return Sight(max(running), sum(moved), any(unheard), any(owes))


@dataclass(slots=True)
class _Seen:
    since_s: float  # nothing has moved since
    running_until_us: int
    moved: int
    unheard_s: float | None = None  # since when


class Hangs:
    """Remembers of each worker since when nothing has moved.

    Args:
        hang_grace_s: for a worker to come back after a call's deadline, and to look for calls.
        drain_grace_s: for a worker to come to an end with its calls after a DRAIN.
    """

    def __init__(self, hang_grace_s: float, drain_grace_s: float) -> None:
        self._hang_grace_s = hang_grace_s
        self._drain_grace_s = drain_grace_s
        self._seen: dict[int, _Seen] = {}
        self._draining: dict[int, float] = {}  # since when

    def drain(self, container: int, now_s: float) -> None:
        """It was told to drain, perhaps once more."""
        self._draining.setdefault(container, now_s)

    def forget(self, container: int) -> None:
        """It has ended."""
        self._seen.pop(container, None)
        self._draining.pop(container, None)

    def look(self, container: int, sight: Sight, now_s: float) -> str:
        """Why it is to be taken for hung; empty: it is not."""
        seen = self._seen.get(container)
        if seen is None or (seen.running_until_us, seen.moved) != sight[:2]:
            seen = self._seen[container] = _Seen(now_s, *sight[:2])
        if not sight.is_unheard:
            seen.unheard_s = None
        elif seen.unheard_s is None:
            seen.unheard_s = now_s
        still_s = now_s - seen.since_s
        if still_s < AGAIN_S:
            return ""
        return (
            self._overdue(sight, now_s) or self._deaf(sight, seen, now_s) or self._stays(container, sight, seen, now_s)
        )

    def _overdue(self, sight: Sight, now_s: float) -> str:
        if sight.running_until_us in (0, NO_END):
            return ""
        late_s = now_s - sight.running_until_us / 1e6
        if late_s < self._hang_grace_s:
            return ""
        return f"it did not come back from a call whose time was over {late_s:.1f} s ago"

    def _deaf(self, sight: Sight, seen: _Seen, now_s: float) -> str:
        if sight.running_until_us or seen.unheard_s is None or now_s - seen.unheard_s < self._hang_grace_s:
            return ""
        return f"calls wait for it, and it has not looked at them for {now_s - seen.unheard_s:.1f} s"

    def _stays(self, container: int, sight: Sight, seen: _Seen, now_s: float) -> str:
        since_s = self._draining.get(container)
        if since_s is None or not sight.owes:
            return ""
        waited_s = now_s - max(since_s, seen.since_s)
        if waited_s < self._drain_grace_s:
            return ""
        return f"it was told to drain {now_s - since_s:.1f} s ago, and has done nothing for {waited_s:.1f} s"
