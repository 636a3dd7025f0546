"""The trial: one trace, some policies, some capacities, and the bound beside them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from huterox_bench.court.bound import Bound, check_court_extra, offline_bound
from huterox_bench.court.replay import REPLAYED, Settings, replay
from huterox_bench.court.tally import Verdict
from huterox_bench.court.traces import Trace
from huterox_wire.errors import InvalidInput

BOUND: Final = "bound"
ALL: Final = "all"
JUDGED: Final = (*REPLAYED, BOUND)
"""All that can be asked for, in the order in which it is shown."""

Progress = Callable[[str, float, float], None]
"""Is told the policy, the capacity, and the share of its trace that has been replayed."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is tried. `settings.capacity_mb` is replaced by each of the capacities."""

    trace: Trace
    policies: Sequence[str]
    capacities_mb: Sequence[float]
    settings: Settings


def policies_of(text: str) -> tuple[str, ...]:
    """The policies that a comma list names, each once. Raises InvalidInput for one that is not known."""
    named = [name.strip() for name in text.split(",")]
    for name in named:
        if name not in (*JUDGED, ALL):
            raise InvalidInput(f"policy {name!r} is unknown; known are {', '.join((*JUDGED, ALL))}")
    chosen = JUDGED if ALL in named else tuple(dict.fromkeys(named))
    return tuple(sorted(chosen, key=lambda name: name == BOUND))  # it comes last: it minds what the others did


def verdicts(case: Case, progress: Progress = lambda *_: None) -> Iterator[Verdict]:
    """Capacity by capacity, policy by policy; where the bound is asked for, each policy is held against it, too."""
    with_bound = BOUND in case.policies
    if with_bound:
        check_court_extra()
    for capacity_mb in case.capacities_mb:
        settings = replace(case.settings, capacity_mb=capacity_mb)
        bounds: list[Bound] = []
        for policy in case.policies:
            progress(policy, capacity_mb, 0.0)
            if policy == BOUND:
                yield bound_verdict(case.trace, settings, bounds)
                continue
            verdict, tally = replay(case.trace, policy, settings, partial(progress, policy, capacity_mb))
            if with_bound:
                bounds.append(bound := _bound(case.trace, tally.order, settings))
                verdict = replace(verdict, bound_loads=bound.loads, bound_load_seconds=bound.load_seconds)
            yield verdict


def bound_verdict(trace: Trace, settings: Settings, others: Sequence[Bound] = ()) -> Verdict:
    """The bound had every call been served as it came; or in the order of a policy, whichever is least.

    Calls that wait and are served together need fewer loads than in the order in which they came, and calls that are
    refused need none: so it is a bound for the trace and for each of the policies that `others` are the bounds of.
    Models that fit on no node are left out: refused.
    """
    numbers = {model: number for number, model in enumerate(trace.models)}
    fits = {model for model, cost in trace.models.items() if cost.size_mb <= settings.capacity_mb}
    order = [numbers[request.model] for request in trace.requests if request.model in fits]
    bounds = [_bound(trace, order, settings), *others]
    loads, load_seconds = min(bound.loads for bound in bounds), min(bound.load_seconds for bound in bounds)
    return Verdict(
        policy=BOUND,
        capacity_mb=settings.capacity_mb,
        nodes=settings.nodes,
        requests=len(trace),
        hits=len(order) - loads,
        misses=loads,
        joined=0,
        refused=len(trace) - len(order),
        miss_ratio=loads / len(trace),
        loads=loads,
        load_seconds=load_seconds,
        bound_loads=loads,
        bound_load_seconds=load_seconds,
    )


def _bound(trace: Trace, order: Sequence[int], settings: Settings) -> Bound:
    sizes_mb = [cost.size_mb for cost in trace.models.values()]
    loads_s = [cost.load_s for cost in trace.models.values()]
    return offline_bound(order, sizes_mb, loads_s, settings.capacity_mb * settings.nodes)
