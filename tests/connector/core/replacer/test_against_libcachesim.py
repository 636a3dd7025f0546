"""The same hits and misses, request by request, as libCacheSim, the simulator of the authors of SIEVE and S3-FIFO.

FIFO, LRU, LFU, Clock and SIEVE are held against it as it comes. Two need a hand:

- S3-FIFO there has what comes before the first eviction overflow from the small queue into the main one; the published
  algorithm and ours leave it in the small one. An eviction from the empty cache puts that right. It refuses what is not
  smaller than the small queue, a tenth of the slots, so it is compared from 20 slots on. Its ghosts are told to stand
  for as much as is resident, as ours do.
- GDSF there does not admit pages that would be the next victim at once. A model that is called must be loaded, so ours
  admits all; the comparison goes around it, by the calls of which `get` consists.
"""

from collections.abc import Callable
from random import Random

import libcachesim
import pytest
from tests.connector.core.replacer.pool import TRACES, Pool, Trace
from tests.rounds import seeds

from huterox_connector.core.replacer import POLICIES

LENGTH = 1000
MIB = 1 << 20
REFERENCES: dict[str, Callable[..., libcachesim.CacheBase]] = {
    "fifo": libcachesim.FIFO,
    "lru": libcachesim.LRU,
    "lfu": libcachesim.LFU,
    "clock": libcachesim.Clock,
    "sieve": libcachesim.Sieve,
    "gdsf": libcachesim.GDSF,
}
SIZES = (1, 1, 2, 3, 5)
Size = Callable[[int], int]

traces = pytest.mark.parametrize("trace", TRACES)
each_seed = pytest.mark.parametrize("seed", seeds(1, 10))


@each_seed
@traces
@pytest.mark.parametrize("policy", REFERENCES)
def test_equal_sizes_give_the_same_hits_and_misses(policy: str, trace: str, seed: int) -> None:
    pages = TRACES[trace](Random(seed), LENGTH)
    for slots in (1, 2, 3, 5, 8, 13, 20, 33, 64):
        ours = Pool(POLICIES[policy](), slots).requests(pages)
        assert ours == reference(policy, slots, pages, lambda _: 1), f"{slots} slots"


@each_seed
@traces
@pytest.mark.parametrize("policy", REFERENCES)
def test_different_sizes_give_the_same_hits_and_misses(policy: str, trace: str, seed: int) -> None:
    """The seconds are libCacheSim's for GDSF, a million for each page, but for a power of two: the sums round alike."""
    pages = TRACES[trace](Random(seed), LENGTH)
    for units in (5, 8, 20, 33, 64, 100):
        pool = Pool(POLICIES[policy](), units, size_of, unit_nbytes=MIB, reload_cost_s=1e6 / 2**6)
        assert pool.requests(pages) == reference(policy, units, pages, size_of), f"{units} units"


@each_seed
@traces
def test_s3fifo_gives_the_same_hits_and_misses(trace: str, seed: int) -> None:
    pages = TRACES[trace](Random(seed), LENGTH)
    for slots in (20, 25, 33, 48, 64):
        cache = libcachesim.S3FIFO(slots, hashpower=8, ghost_size_ratio=1.0)
        cache.evict(libcachesim.Request(obj_id=0, obj_size=1))
        ours = Pool(POLICIES["s3fifo"](), slots).requests(pages)
        assert ours == [cache.get(libcachesim.Request(obj_id=page, obj_size=1)) for page in pages], f"{slots} slots"


@pytest.mark.parametrize("policy", POLICIES)
def test_the_traces_tell_the_policy_from_every_other(policy: str) -> None:
    """Or equality would prove little."""
    for other in POLICIES.keys() - {policy}:
        assert any(
            Pool(POLICIES[policy](), 20).requests(pages) != Pool(POLICIES[other](), 20).requests(pages)
            for pages in (make(Random(0), LENGTH) for make in TRACES.values())
        ), other


def size_of(page: int) -> int:
    return SIZES[page % len(SIZES)]


def reference(policy: str, capacity: int, pages: Trace, size_of: Size) -> list[bool]:
    cache = REFERENCES[policy](capacity, hashpower=8)  # by default it takes 128 MiB for its table
    ask = ask_without_admission if policy == "gdsf" else libcachesim.CacheBase.get
    return [ask(cache, libcachesim.Request(obj_id=page, obj_size=size_of(page))) for page in pages]


def ask_without_admission(cache: libcachesim.CacheBase, request: libcachesim.Request) -> bool:
    if cache.find(request) is not None:
        return True
    while cache.get_occupied_byte() + request.obj_size > cache.cache_size:
        cache.evict(request)
    cache.insert(request)
    return False
