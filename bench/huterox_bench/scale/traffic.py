"""What callers do on a platform of many nodes: popular services are called much, and their popularity drifts."""

from bisect import bisect_left
from itertools import accumulate

from huterox_bench.scale.platform import Platform

ZIPF = 0.9
CALLS_PER_NODE_S = 5.0


class Traffic:
    """Calls of services, by Zipf's law over the models."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        models = platform.shape.models
        self._order = list(range(models))
        platform.random.shuffle(self._order)
        self._bounds = list(accumulate(1.0 / rank**ZIPF for rank in range(1, models + 1)))
        services = list(platform.board.registry.services)
        self._of_model: list[list[int]] = [services[number::models] for number in range(models)]
        self._rate = CALLS_PER_NODE_S * platform.shape.nodes

    def run(self, calls: int) -> None:
        """So many calls, in a stream whose rate grows with the nodes."""
        platform, random = self._platform, self._platform.random
        for _ in range(calls):
            rank = bisect_left(self._bounds, random.random() * self._bounds[-1])
            handles = self._of_model[self._order[min(rank, len(self._order) - 1)]]
            if handles:
                platform.call(random.choice(handles))
            platform.run(random.expovariate(self._rate))
