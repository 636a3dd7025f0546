"""Calls without room cost little, and hear of room as soon as there is some."""

import pytest
from tests.connector.harness import Harness, created, events_of, refused

from huterox_connector.core import refusals
from huterox_connector.core import residency as residency_module
from huterox_connector.core.interrupts import HOLDERS_JOURNALLED_MAX


class Looks:
    """Counts how often a place was looked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        found = residency_module.find_place

        def counting(*args: object, **kwargs: object) -> object:
            self.count += 1
            return found(*args, **kwargs)

        monkeypatch.setattr(residency_module, "find_place", counting)


def full(**config: object) -> tuple[Harness, bytes]:
    """A node of one slot, held by what may not leave for 50 s."""
    harness = Harness(**{"residency_min_s": 50.0, "residency_max_s": 50.0, "node_timeout_s": 1e9, **config})
    node = harness.node(slots=1)
    harness.service("a")
    harness.service("b")
    harness.load(node, "a", 1)
    return harness, node


def test_storm_of_calls_without_room_is_refused_with_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    harness, _ = full()
    looks = Looks(monkeypatch)
    for number in range(200):
        assert len(refused(harness.call("b", 10 + number, now_s=1.0 + number * 0.0001))) == 1
    assert looks.count == 1
    harness.call("b", 999, now_s=1.2)
    assert looks.count == 2


def test_call_with_time_enough_waits_though_others_were_refused_a_moment_ago() -> None:
    harness, _ = full(room_patience_s=100.0)
    assert len(refused(harness.call("b", 2, now_s=1.0, budget_s=10.0))) == 1
    assert refused(harness.call("b", 3, now_s=1.01, budget_s=90.0)) == []


def test_room_that_comes_is_seen_at_once() -> None:
    harness, node = full()
    assert len(refused(harness.call("b", 2, now_s=1.0))) == 1
    (container,) = harness.board.registry.containers
    harness.gone(node, container, 1.001, cause="crashed", reason="boom")
    assert len(created(harness.call("b", 3, now_s=1.002))) == 1


@pytest.mark.parametrize("change", ["unpin", "resume", "node", "delete"])
def test_change_that_gives_room_is_seen_at_once(change: str) -> None:
    harness = Harness(node_timeout_s=1e9)
    node = harness.node(slots=1)
    harness.service("a", tier="pinned")
    harness.service("b")
    harness.load(node, "a", 1)
    if change == "resume":
        harness.node("n2", slots=1)
        harness.ask("drain", name="n2")
    assert created(harness.call("b", 2, now_s=1.0, budget_s=60.0)) == []
    match change:
        case "unpin":
            harness.ask("unpin", name="a")
        case "resume":
            harness.ask("resume", name="n2")
        case "node":
            harness.node("n3", slots=1)
        case "delete":
            harness.ask("delete", name="a")
    assert refused(harness.call("b", 3, now_s=1.001)) == []
    assert harness.board.registry.groups["b", 0].resident


def test_journal_tells_of_a_storm_once_a_second_and_in_short() -> None:
    harness = Harness(node_timeout_s=1e9)
    node = harness.node(slots=20, host_mb=2000)
    for number in range(20):
        harness.service(f"p{number}", tier="pinned")
        harness.load(node, f"p{number}", 1 + number)
    harness.service("b")
    told = []
    for number in range(300):
        told += events_of(harness.call("b", 100 + number, now_s=1.0 + number * 0.01), "refused")
    assert [event.details["calls"] for event in told] == [1, 100, 100]
    assert all(len(event.details["nodes"][0]["held_by"]) == HOLDERS_JOURNALLED_MAX for event in told)


def test_memory_of_looks_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "GROUPS_MAX", 3)
    harness, _ = full()
    for number in range(10):
        harness.service(f"x{number}")
        assert len(refused(harness.call(f"x{number}", 10 + number, now_s=1.0))) == 1
    assert len(harness.board._residency._refusals._outlooks) == 3


def test_caller_hears_why_before_his_own_time_is_over() -> None:
    """The node is drained and may open again, so the call waits; its deadline comes before its patience ends."""
    harness = Harness(node_timeout_s=1e9, room_patience_s=30.0)
    harness.node(slots=1)
    harness.service("b")
    harness.ask("drain", name="n1")
    assert harness.call("b", 2, now_s=1.0, budget_s=5.0) == []
    assert refused(harness.tick(5.85)) == []
    (refusal,) = refused(harness.tick(5.92))
    assert refusal.error.code == "ResourceInterrupt"
    assert refusal.error.details["nodes"][0]["closed_because"] == "drained by an operator"
