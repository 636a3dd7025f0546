"""Generated traces: the same from the same seed, and with the pattern that their name promises."""

import io
from collections import Counter
from itertools import pairwise

import pytest

from huterox_bench.court.generators import DRIFTS, KINDS, SIZE_MB, SWEEPS, Plan, generate
from huterox_bench.court.traces import Trace, parse_trace, write_trace
from huterox_wire.errors import InvalidInput

PLAN = Plan(requests=6000, models=100, seed=5)
kinds = pytest.mark.parametrize("kind", KINDS)


def counts(trace: Trace, first: int = 0, last: int | None = None) -> "Counter[str]":
    return Counter(request.model for request in trace.requests[first:last])


@kinds
def test_a_seed_gives_one_trace_and_another_seed_another(kind: str) -> None:
    assert generate(kind, PLAN) == generate(kind, PLAN)
    assert generate(kind, PLAN) != generate(kind, Plan(requests=6000, models=100, seed=6))


@kinds
@pytest.mark.parametrize("plan", [PLAN, Plan(requests=1, models=1, tenants=1), Plan(requests=10, models=30)])
def test_a_trace_is_one_that_a_file_may_hold(kind: str, plan: Plan) -> None:
    trace, file = generate(kind, plan), io.StringIO()
    assert len(trace) == plan.requests
    write_trace(trace, file)
    assert parse_trace(file.getvalue().splitlines()) == trace


@kinds
def test_calls_come_at_the_rate_that_was_asked_for(kind: str) -> None:
    trace = generate(kind, Plan(requests=6000, rate=5.0, seed=5))
    assert len(trace) / trace.requests[-1].time_s == pytest.approx(5.0, rel=0.25)


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"spaced"}))
def test_larger_models_take_longer_to_load(kind: str) -> None:
    costs = sorted(generate(kind, PLAN).models.values())
    assert all(SIZE_MB[0] <= cost.size_mb <= SIZE_MB[1] for cost in costs)
    half = len(costs) // 2
    small, large = ([cost.load_s for cost in part] for part in (costs[:half], costs[half:]))
    assert sum(large) > 2 * sum(small)


def test_zipf_calls_few_models_often_and_many_seldom() -> None:
    ranked = [count for _, count in counts(generate("zipf", PLAN)).most_common()]
    assert sum(ranked[:10]) > 0.4 * PLAN.requests
    assert ranked[0] / ranked[9] == pytest.approx(10**PLAN.skew, rel=0.3)


def test_bursts_call_the_models_of_a_group_together() -> None:
    """In most cases the next call comes at once; what follows a call is often one of a handful, not of a hundred."""
    trace = generate("bursts", PLAN)
    gaps = sorted(after.time_s - before.time_s for before, after in pairwise(trace.requests))
    assert gaps[len(gaps) // 2] < 0.5 / PLAN.rate
    followers: dict[str, Counter[str]] = {}
    for before, after in pairwise(trace.requests):
        followers.setdefault(before.model, Counter())[after.model] += 1
    together = sum(sum(count for _, count in found.most_common(5)) for found in followers.values())
    assert together > 0.6 * PLAN.requests
    plain = generate("zipf", PLAN)
    assert gaps[len(gaps) // 2] < sorted(b.time_s - a.time_s for a, b in pairwise(plain.requests))[len(gaps) // 2] / 2


def test_a_sweep_calls_every_model_once_in_order() -> None:
    trace = generate("scans", PLAN)
    asked = [int(request.model[1:]) for request in trace.requests]
    assert len(set(asked)) == PLAN.models
    runs = sum(after == before + 1 for before, after in pairwise(asked))
    assert runs > SWEEPS * PLAN.models * 0.4  # the base calls between them break some


def test_drift_changes_which_models_are_popular() -> None:
    trace = generate("drift", PLAN)
    part = PLAN.requests // DRIFTS
    first, last = counts(trace, 0, 4 * part), counts(trace, -4 * part)
    top = [model for model, _ in first.most_common(10)]
    assert len(set(top) & {model for model, _ in last.most_common(10)}) < 8
    still = generate("zipf", PLAN)
    top = [model for model, _ in counts(still, 0, 4 * part).most_common(10)]
    assert len(set(top) & {model for model, _ in counts(still, -4 * part).most_common(10)}) >= 8


def test_aegaeon_has_94_of_100_models_take_one_call_in_seventy() -> None:
    plan = Plan(requests=20_000, models=100, seed=1)
    ranked = [count for _, count in counts(generate("aegaeon", plan)).most_common()]
    assert sum(ranked[:6]) / plan.requests == pytest.approx(0.986, abs=0.003)
    assert len(ranked) > 80


def test_spaced_calls_are_apart_and_models_alike() -> None:
    trace = generate("spaced", Plan(requests=100, models=10, rate=1 / 60))
    assert {round(b.time_s - a.time_s, 3) for a, b in pairwise(trace.requests)} == {60.0}
    assert len(set(trace.models.values())) == 1


@pytest.mark.parametrize(
    "plan",
    [
        Plan(requests=0),
        Plan(models=0),
        Plan(tenants=0),
        Plan(requests=10**9),
        Plan(rate=0.0),
        Plan(rate=float("nan")),
        Plan(skew=-1.0),
        Plan(skew=float("inf")),
    ],
)
def test_a_plan_that_cannot_be_is_refused(plan: Plan) -> None:
    with pytest.raises(InvalidInput, match="must be from"):
        generate("zipf", plan)


def test_an_unknown_kind_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidInput, match="'zapf'; there are zipf, bursts"):
        generate("zapf", PLAN)
