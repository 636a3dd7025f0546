"""Traces from a seed: what many models and tenants ask for, in the patterns that tell policies apart.

    zipf      few models are called often and many seldom, in no order
    bursts    models are called in groups, as the steps of one job, and then left alone
    scans     a Zipf base, and now and then a sweep that calls every model once
    drift     a Zipf base whose popular models change in time
    aegaeon   6 % of the models take 98.6 % of the calls; the other 94 % take 1.4 % of them
    spaced    Zipf, all models alike, calls so far apart that each finds everything at rest

Sizes are log-normal around 600 MB. A load takes as long as reading the model at the speed of its storage, which differs
from model to model, and a start. Arrivals are a Poisson process. The generator is Python's own, so a seed gives the
same trace everywhere.

Source of the skew: Xiang et al. 2025, "Aegaeon: Effective GPU Pooling for Concurrent LLM Serving on the Market" (SOSP).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from math import log
from random import Random
from typing import Final

from huterox_bench.court.traces import MODELS_MAX, REQUESTS_MAX, Cost, Request, Trace
from huterox_wire.errors import InvalidInput

SIZE_MEDIAN_MB: Final = 600.0
SIZE_SIGMA: Final = 0.9
SIZE_MB: Final = (40.0, 12_000.0)
READ_MB_PER_S: Final = 400.0
READ_SIGMA: Final = 0.4
START_S: Final = 0.3
SERVICE_MEDIAN_S: Final = 0.04
SERVICE_SIGMA: Final = 0.6

GROUP: Final = 5
"""Models that are called together in a burst."""
BURST_CALLS: Final = 4
"""Of each model of a group, on average."""
BURST_RATE: Final = 10.0
"""Calls per second in a burst, as a multiple of the mean rate."""
SWEEPS: Final = 6
"""Over all models, in one trace of scans."""
SWEEP_RATE: Final = 4.0
"""Of calls in a sweep, as a multiple of the mean rate."""
DRIFTS: Final = 20
"""So many times in a trace a tenth of the popular models change places with others."""
HOT_MODELS: Final = 0.06
COLD_REQUESTS: Final = 0.014

_Asked = tuple[float, int]
"""Time and number of the model."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked of a generator. `rate` is calls per second, `skew` the exponent of Zipf's law."""

    requests: int = 10_000
    models: int = 100
    tenants: int = 8
    rate: float = 1.0
    skew: float = 0.9
    seed: int = 0

    def check(self) -> None:
        """Raise InvalidInput for what cannot be made."""
        for name, value, most in (
            ("requests", self.requests, REQUESTS_MAX),
            ("models", self.models, MODELS_MAX),
            ("tenants", self.tenants, 10_000),
        ):
            if not 1 <= value <= most:
                raise InvalidInput(f"{name} must be from 1 to {most}, not {value}")
        if not 1e-6 <= self.rate <= 1e6:
            raise InvalidInput(f"rate must be from 1e-06 to 1e+06 calls per second, not {self.rate:g}")
        if not 0 <= self.skew <= 10:
            raise InvalidInput(f"skew must be from 0 to 10, not {self.skew:g}")


def generate(kind: str, plan: Plan) -> Trace:
    """A trace of one of the `KINDS`. The same plan gives the same trace."""
    if kind not in KINDS:
        raise InvalidInput(f"no generator is named {kind!r}; there are {', '.join(KINDS)}")
    plan.check()
    random = Random(plan.seed)
    asked = sorted(_take(KINDS[kind](random, plan), plan.requests))
    costs = [_cost(random) for _ in range(plan.models)]
    services_s = [_log_normal(random, SERVICE_MEDIAN_S, SERVICE_SIGMA, (0.001, 5.0)) for _ in range(plan.models)]
    if kind == "spaced":
        costs, services_s = [Cost(1024.0, 1.0)] * plan.models, [0.01] * plan.models
    owners = [_owners(random, plan.tenants) for _ in range(plan.models)]
    requests = [
        Request(round(time_s, 6), f"t{random.choice(owners[model])}", f"m{model}", services_s[model])
        for time_s, model in asked
    ]
    called = dict.fromkeys(model for _, model in asked)
    return Trace(requests, {f"m{model}": costs[model] for model in called})


def _take(asked: Iterator[_Asked], count: int) -> Iterator[_Asked]:
    return (one for one, _ in zip(asked, range(count), strict=False))


# Who asks, and what for.


def _cost(random: Random) -> Cost:
    size_mb = _log_normal(random, SIZE_MEDIAN_MB, SIZE_SIGMA, SIZE_MB)
    read_mb_per_s = _log_normal(random, READ_MB_PER_S, READ_SIGMA, (50.0, 4000.0))
    return Cost(round(size_mb, 1), round(START_S + size_mb / read_mb_per_s, 3))


def _log_normal(random: Random, median: float, sigma: float, bounds: tuple[float, float]) -> float:
    value = random.lognormvariate(log(median), sigma)
    return round(min(max(value, bounds[0]), bounds[1]), 6)


def _owners(random: Random, tenants: int) -> list[int]:
    """A model has a few tenants, and most of its calls come from the first of them."""
    chosen = [random.randrange(tenants) for _ in range(3)]
    return [chosen[0], chosen[0], *chosen]


class _Zipf:
    """Draws numbers from 0 on, the first the most popular."""

    def __init__(self, random: Random, count: int, skew: float) -> None:
        self._random = random
        self._numbers = range(count)
        self._weights = list(accumulate(1 / rank**skew for rank in range(1, count + 1)))

    def draw(self) -> int:
        return self._random.choices(self._numbers, cum_weights=self._weights)[0]


def _shuffled(random: Random, count: int) -> list[int]:
    """Which model has which rank: popularity and size have nothing to do with each other."""
    ranks = list(range(count))
    random.shuffle(ranks)
    return ranks


# When.


def zipf(random: Random, plan: Plan) -> Iterator[_Asked]:
    ranks, popular = _shuffled(random, plan.models), _Zipf(random, plan.models, plan.skew)
    time_s = 0.0
    while True:
        time_s += random.expovariate(plan.rate)
        yield time_s, ranks[popular.draw()]


def bursts(random: Random, plan: Plan) -> Iterator[_Asked]:
    """Bursts follow each other so that the mean rate is kept; some overlap."""
    ranks = _shuffled(random, plan.models)
    groups = [ranks[start : start + GROUP] for start in range(0, plan.models, GROUP)]
    popular = _Zipf(random, len(groups), plan.skew)
    calls, begins_s = GROUP * BURST_CALLS, 0.0
    made: list[_Asked] = []
    while len(made) < plan.requests:
        begins_s += random.expovariate(plan.rate / calls)
        time_s, group = begins_s, groups[popular.draw()]
        for _ in range(random.randint(calls // 2, calls + calls // 2)):
            made.append((time_s, random.choice(group)))
            time_s += random.expovariate(plan.rate * BURST_RATE)
    yield from sorted(made)


def scans(random: Random, plan: Plan) -> Iterator[_Asked]:
    base, duration_s = zipf(random, plan), plan.requests / plan.rate
    sweeps = sorted((number + random.random()) * duration_s / SWEEPS for number in range(SWEEPS))
    swept = [
        (begins_s + position / (plan.rate * SWEEP_RATE), model)
        for begins_s in sweeps
        for position, model in enumerate(range(plan.models))
    ]
    yield from sorted([*swept, *_take(base, max(0, plan.requests - len(swept)))])


def drift(random: Random, plan: Plan) -> Iterator[_Asked]:
    ranks, popular = _shuffled(random, plan.models), _Zipf(random, plan.models, plan.skew)
    time_s, swaps = 0.0, max(1, plan.models // 10)
    every = max(1, plan.requests // DRIFTS)
    number = 0
    while True:
        if number and number % every == 0:
            for rank in random.sample(range(max(1, plan.models // 4)), min(swaps, max(1, plan.models // 4))):
                other = random.randrange(plan.models)
                ranks[rank], ranks[other] = ranks[other], ranks[rank]
        number += 1
        time_s += random.expovariate(plan.rate)
        yield time_s, ranks[popular.draw()]


def aegaeon(random: Random, plan: Plan) -> Iterator[_Asked]:
    """Among the hot ones Zipf's law holds; the cold ones are all alike."""
    ranks = _shuffled(random, plan.models)
    hot = max(1, round(plan.models * HOT_MODELS))
    popular, time_s = _Zipf(random, hot, plan.skew), 0.0
    while True:
        time_s += random.expovariate(plan.rate)
        cold = hot < plan.models and random.random() < COLD_REQUESTS
        yield time_s, ranks[random.randrange(hot, plan.models) if cold else popular.draw()]


def spaced(random: Random, plan: Plan) -> Iterator[_Asked]:
    ranks, popular = _shuffled(random, plan.models), _Zipf(random, plan.models, plan.skew)
    for number in range(plan.requests):
        yield (number + 1) / plan.rate, ranks[popular.draw()]


KINDS: Final[dict[str, Callable[[Random, Plan], Iterator[_Asked]]]] = {
    "zipf": zipf,
    "bursts": bursts,
    "scans": scans,
    "drift": drift,
    "aegaeon": aegaeon,
    "spaced": spaced,
}
