"""Who leaves, who stays, and what is said when there is no room."""

from tests.connector.harness import (
    Harness,
    closed,
    created,
    journalled,
    refused,
)

from huterox_connector.core import effects as asked
from huterox_connector.core import events as happened
from huterox_wire.ids import text_of


def test_least_recently_used_leaves_and_the_load_waits_for_its_memory(harness: Harness) -> None:
    node = harness.node(slots=2)
    for name in ("a", "b", "c"):
        harness.service(name)
    first, second = harness.load(node, "a", 1, now_s=1.0), harness.load(node, "b", 2, now_s=2.0)
    harness.hit("a", 3, now_s=3.0)
    harness.answer(node, 3)
    effects = harness.call("c", 4, now_s=4.0)
    assert [c.container for c in closed(effects)] == [second]
    assert created(effects) == []  # b's memory is not back yet
    ((_, reason),) = [entry for entry in journalled(effects) if entry[0] == "evict"]
    assert reason.startswith("room for c: lru victim of those that may leave, last used 2.0 s ago")
    assert harness.hit("b", 5, now_s=4.0) is None
    (load,) = [e for e in effects if isinstance(e, asked.Journalled) and e.kind == "load"]
    assert load.details["makes_leave"] == [text_of("c", second)]
    assert load.details["stays"] == {text_of("c", first): "the policy keeps it"}
    effects = harness.gone(node, second, now_s=4.5)
    assert created(effects)[0].model.name == "c"
    assert harness.hit("a", 6, now_s=5.0) is not None
    assert first in harness.board.registry.containers


def test_busy_victim_finishes_its_calls_first(harness: Harness) -> None:
    node = harness.node(slots=1)
    for name in ("a", "b"):
        harness.service(name)
    container = harness.load(node, "a", 1)
    harness.hit("a", 2)
    assert closed(harness.call("b", 3)) == []
    assert harness.hit("a", 4) is None  # draining: no new calls
    assert harness.answer(node, 2) is not None
    assert [c.container for c in closed(harness.on(happened.ContainerDrained(container)))] == [container]


def test_no_more_leave_than_are_needed(harness: Harness) -> None:
    node = harness.node(slots=8, host_mb=1000)
    for number in range(8):
        harness.deploy(f"small{number}", host_mb=100)
        harness.service(f"small{number}", f"small{number}")
        harness.load(node, f"small{number}", number + 1, now_s=float(number))
    harness.deploy("big", host_mb=400)
    harness.service("big", "big")
    effects = harness.call("big", 50, now_s=10.0)
    assert len(closed(effects)) == 2  # 200 MiB are free, 200 more are needed


def test_earlier_victim_is_spared_when_a_later_one_frees_enough(harness: Harness) -> None:
    node = harness.node(slots=8, host_mb=1000)
    for name, host_mb in (("small", 100), ("large", 800)):
        harness.deploy(name, host_mb=host_mb)
        harness.service(name, name)
    harness.load(node, "small", 1, now_s=1.0)
    large = harness.load(node, "large", 2, now_s=2.0)
    harness.deploy("big", host_mb=700)
    harness.service("big", "big")
    assert [c.container for c in closed(harness.call("big", 3, now_s=10.0))] == [large]


def test_freshly_loaded_container_is_protected_for_its_load_time() -> None:
    harness = Harness(residency_load_factor=2.0)
    node = harness.node(slots=1)
    harness.service("a")
    harness.service("b")
    container = created(harness.call("a", 1, now_s=0.0))[0].container
    harness.ready(node, container, now_s=3.0)
    harness.answer(node, 1)
    assert harness.call("b", 2, now_s=4.0) == []
    harness.beat(node, 8.9)
    assert closed(harness.on(happened.Ticked(), 8.9)) == []
    assert [c.container for c in closed(harness.on(happened.Ticked(), 9.1))] == [container]


def test_pinned_and_dedicated_containers_never_leave_for_others(harness: Harness) -> None:
    node = harness.node(slots=2)
    harness.service("pinned", tier="pinned")
    harness.service("own", tier="dedicated")
    harness.load(node, "pinned", 1)
    harness.load(node, "own", 2)
    harness.service("other")
    effects = harness.call("other", 3, now_s=100.0)
    (refusal,) = refused(effects)
    assert refusal.error.code == "ResourceInterrupt"
    held = refusal.error.details["nodes"][0]["held_by"]
    assert {h["model"]: h["stays_because"] for h in held} == {"pinned": "pinned", "own": "dedicated"}


def test_model_larger_than_every_node_is_interrupted_at_once_with_the_numbers(harness: Harness) -> None:
    harness.node(host_mb=1000)
    harness.deploy("huge", host_mb=5000)
    harness.service("huge", "huge")
    (refusal,) = refused(harness.call("huge", 1))
    assert refusal.error.code == "ResourceInterrupt"
    assert not refusal.error.retryable
    assert refusal.error.details["needed"] == {"slots": 1, "host_mb": 5000}
    assert refusal.error.details["nodes"][0]["free"] == {"slots": 2, "host_mb": 1000}


def test_fault_that_no_room_can_help_in_time_ends_at_once_and_says_when_to_come_back() -> None:
    harness = Harness(residency_min_s=50.0, residency_max_s=50.0, room_patience_s=5.0)
    node = harness.node(slots=1)
    harness.service("a")
    harness.service("b")
    harness.load(node, "a", 1)
    (refusal,) = refused(harness.call("b", 2, now_s=1.0))
    assert refusal.error.code == "ResourceInterrupt"
    assert refusal.error.details["retry_after_s"] == 49.0
    assert "protected" in refusal.error.details["nodes"][0]["held_by"][0]["stays_because"]
    assert refused(harness.call("b", 3, now_s=45.5)) == []  # in 4.5 s there may be room


def test_fault_loses_patience_when_no_room_comes() -> None:
    harness = Harness(room_patience_s=5.0, turn_after_s=100.0)
    node = harness.node(slots=1)
    harness.service("a")
    harness.service("b")
    harness.load(node, "a", 1)
    harness.hit("a", 9)
    (refusal,) = refused(harness.call("b", 2, now_s=1.0, budget_s=200.0))  # its turn comes after its patience
    assert refusal.error.details["nodes"][0]["held_by"][0]["stays_because"] == "1 calls in flight"


def test_two_faults_do_not_count_on_the_same_room(harness: Harness) -> None:
    node = harness.node(slots=2)
    for name in ("a", "b", "c", "d"):
        harness.service(name)
    first, second = harness.load(node, "a", 1), harness.load(node, "b", 2)
    assert [c.container for c in closed(harness.call("c", 3))] == [first]
    assert [c.container for c in closed(harness.call("d", 4))] == [second]
    assert created(harness.gone(node, second))[0].model.name == "c"
    assert created(harness.gone(node, first))[0].model.name == "d"
