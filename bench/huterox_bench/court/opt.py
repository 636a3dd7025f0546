"""A replacer that knows the future: it has read the trace.

Each resident container is worth what it saves, spread over the room and time that keeping it takes: the seconds to load
it again, divided by its bytes and by the time until its model is called next. The least worth leaves; before all others
what is never called again. Where sizes and load times are equal, this is the one that is called last: Belady's MIN,
which is optimal then. Where they differ, finding the optimum is NP-hard, and this is a good guess: the ranking by which
the offline bound chooses what to keep, too.

Sources: Belady 1966, "A Study of Replacement Algorithms for a Virtual-Storage Computer"; the ranking by cost, size and
distance: Berger, Beckmann and Harchol-Balter 2018, "Practical Bounds on Optimal Caching with Variable Object Sizes".
"""

from collections.abc import Container as Collection
from math import inf
from typing import Final, Self

from huterox_bench.court.traces import Trace
from huterox_connector.core.replacer.base import ContainerId, Page

SOON_S: Final = 1e-6
"""Called at this very moment counts as called so soon."""


class Future:
    """When each model of a trace is called next. The replay tells it what has come to pass."""

    def __init__(self, trace: Trace) -> None:
        self.now_s = 0.0
        self._times_s: dict[str, list[float]] = {model: [] for model in trace.models}
        for request in trace.requests:
            self._times_s[request.model].append(request.time_s)
        self._arrived = dict.fromkeys(trace.models, 0)

    def arrived(self, model: str, now_s: float) -> None:
        """Hot path. The next call of `model` is here."""
        self.now_s = now_s
        self._arrived[model] += 1

    def distance_s(self, model: str) -> float:
        """How long until it is called next; inf: never again."""
        times_s, arrived = self._times_s[model], self._arrived[model]
        return max(SOON_S, times_s[arrived] - self.now_s) if arrived < len(times_s) else inf


class Opt:
    """Evicts what is worth least, knowing when it would be needed again."""

    def __init__(self, future: Future) -> None:
        self._future = future
        self._resident: dict[ContainerId, tuple[str, int, float]] = {}  # model, bytes, seconds to load it again

    def insert(self, cid: ContainerId, *, page: Page, nbytes: int, reload_cost_s: float) -> None:
        model = page[0] if isinstance(page, tuple) else page
        self._resident[cid] = (str(model), max(1, nbytes), reload_cost_s)

    def record_access(self, cid: ContainerId, count: int = 1) -> None:
        """Hot path. The past does not count."""

    def remove(self, cid: ContainerId) -> None:
        self._resident.pop(cid, None)

    def victim(self, evictable: Collection[ContainerId]) -> ContainerId | None:
        return min((cid for cid in self._resident if cid in evictable), key=self._rank, default=None)

    def copy(self) -> Self:
        twin = type(self)(self._future)
        twin._resident = self._resident.copy()
        return twin

    def _rank(self, cid: ContainerId) -> tuple[float, float, int]:
        """Of those that are worth the same: the one that is called last, the largest."""
        model, nbytes, reload_cost_s = self._resident[cid]
        distance_s = self._future.distance_s(model)
        return (reload_cost_s / nbytes / distance_s, -distance_s, -nbytes)
