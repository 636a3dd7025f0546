"""What a replay counts, outside of the replacer that it judges."""

from array import array
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from huterox_bench.court.kernel import ReplayedCall, Way


@dataclass(slots=True)
class Tally:
    """What becomes of requests. Each ends in one of four ways: hits + misses + joined + refused == requests.

    hit      its container was ready when it came (it may still have queued there)
    miss     a load was begun for it: it is the first that the loaded container served
    joined   it waited for a load that was begun for another call
    refused  it ended with an error: no room, no patience, no time; one for which a load was begun in vain, too

    A wait is the time from a call's arrival to the moment when its container began to work on it; of served calls.
    """

    hits: int = 0
    misses: int = 0
    joined: int = 0
    refusals: dict[str, int] = field(default_factory=dict)  # by the error's code
    evictions: int = 0  # to make room
    reclaims: int = 0  # idle, or a replica that was not needed
    waits_s: "array[float]" = field(default_factory=lambda: array("d"))
    order: "array[int]" = field(default_factory=lambda: array("l"))  # numbers of models, as their calls were answered

    def served(self, call: ReplayedCall, model: int) -> None:
        """Hot path. Its container has answered it."""
        self.waits_s.append(call.started_s - call.arrived_s)
        self.order.append(model)
        if call.way is Way.HIT:
            self.hits += 1
        elif call.way is Way.MISS:
            self.misses += 1
        else:
            self.joined += 1

    def refuse(self, code: str) -> None:
        """It ended with an error."""
        self.refusals[code] = self.refusals.get(code, 0) + 1

    @property
    def refused(self) -> int:
        return sum(self.refusals.values())

    @property
    def requests(self) -> int:
        return self.hits + self.misses + self.joined + self.refused


@dataclass(frozen=True, slots=True)
class Verdict:
    """One policy on one trace at one capacity; or the bound, of which some things cannot be told."""

    policy: str
    capacity_mb: float
    nodes: int
    requests: int
    hits: int
    misses: int
    joined: int
    refused: int
    miss_ratio: float
    loads: int
    load_seconds: float
    evictions: int | None = None
    reclaims: int | None = None
    refusals: dict[str, int] | None = None
    p50_wait_s: float | None = None
    p99_wait_s: float | None = None
    mean_wait_s: float | None = None
    max_wait_s: float | None = None
    bound_loads: int | None = None  # for the calls that were served, in the order in which they were
    bound_load_seconds: float | None = None

    @property
    def ratio_to_bound(self) -> float | None:
        """How many times as long was loaded as the bound says; 1: nothing could have been saved."""
        if self.bound_load_seconds is None:
            return None
        return self.load_seconds / self.bound_load_seconds if self.bound_load_seconds else 1.0

    def as_json(self) -> dict[str, Any]:
        """Plain values, all keys each time: None for what is not known."""
        named = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**named, "ratio_to_bound": self.ratio_to_bound}


def percentile(ordered: list[float], share: float) -> float:
    """The smallest value that `share` of all do not exceed (nearest rank); 0 where there is none."""
    return ordered[max(0, ceil(share * len(ordered)) - 1)] if ordered else 0.0
