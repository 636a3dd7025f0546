"""What a replay counts, and that nothing of the core is left out: patience, deadlines, idle time, queues, replicas."""

from dataclasses import replace
from typing import Any

import pytest

from huterox_bench.court.generators import Plan, generate
from huterox_bench.court.replay import REPLAYED, TICK_S, Replay, Settings, replay
from huterox_bench.court.tally import Verdict, percentile
from huterox_bench.court.traces import Cost, Request, Trace
from huterox_connector.core.books import sums_of
from huterox_connector.core.config import CoreConfig

A, B = Cost(100.0, 2.0), Cost(150.0, 4.0)
FAR = 1000.0


def trace_of(*requests: tuple[float, str, float], **models: Cost) -> Trace:
    """Times, models and seconds of service, from one tenant."""
    return Trace([Request(time_s, "t", model, service_s) for time_s, model, service_s in requests], models)


def judged(trace: Trace, capacity_mb: float, policy: str = "lru", **more: Any) -> Verdict:
    verdict, tally = replay(trace, policy, Settings(capacity_mb, **more))
    assert verdict.hits + verdict.misses + verdict.joined + verdict.refused == verdict.requests == len(trace)
    assert len(tally.order) == len(tally.waits_s) == verdict.requests - verdict.refused
    return verdict


def counted(verdict: Verdict) -> tuple[int, int, int, int]:
    return verdict.hits, verdict.misses, verdict.joined, verdict.refused


def test_the_first_call_is_a_miss_those_that_join_its_load_are_told_apart_and_later_ones_hit() -> None:
    verdict = judged(trace_of((0, "a", 0.1), (0.5, "a", 0.1), (1, "a", 0.1), (5, "a", 0.1), a=A), 100)
    assert counted(verdict) == (1, 1, 2, 0)
    assert (verdict.loads, verdict.load_seconds, verdict.evictions) == (1, 2.0, 0)


def test_a_wait_lasts_until_the_container_begins_with_the_call_and_calls_queue() -> None:
    trace = trace_of((0, "a", 3.0), (1, "a", 3.0), (6, "a", 3.0), (100, "a", 0.0), a=A)
    _, tally = replay(trace, "lru", Settings(100))
    assert list(tally.waits_s) == pytest.approx([2.0, 4.0, 2.0, 0.0])  # the load; and one; behind the second; nothing


def test_what_does_not_fit_beside_leaves_and_is_loaded_again() -> None:
    verdict = judged(trace_of((0, "a", 0), (FAR, "b", 0), (2 * FAR, "a", 0), a=A, b=B), 200)
    assert (counted(verdict), verdict.evictions) == ((0, 3, 0, 0), 2)
    assert verdict.load_seconds == 8.0
    assert verdict.max_wait_s == pytest.approx(4.1)  # a had to leave first


def test_both_stay_where_they_fit() -> None:
    verdict = judged(trace_of((0, "a", 0), (FAR, "b", 0), (2 * FAR, "a", 0), a=A, b=B), 250)
    assert (counted(verdict), verdict.evictions) == ((1, 2, 0, 0), 0)


def test_a_model_larger_than_the_node_is_refused_at_once_and_loads_nothing() -> None:
    verdict = judged(trace_of((0, "b", 0), (1, "a", 0), a=A, b=B), 120)
    assert counted(verdict) == (0, 1, 0, 1)
    assert (verdict.refusals, verdict.loads) == ({"ResourceInterrupt": 1}, 1)


def test_a_call_whose_time_ends_before_its_load_is_refused_and_the_load_was_in_vain() -> None:
    core = CoreConfig(call_timeout_s=1.0)
    verdict = judged(trace_of((0, "a", 0), (FAR, "a", 0), a=A), 200, core=core)
    assert counted(verdict) == (1, 0, 0, 1)
    assert (verdict.refusals, verdict.loads) == ({"DeadlineExceeded": 1}, 1)


def test_a_call_that_is_given_up_in_the_queue_takes_no_time_of_its_container() -> None:
    """The third call runs when its time ends, and the fourth has not begun; the fifth waits for the third alone."""
    core = CoreConfig(call_timeout_s=5.0)
    trace = trace_of((0, "a", 0), (10, "a", 4.0), (10, "a", 1.2), (10, "a", 100.0), (15.1, "a", 0.5), a=A)
    verdict, tally = replay(trace, "lru", Settings(200, core=core))
    assert (counted(verdict), verdict.refusals) == ((2, 1, 0, 2), {"DeadlineExceeded": 2})
    assert list(tally.waits_s) == pytest.approx([2.0, 0.0, 0.1])


def test_patience_ends_although_nothing_else_happens() -> None:
    """A load takes an hour, which nobody could know. Who waits for its room is told when its patience cannot do."""
    core = CoreConfig(room_patience_s=7.0, call_timeout_s=4000.0)
    slow = Cost(100.0, 3600.0)
    run = Replay(trace_of((0, "a", 0.0), (10, "b", 0), a=slow, b=B), "lru", Settings(200, core=core))
    refused_s = []
    refuse = run._refused
    run._refused = lambda effect: (refused_s.append(run._agenda.now_s), refuse(effect))[1]  # type: ignore[method-assign]
    run.run(lambda _: None)
    verdict = run.verdict()
    assert (counted(verdict), verdict.refusals) == ((0, 1, 0, 1), {"ResourceInterrupt": 1})
    assert 10 + 6 < refused_s[0] <= 10 + 7 + 2 * TICK_S


def test_containers_that_are_idle_past_their_time_leave_in_an_hour_without_calls() -> None:
    trace = trace_of((0, "a", 0), (30, "a", 0), (3600, "a", 0), a=A)
    assert counted(judged(trace, 200)) == (2, 1, 0, 0)
    verdict = judged(trace, 200, idle_timeout_s=60.0)
    assert (counted(verdict), verdict.reclaims, verdict.evictions) == ((1, 2, 0, 0), 1, 0)


def test_replicas_come_where_many_tenants_use_a_model_and_more_are_allowed() -> None:
    requests = [Request(0.3 * at, f"t{at % 25}", "a", 0.05) for at in range(200)]
    trace = Trace(requests, {"a": A})
    assert judged(trace, 1000).loads == 1
    verdict = judged(trace, 1000, replicas_max=8)
    assert (verdict.loads, verdict.misses) == (3, 1)
    later = replace(trace, requests=[*requests, Request(FAR, "t0", "a", 0.05)])
    assert judged(later, 1000, replicas_max=8).reclaims == 2  # they are not needed any more


def test_nodes_have_that_memory_each() -> None:
    trace = trace_of((0, "a", 0), (FAR, "b", 0), (2 * FAR, "a", 0), a=A, b=B)
    assert counted(judged(trace, 150, nodes=2)) == (1, 2, 0, 0)
    assert counted(judged(trace, 150)) == (0, 3, 0, 0)


def test_slots_are_scarce_like_memory() -> None:
    trace = trace_of((0, "a", 0), (FAR, "b", 0), (2 * FAR, "a", 0), a=A, b=B)
    assert counted(judged(trace, 1000, slots=2)) == (1, 2, 0, 0)
    assert counted(judged(trace, 1000, slots=1)) == (0, 3, 0, 0)


def test_settings_of_the_core_are_those_of_the_replay() -> None:
    """A model is in use when the other is called: its minimum residency keeps it, and without one it leaves."""
    trace = trace_of((0, "a", 0), (2.5, "b", 0), a=A, b=B)
    assert judged(trace, 200).max_wait_s == pytest.approx(3.5 + 0.1 + 4.0, abs=0.2)  # twice its load after it was ready
    core = CoreConfig(residency_load_factor=0.0)
    assert judged(trace, 200, core=core).max_wait_s == pytest.approx(0.1 + 4.0, abs=0.2)


def test_an_idle_year_costs_no_more_than_an_idle_second() -> None:
    """By the events that the core has seen."""
    seen = []
    for gap_s in (2.0, 365 * 86_400.0):
        run = Replay(trace_of((0, "a", 0), (10 + gap_s, "a", 0), a=A), "lru", Settings(200))
        events: list[object] = []
        core_on = run.board.on
        run.board.on = lambda event, now_s, on=core_on, to=events: (to.append(event), on(event, now_s))[1]  # type: ignore[method-assign]
        run.run(lambda _: None)
        assert counted(run.verdict()) == (1, 1, 0, 0)
        seen.append(len(events))
    assert seen[1] <= seen[0] + 4


@pytest.mark.parametrize("kind", ["zipf", "bursts", "scans", "drift", "aegaeon"])
@pytest.mark.parametrize("policy", REPLAYED)
def test_every_request_is_counted_once_and_no_memory_is_overdrawn(policy: str, kind: str) -> None:
    trace = generate(kind, Plan(requests=120, models=30, rate=0.2, seed=8))
    run = Replay(trace, policy, Settings(5000.0, nodes=2))
    perform, overdrawn = run._perform, []

    def checked(effect: Any) -> None:
        perform(effect)
        overdrawn.extend(n for n in run.board.registry.nodes.values() if n.capacity.less(sums_of(n)[0]).overdrawn)

    run._perform = checked  # type: ignore[method-assign]
    run.run(lambda _: None)
    verdict = run.verdict()
    assert not overdrawn
    assert sum(counted(verdict)) == verdict.requests == 120
    assert verdict.loads >= verdict.misses > 0
    assert verdict.hits > 0
    assert not run._open and not run._lines
    resident = len(run.board.registry.containers)
    assert verdict.loads - verdict.evictions <= resident + 1


def test_a_replay_is_the_same_each_time() -> None:
    trace = generate("bursts", Plan(requests=200, models=20, seed=2))
    assert replay(trace, "gdsf", Settings(4000.0)) == replay(trace, "gdsf", Settings(4000.0))


def test_progress_is_told_from_nothing_to_all() -> None:
    told: list[float] = []
    replay(generate("zipf", Plan(requests=500, models=10)), "fifo", Settings(4000.0), told.append)
    assert (told[0], told[-1]) == (0.0, 1.0)
    assert told == sorted(told)
    assert len(told) <= 102


def test_percentiles_are_values_that_occurred() -> None:
    assert percentile([], 0.5) == 0.0
    assert [percentile([1.0, 2.0, 3.0, 4.0], share) for share in (0.0, 0.5, 0.51, 0.99, 1.0)] == [1, 2, 3, 4, 4]
