"""What callers did by their lanes to one container: totals by service, over lanes open and gone.

A lane is counted while it is there and added up when it goes, so totals only grow and never count a lane twice. A call
counts once it has been worked off: one that is lost with its container, or sent again by another way, has not.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from huterox_shm.layout import LaneCounters
from huterox_wire.nodes import LaneUsage

SERVICES_MAX: Final = 512
"""Services that one container can keep totals for: every heartbeat tells them all."""


class Total(NamedTuple):
    calls: int = 0
    errors: int = 0
    busy_us: int = 0
    activity_us: int = 0  # when the last call was, on the clock of the lanes

    def plus(self, counts: LaneCounters) -> "Total":
        return Total(
            self.calls + counts.calls_done,
            self.errors + counts.errors,
            self.busy_us + counts.busy_us,
            max(self.activity_us, counts.activity_us),
        )


class Usage:
    """One container's totals."""

    def __init__(self) -> None:
        self._gone: dict[int, Total] = {}  # by service: lanes that are no longer there

    def has_room(self, service: int) -> bool:
        """Can lanes of this service be counted? A new one finds no room where SERVICES_MAX are known."""
        return service in self._gone or len(self._gone) < SERVICES_MAX

    def know(self, service: int) -> None:
        """A lane of this service has come."""
        self._gone.setdefault(service, Total())

    def add(self, service: int, counts: LaneCounters) -> None:
        """A lane has gone; these were its last counts."""
        self._gone[service] = self._gone.get(service, Total()).plus(counts)

    def report(self, lanes: Iterable[tuple[int, LaneCounters]], now_us: int) -> list[LaneUsage]:
        """The totals now, with the (service, counts) of the lanes that are there. Services without a call are left out.

        Args:
            now_us: on the clock of the lanes.
        """
        totals = dict(self._gone)
        for service, counts in lanes:
            totals[service] = totals.get(service, Total()).plus(counts)
        return [
            LaneUsage(service, total.calls, total.errors, total.busy_us, max(0, now_us - total.activity_us))
            for service, total in totals.items()
            if total.calls
        ]
