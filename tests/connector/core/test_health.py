"""Whose fault a failed load is: who deploys broken models waits for himself, and a node is sick by its own doing."""

from typing import Any

import pytest
from tests.connector.harness import Harness, created, events_of, refused

from huterox_connector.core import effects as asked

SICK_S = 10.0


@pytest.fixture
def harness() -> Harness:
    return Harness(sick_after=3, sick_s=SICK_S, backoff_first_s=0.5, node_timeout_s=1e9)


def fails(
    harness: Harness, node: bytes, name: str, now_s: float, cause: str, budget_s: float = 10.0
) -> list[asked.Effect]:
    """A load that is wanted now, and does not go well."""
    (create,) = created(harness.call(name, int(now_s * 1000) + 10_000, now_s, budget_s))
    return harness.gone(node, create.container, now_s, cause=cause, reason="as it is")


def has_loaded_before(harness: Harness, node: bytes, name: str, request_id: int) -> None:
    container = harness.load(node, name, request_id, host_bytes=1)
    harness.gone(node, container, cause="crashed")


def state_of(harness: Harness, now_s: float) -> str:
    (row,) = harness.ask("nodes", now_s)
    state: str = row["state"]
    return state


@pytest.mark.parametrize("cause", ["crashed", "load_timeout", "load_failed"])
def test_broken_models_of_one_tenant_never_make_a_node_sick(harness: Harness, cause: str) -> None:
    node = harness.node(slots=4)
    for number in range(12):
        harness.service(f"broken{number}", tenant="bad")
        effects = fails(harness, node, f"broken{number}", number, cause)
        assert not events_of(effects, "node.sick")
    harness.service("healthy", tenant="good")
    assert len(created(harness.call("healthy", 1, 13.0))) == 1


@pytest.mark.parametrize("cause", ["crashed", "load_timeout"])
def test_models_that_have_never_loaded_are_no_evidence_whoever_deploys_them(harness: Harness, cause: str) -> None:
    node = harness.node(slots=4)
    for number in range(6):
        harness.service(f"broken{number}", tenant=f"tenant{number}")
        assert not events_of(fails(harness, node, f"broken{number}", number, cause), "node.sick")


@pytest.mark.parametrize(("tenants", "is_sick"), [(("a", "b", "a"), True), (("a", "a", "a"), False)])
def test_models_of_several_tenants_that_went_well_before_are_evidence(
    harness: Harness, tenants: tuple[str, ...], is_sick: bool
) -> None:
    node = harness.node(slots=4)
    for number, tenant in enumerate(tenants):
        harness.service(f"m{number}", tenant=tenant)
        has_loaded_before(harness, node, f"m{number}", number + 1)
    effects: list[asked.Effect] = []
    for number in range(3):
        effects += fails(harness, node, f"m{number}", 1.0 + number, "crashed")
    assert [event.details["causes"] for event in events_of(effects, "node.sick")] == is_sick * [
        {"m0": "crashed", "m1": "crashed", "m2": "crashed"}
    ]
    assert state_of(harness, 3.5) == ("unhealthy" if is_sick else "ready")


def test_load_that_goes_well_between_takes_the_evidence_away(harness: Harness) -> None:
    node = harness.node(slots=4)
    for number, tenant in enumerate(("a", "b", "c")):
        harness.service(f"m{number}", tenant=tenant)
        has_loaded_before(harness, node, f"m{number}", number + 1)
    harness.service("well")
    effects = fails(harness, node, "m0", 1.0, "crashed") + fails(harness, node, "m1", 2.0, "crashed")
    harness.load(node, "well", 9, 2.5)
    effects += fails(harness, node, "m2", 3.0, "crashed")
    assert not events_of(effects, "node.sick")


def test_node_that_refuses_loads_one_after_another_is_left_alone_and_then_tried_once(harness: Harness) -> None:
    node = harness.node(slots=4)
    harness.service("a")
    effects: list[asked.Effect] = []
    for number in range(3):
        effects += fails(harness, node, "a", 1.0 + number, "refused")
    (sick,) = events_of(effects, "node.sick")
    assert "refused 3 loads" in sick.reason
    assert created(harness.call("a", 7, 4.0, budget_s=30.0)) == []
    harness.beat(node, 3.0 + SICK_S)
    (create,) = created(harness.tick(3.1 + SICK_S))
    effects = harness.gone(node, create.container, 3.2 + SICK_S, cause="refused", reason="no descriptors")
    assert len(events_of(effects, "node.sick")) == 1, "it is no better: left alone again at once"


def test_refused_load_goes_to_another_node_and_its_calls_wait_on(harness: Harness) -> None:
    nodes = {name: harness.node(name) for name in ("n1", "n2")}
    harness.service("a")
    (create,) = created(harness.call("a", 1, 0.0))
    first = harness.board.registry.containers[create.container].node
    effects = harness.gone(nodes[first.name], create.container, 0.1, cause="refused", reason="cannot fork")
    effects += harness.tick(0.2)
    assert not refused(effects)
    (again,) = created(effects)
    assert harness.board.registry.containers[again.container].node is not first


def test_refused_load_ends_its_calls_where_there_is_no_other_node(harness: Harness) -> None:
    node = harness.node()
    harness.service("a")
    (refusal,) = refused(fails(harness, node, "a", 1.0, "refused"))
    assert (refusal.error.code, refusal.error.retryable) == ("Unavailable", True)


@pytest.mark.parametrize("cause", ["crashed", "load_timeout", "load_failed"])
def test_model_that_fails_on_one_node_is_tried_on_another_first(harness: Harness, cause: str) -> None:
    """A node where all loads fail is the emptiest of all, and would draw them all."""
    nodes = {name: harness.node(name) for name in ("n1", "n2")}
    harness.service("a")
    (create,) = created(harness.call("a", 1, 1.0))
    first = harness.board.registry.containers[create.container].node
    harness.gone(nodes[first.name], create.container, 1.0, cause=cause)
    for now_s in (3.0, 6.0):
        (create,) = created(harness.call("a", int(now_s), now_s))
        assert harness.board.registry.containers[create.container].node is not first
        harness.ready(harness.board.registry.containers[create.container].node.identity, create.container, now_s)
        harness.gone(harness.board.registry.containers[create.container].node.identity, create.container, now_s)


def test_model_that_fails_on_its_only_node_is_tried_there_again_after_its_back_off(harness: Harness) -> None:
    node = harness.node()
    harness.service("a")
    fails(harness, node, "a", 1.0, "crashed")
    (refusal,) = refused(harness.call("a", 2, 1.2))
    assert "next attempt" in refusal.error.message
    assert len(created(harness.call("a", 3, 1.6))) == 1


# A load that nobody waits for.


def test_load_that_nobody_waits_for_gives_way_at_once(harness: Harness) -> None:
    node = harness.node(slots=1)
    harness.service("slow")
    harness.service("other")
    (slow,) = created(harness.call("slow", 1, 0.0, budget_s=1.0))
    harness.tick(1.1)  # its caller's time is over
    effects = harness.call("other", 2, 1.2, budget_s=30.0)
    (evict,) = events_of(effects, "evict")
    assert "nobody waits" in evict.reason
    told: list[Any] = [effect.meta for effect in effects if isinstance(effect, asked.Command)]
    assert [meta.container for meta in told] == [slow.container]
    assert [create.model.name for create in created(harness.gone(node, slow.container, 1.3))] == ["other"]


def test_load_that_somebody_waits_for_does_not(harness: Harness) -> None:
    harness.node(slots=1)
    harness.service("slow")
    harness.service("other")
    created(harness.call("slow", 1, 0.0, budget_s=30.0))
    effects = harness.call("other", 2, 1.2, budget_s=30.0)
    assert not events_of(effects, "evict")


@pytest.mark.parametrize("tier", ["pinned", "dedicated"])
def test_load_of_what_may_never_leave_does_not(harness: Harness, tier: str) -> None:
    harness.node(slots=1)
    harness.service("firm", tier=tier)
    harness.service("other")
    created(harness.call("firm", 1, 0.0, budget_s=1.0))
    harness.tick(1.1)
    assert not events_of(harness.call("other", 2, 1.2, budget_s=30.0), "evict")


def test_two_whose_callers_are_too_impatient_do_not_break_each_others_loads_off_for_ever(harness: Harness) -> None:
    node = harness.node(slots=1)
    harness.service("a")
    harness.service("b")
    now_s, loading = 0.0, created(harness.call("a", 1, 0.0, budget_s=0.2))[0]
    gave_way = 0
    for number in range(20):
        now_s += 0.5
        harness.tick(now_s)
        if not events_of(harness.call("ba"[number % 2], 2 + number, now_s + 0.1, budget_s=0.2), "evict"):
            break
        gave_way += 1
        (loading,) = created(harness.gone(node, loading.container, now_s + 0.15))
    assert gave_way == 2, "each gives way once"


def test_big_load_does_not_queue_behind_one_that_nobody_waits_for() -> None:
    harness = Harness(big_load_mb=100)
    node = harness.node(slots=4, host_mb=1000)
    for name in ("slow", "other"):
        harness.deploy(name, host_mb=200)
        harness.service(name, model=name)
    harness.call("slow", 1, 0.0, budget_s=1.0)
    assert not created(harness.call("other", 2, 0.5, budget_s=30.0)), "one after another"
    harness.tick(1.1)  # the first one's caller has left
    assert [create.model.name for create in created(harness.beat(node, 1.5))] == ["other"]
