"""The replacer that knows the future."""

from functools import cache
from random import Random

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from tests.connector.core.replacer.pool import Pool, evict
from tests.connector.core.replacer.test_conformance import Conformance

from huterox_bench.court.opt import Future, Opt
from huterox_bench.court.traces import Cost, Request, Trace


def trace_of(pages: list[int]) -> Trace:
    requests = [Request(float(at), "t", str(page), 0.0) for at, page in enumerate(pages)]
    return Trace(requests, {str(page): Cost(1.0, 1.0) for page in sorted(set(pages))})


def resident(opt: Opt, **models: tuple[int, float]) -> dict[str, int]:
    """Each with its bytes and seconds to load; their ids by their names."""
    ids = {model: number for number, model in enumerate(models, 1)}
    for model, (nbytes, cost_s) in models.items():
        opt.insert(ids[model], page=(model, 0), nbytes=nbytes, reload_cost_s=cost_s)
    return ids


def test_it_keeps_what_the_interface_of_replacers_promises() -> None:
    future = Future(trace_of([0, 1, 2, 3, 4, 5, 1, 3]))
    future.arrived("0", 0.5)
    run_state_machine_as_test(
        lambda: Conformance(lambda: Opt(future)),
        settings=settings(max_examples=40, stateful_step_count=30),
    )


def test_the_future_moves_on_with_what_arrives() -> None:
    future = Future(trace_of([7, 8, 7]))
    future.arrived("7", 0.0)
    assert (future.distance_s("7"), future.distance_s("8")) == (2.0, 1.0)
    future.arrived("8", 1.0)
    assert (future.distance_s("7"), future.distance_s("8")) == (1.0, float("inf"))


def test_what_is_never_called_again_leaves_first_then_what_is_called_last() -> None:
    trace = Trace(
        [Request(time_s, "t", model, 0.0) for time_s, model in ((1.0, "soon"), (2.0, "late"))],
        dict.fromkeys(("soon", "late", "never"), Cost(1.0, 1.0)),
    )
    opt = Opt(Future(trace))
    ids = resident(opt, soon=(1, 1.0), never=(1, 50.0), late=(1, 1.0))
    order = [evict(opt, ids.values()) for _ in ids]
    assert order == [ids["never"], ids["late"], ids["soon"]]


def test_large_cheap_models_leave_before_small_dear_ones_that_are_called_at_the_same_time() -> None:
    names = ("large", "cheap", "dear")
    trace = Trace([Request(9.0, "t", name, 0.0) for name in names], dict.fromkeys(names, Cost(1.0, 1.0)))
    opt = Opt(Future(trace))
    ids = resident(opt, dear=(100, 5.0), large=(1000, 1.0), cheap=(100, 1.0))
    assert [evict(opt, ids.values()) for _ in ids] == [ids["large"], ids["cheap"], ids["dear"]]


@pytest.mark.parametrize("seed", range(20))
def test_where_all_are_alike_it_misses_as_seldom_as_can_be(seed: int) -> None:
    random = Random(seed)
    pages, slots = [random.randrange(6) for _ in range(30)], random.randint(1, 4)
    future = Future(trace_of(pages))
    pool = Pool(Opt(future), slots)
    misses = 0
    for at, page in enumerate(pages):
        future.arrived(str(page), float(at))
        misses += not pool.request(page)
    assert misses == fewest_misses(tuple(pages), slots)


def fewest_misses(pages: tuple[int, ...], slots: int) -> int:
    """By trying everything."""

    @cache
    def least(at: int, held: frozenset[int]) -> int:
        if at == len(pages):
            return 0
        page = pages[at]
        if page in held:
            return least(at + 1, held)
        if len(held) < slots:
            return 1 + least(at + 1, held | {page})
        return 1 + min(least(at + 1, held - {victim} | {page}) for victim in held)

    return least(0, frozenset())
