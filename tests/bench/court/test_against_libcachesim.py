"""The whole replay misses exactly as often as libCacheSim, the simulator of the authors of SIEVE and S3-FIFO.

Through the switchboard's core with all its guards, drains and loads. Models are all alike and calls so far apart that
no guard bites: each finds the one before answered, what left gone, the last load past its minimum residency, and no
model is called often enough within a half-life to count as hot.
"""

from collections.abc import Callable

import libcachesim
import pytest

from huterox_bench.court.generators import Plan, generate
from huterox_bench.court.replay import Settings, replay
from huterox_bench.court.traces import Trace

SIZE_MB = 1024
REFERENCES: dict[str, Callable[..., libcachesim.CacheBase]] = {
    "fifo": libcachesim.FIFO,
    "lru": libcachesim.LRU,
    "lfu": libcachesim.LFU,
    "clock": libcachesim.Clock,
    "sieve": libcachesim.Sieve,
}
PLANS = [
    Plan(requests=300, models=30, tenants=3, rate=1 / 60, skew=skew, seed=seed)
    for skew in (0.4, 1.1)
    for seed in (1, 2)
]
TRACES = {f"skew {plan.skew}, seed {plan.seed}": generate("spaced", plan) for plan in PLANS}
SLOTS = (1, 4, 12)


@pytest.mark.parametrize("trace", TRACES.values(), ids=TRACES.keys())
@pytest.mark.parametrize("policy", REFERENCES)
def test_the_replay_misses_as_often_as_libcachesim(policy: str, trace: Trace) -> None:
    for slots in SLOTS:
        verdict, _ = replay(trace, policy, Settings(slots * SIZE_MB))
        assert verdict.misses == verdict.loads == reference_misses(policy, slots, trace), f"{slots} slots"
        assert (verdict.joined, verdict.refused) == (0, 0), f"{slots} slots"
        assert verdict.evictions == max(0, verdict.loads - slots), f"{slots} slots"


def test_the_traces_tell_the_policies_apart() -> None:
    """Or equality would prove little."""
    counts = {policy: [reference_misses(policy, 12, trace) for trace in TRACES.values()] for policy in REFERENCES}
    assert len(set(map(tuple, counts.values()))) == len(REFERENCES)


def reference_misses(policy: str, slots: int, trace: Trace) -> int:
    cache = REFERENCES[policy](slots, hashpower=8)
    pages = [libcachesim.Request(obj_id=int(request.model[1:]), obj_size=1) for request in trace.requests]
    return sum(not cache.get(page) for page in pages)
