"""The offline bound: below the optimum, below every policy, and tight where it should be."""

from functools import cache
from random import Random

import numpy as np
import pytest
from tests.rounds import seeds

from huterox_bench.court import bound as bounds
from huterox_bench.court.bound import Bound, offline_bound
from huterox_bench.court.generators import Plan, generate
from huterox_bench.court.replay import REPLAYED, Settings, replay
from huterox_bench.court.traces import Cost, Request, Trace
from huterox_bench.court.trial import bound_verdict
from huterox_wire.errors import InvalidInput


def optimum(order: list[int], sizes: list[int], costs: list[float], memory: int) -> float:
    """The least cost of serving the calls in order, by trying everything: what to keep after each call."""

    @cache
    def least(at: int, held: frozenset[int]) -> float:
        if at == len(order):
            return 0.0
        page = order[at]
        if page in held:
            return least(at + 1, held)
        found = float("inf")
        others = sorted(held)
        for chosen in range(1 << len(others)):
            kept = frozenset(other for bit, other in enumerate(others) if chosen >> bit & 1)
            if sum(sizes[other] for other in kept) + sizes[page] <= memory:
                found = min(found, least(at + 1, kept | {page}))
        return found + costs[page]

    return least(0, frozenset())


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "approached"])
@pytest.mark.parametrize("seed", seeds(20, 100))
def test_the_bound_is_not_above_the_optimum(seed: int, exact: bool) -> None:
    random = Random(seed)
    models, memory = random.randint(1, 5), random.randint(6, 12)
    sizes = [random.randint(1, 6) for _ in range(models)]
    costs = [random.choice([0.0, 0.5, 1.0, 2.0, 7.0]) for _ in range(models)]
    order = [random.randrange(models) for _ in range(random.randint(1, 14))]
    bound = offline_bound(order, sizes, costs, memory, exact=exact)
    assert bound.load_seconds <= optimum(order, sizes, costs, memory) + 1e-9
    assert bound.loads <= optimum(order, sizes, [1.0] * models, memory)
    assert bound.load_seconds >= sum(costs[page] for page in set(order)) * (1 - 1e-6)


@pytest.mark.parametrize("seed", range(10))
def test_for_equal_models_it_is_the_optimum(seed: int) -> None:
    """The program is one of flows then, and has whole solutions."""
    random = Random(seed)
    order, slots = [random.randrange(5) for _ in range(14)], random.randint(1, 4)
    best = optimum(order, [1] * 5, [1.0] * 5, slots)
    bound = offline_bound(order, [1] * 5, [2.5] * 5, slots, exact=True)
    assert bound.loads == best
    assert bound.load_seconds == pytest.approx(2.5 * best)


def test_it_minds_sizes_and_costs() -> None:
    """Room for the large one or for both small ones, between two calls of each; and the dear one is kept."""
    order, sizes = [0, 1, 2, 0, 1, 2], [2, 1, 1]
    assert offline_bound(order, sizes, [1.0, 1.0, 1.0], 4).load_seconds == pytest.approx(3.0)
    cheap = offline_bound(order, sizes, [1.0, 1.0, 1.0], 3).load_seconds
    dear = offline_bound(order, sizes, [10.0, 1.0, 1.0], 3).load_seconds
    assert cheap == pytest.approx(optimum(order, sizes, [1.0, 1.0, 1.0], 3))
    assert dear == pytest.approx(optimum(order, sizes, [10.0, 1.0, 1.0], 3))
    assert dear - 10.0 < cheap + 1.0  # it is not the dear one that is loaded twice


def test_what_is_called_must_have_room_while_it_is_answered() -> None:
    """Two that do not fit together: all calls are loads. A bound with bypassing would keep one of them."""
    assert offline_bound([0, 1] * 5, [4, 4], [1.0, 1.0], 7) == Bound(10, pytest.approx(10.0))
    assert offline_bound([0, 1] * 5, [4, 3], [1.0, 1.0], 7) == Bound(2, pytest.approx(2.0))


def test_what_does_not_fit_beside_a_call_in_between_is_loaded_again() -> None:
    """However many others lie between: all ranges of one random order, against the plain minimum."""
    values = np.asarray([random.random() for random in [Random(1)] for _ in range(100)])
    first, last = zip(*((a, b) for a in range(100) for b in range(a + 1, 101)), strict=True)
    least = bounds._least_within(values, np.asarray(first), np.asarray(last))
    assert list(least) == [values[a:b].min() for a, b in zip(first, last, strict=True)]
    order = [0, 1, 1, 2, 1, 0]
    assert offline_bound(order, [5, 2, 4], [3.0, 1.0, 1.0], 8).load_seconds == pytest.approx(8.0)


def test_calls_of_one_model_in_a_row_cost_one_load() -> None:
    assert offline_bound([0, 0, 0, 1, 1], [4, 4], [1.0, 3.0], 4) == Bound(2, pytest.approx(4.0))
    assert offline_bound([], [], [], 4) == Bound(0, 0.0)


def test_a_model_that_cannot_fit_is_refused() -> None:
    with pytest.raises(InvalidInput, match="larger than all the memory"):
        offline_bound([0], [5], [1.0], 4)


@pytest.mark.parametrize("kind", ["zipf", "scans"])
def test_the_approach_comes_near_the_exact_bound(kind: str) -> None:
    trace = generate(kind, Plan(requests=1500, models=60, seed=2))
    numbers = {model: number for number, model in enumerate(trace.models)}
    order = [numbers[request.model] for request in trace.requests]
    sizes, costs = zip(*trace.models.values(), strict=True)
    exact, near = (offline_bound(order, sizes, costs, 9000.0, exact=exact) for exact in (True, False))
    assert 0.99 * exact.load_seconds < near.load_seconds <= exact.load_seconds * (1 + 1e-6)


def test_any_prices_give_a_bound() -> None:
    """What is reported does not hang on how good a solver is."""
    random = Random(4)
    sizes, costs = [3, 2, 1, 4], [5.0, 1.0, 2.0, 4.0]
    order = [random.randrange(4) for _ in range(12)]
    best = optimum(order, sizes, costs, 6)
    program = bounds._Program(np.asarray(order), np.asarray(sizes) / 6)
    saved = np.asarray(costs)[program._model]
    first = sum(costs[page] for page in set(order))
    for _ in range(200):
        prices = np.asarray([random.choice([0.0, random.random() * 10]) for _ in program._calls])
        assert first + program._value(prices, saved) <= best + 1e-9


@pytest.mark.parametrize(("kind", "seed"), [("zipf", 0), ("zipf", 2), ("bursts", 1), ("scans", 0)])
def test_no_policy_loads_less_than_the_bound_for_what_it_served(kind: str, seed: int) -> None:
    trace = generate(kind, Plan(requests=120, models=25, rate=0.1, seed=seed))
    sizes, costs = zip(*trace.models.values(), strict=True)
    for policy in REPLAYED:
        verdict, tally = replay(trace, policy, Settings(8000.0))
        bound = offline_bound(tally.order, sizes, costs, 8000.0)
        assert bound.loads <= verdict.loads
        assert bound.load_seconds <= verdict.load_seconds * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_bound_optimum_and_policies_are_in_order_where_no_guard_bites(seed: int) -> None:
    """Calls far apart are served as they come: the trace's own bound holds for every policy, the optimum between."""
    random = Random(seed)
    costs = [Cost(float(random.randint(1, 5)), random.choice([0.5, 1.0, 3.0])) for _ in range(4)]
    order = [random.randrange(4) for _ in range(14)]
    requests = [Request(60.0 * at, "t", f"m{page}", 0.01) for at, page in enumerate(order)]
    trace = Trace(requests, {f"m{page}": costs[page] for page in dict.fromkeys(order)})
    least = optimum(order, [int(cost.size_mb) for cost in costs], [cost.load_s for cost in costs], 7)
    bound = bound_verdict(trace, Settings(7.0))
    assert bound.load_seconds <= least + 1e-9
    for policy in REPLAYED:
        verdict, _ = replay(trace, policy, Settings(7.0))
        assert verdict.refused == verdict.joined == 0
        assert least <= verdict.load_seconds + 1e-9, policy
