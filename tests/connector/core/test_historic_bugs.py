"""Bugs of eviction that others have had, by name: one test each. They come back wherever nobody looks for them."""

from collections import Counter

import pytest
from tests.connector.harness import (
    CALLER,
    Harness,
    closed,
    created,
    drained,
    events_of,
    forwarded,
    refused,
    report,
    usage,
)

from huterox_connector.core.replacer import POLICIES
from huterox_connector.core.vectors import MIB

POLICY_NAMES = sorted(POLICIES)


def full_node(harness: Harness, count: int, host_mb: int = 100, **service: object) -> bytes:
    """A node that is filled with so many resident models of a size."""
    node = harness.node(slots=count, host_mb=count * host_mb)
    for number in range(count):
        harness.deploy(f"m{number}", host_mb=host_mb)
        harness.service(f"m{number}", f"m{number}", **service)
        harness.load(node, f"m{number}", number + 1, now_s=number * 0.001)
    return node


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_one_load_evacuates_everything(policy: str) -> None:
    """A load of one gigabyte must not empty the node: no more leave than it needs."""
    harness = Harness(policy=policy)
    full_node(harness, 20)
    harness.deploy("large", host_mb=500)
    harness.service("large", "large")
    effects = harness.call("large", 100, now_s=50.0)
    assert len(closed(effects)) == 5
    assert len(harness.board.registry.nodes_by_name["n1"].containers) == 21


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_one_load_evacuates_everything_by_asking_again_and_again(policy: str) -> None:
    """While victims leave, every tick and every report looks at the fault anew: no further ones may be named."""
    harness = Harness(policy=policy, node_timeout_s=1e9)
    node = full_node(harness, 20)
    harness.deploy("large", host_mb=500)
    harness.service("large", "large")
    leaving = [close.container for close in closed(harness.call("large", 100, now_s=50.0))]
    more = []
    for second in range(51, 56):
        more += closed(harness.tick(float(second)))
        more += closed(harness.beat(node, float(second)))
        more += closed(harness.call("large", second, now_s=float(second)))
    for container in leaving:
        more += closed(harness.gone(node, container, 60.0))
    assert more == []


class TestPinsIgnoredOnOnePath:
    """Every path on which containers leave, but for an operator's own order, passes by the pinned."""

    def pinned(self, **config: object) -> tuple[Harness, bytes, int]:
        harness = Harness(**{"node_timeout_s": 1e9, "turn_after_s": 0.0, **config})
        node = full_node(harness, 2, tier="pinned")
        return harness, node, next(iter(harness.board.registry.containers))

    def test_room_for_a_fault(self) -> None:
        harness, _, _ = self.pinned()
        harness.service("other")
        effects = harness.call("other", 9, now_s=1e5)
        assert drained(effects) == []
        assert refused(effects)[0].error.code == "ResourceInterrupt"

    def test_room_for_a_fault_whose_turn_is_due(self) -> None:
        harness, _, _ = self.pinned()
        harness.hit("m0", 7, now_s=1.0)
        harness.service("other")
        assert drained(harness.call("other", 9, now_s=1e5)) == []

    def test_idle_past_its_time(self) -> None:
        harness, _, _ = self.pinned()
        assert drained(harness.tick(1e7)) == []

    def test_overdrawn_memory(self) -> None:
        harness, node, first = self.pinned()
        grown = report(first, "m0")
        grown.host_bytes = 180 * MIB
        assert drained(harness.beat(node, 2.0, grown)) == []

    def test_memory_that_others_take(self) -> None:
        harness, node, _ = self.pinned()
        assert drained(harness.beat(node, 2.0, host_bytes_free=1)) == []

    def test_last_replica_when_fewer_are_needed(self) -> None:
        harness = Harness(node_timeout_s=1e9, accessed_window_s=1.0, replica_idle_s=1.0)
        node = harness.node(slots=4)
        harness.deploy("m", services_per_container=1)
        for name in ("a", "b"):
            harness.service(name, "m", tier="pinned")
        first = harness.load(node, "a", 1)
        harness.hit("b", 2, now_s=0.1)
        harness.answer(node, 2)
        (create,) = created(harness.beat(node, 0.2, report(first, "m")))
        harness.ready(node, create.container, 0.3)
        for second in range(1, 30):
            harness.tick(float(second))
            harness.beat(node, float(second), report(first, "m"), report(create.container, "m"))
        assert len(harness.board.registry.groups["m", 0].ready) == 1

    def test_pinned_while_its_eviction_was_being_planned(self) -> None:
        """The pin comes after the drain has begun: the container leaves, and its next call brings it back pinned."""
        harness = Harness(node_timeout_s=1e9)
        node = full_node(harness, 1)
        harness.service("other")
        (close,) = closed(harness.call("other", 9, now_s=10.0))
        harness.ask("pin", name="m0")
        harness.gone(node, close.container, 10.1)
        assert harness.board.registry.groups["m0", 0].pinned
        other = created(harness.call("m0", 10, now_s=11.0))
        assert other == []  # it waits for its turn like any other


def test_idle_close_races_a_new_call() -> None:
    """The call comes after the container was told to drain: it must not be sent there, and must not be lost."""
    harness = Harness(node_timeout_s=1e9)
    harness.drains_at_once = False
    node = harness.node(slots=4)
    harness.deploy("m", idle_timeout_s=10.0)
    harness.service("m", "m")
    old = harness.load(node, "m", 1)
    assert len(drained(harness.tick(10.1))) == 1
    assert harness.hit("m", 2, now_s=10.1) is None
    (create,) = created(harness.call("m", 2, now_s=10.1))
    harness.drained(node, old, 10.2)
    harness.gone(node, old, 10.3)
    assert len(forwarded(harness.ready(node, create.container, 11.0))) == 1
    assert harness.answer(node, 2) is not None


def test_idle_close_races_a_call_that_is_on_its_way() -> None:
    """The call was sent before the drain: the container is closed only after its answer."""
    harness = Harness(node_timeout_s=1e9)
    node = harness.node(slots=4)
    harness.deploy("m", idle_timeout_s=10.0)
    harness.service("m", "m")
    old = harness.load(node, "m", 1)
    assert harness.hit("m", 2, now_s=10.05) is not None
    assert drained(harness.tick(10.1)) == []  # it is not idle
    (container,) = harness.board.registry.containers.values()
    effects = harness.admin("evict", container=container.title, now_s=10.2)
    assert closed(effects) == []
    assert harness.answer(node, 2) is not None
    assert [close.container for close in closed(harness.board._leaving.drained(container, 10.3))] == [old]


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_same_model_is_started_several_times(policy: str) -> None:
    """A hundred calls of ten services, ticks and reports while it loads: one container."""
    harness = Harness(policy=policy, node_timeout_s=1e9)
    node = harness.node(slots=16)
    harness.deploy("m")
    for number in range(10):
        harness.service(f"s{number}", "m", tenant=f"t{number}")
    creates = []
    for number in range(100):
        creates += created(harness.call(f"s{number % 10}", number + 1, now_s=number * 0.01))
        creates += created(harness.tick(number * 0.01))
        creates += created(harness.beat(node, number * 0.01))
    assert len(creates) == 1
    assert len(forwarded(harness.ready(node, creates[0].container, 2.0))) == 100
    assert created(harness.tick(2.1)) == []


def test_same_model_is_started_several_times_when_its_kernel_registers_again() -> None:
    harness = Harness(node_timeout_s=1e9)
    harness.node(slots=16)
    harness.service("m")
    (create,) = created(harness.call("m", 1))
    starting = report(create.container, "m", state="creating")
    harness.node(slots=16, containers=[starting], now_s=1.0)
    assert created(harness.tick(1.1)) == []
    assert created(harness.call("m", 2, now_s=1.2)) == []
    assert len(harness.board.registry.containers) == 1


def test_all_pinned() -> None:
    """Defined: an interrupt at once, which names every holder, and says that waiting will not help."""
    harness = Harness(room_patience_s=1000.0)
    full_node(harness, 5, tier="pinned")
    harness.service("other")
    (refusal,) = refused(harness.call("other", 9, now_s=1.0, budget_s=1000.0))
    details = refusal.error.details
    assert details["retry_after_s"] is None
    held = details["nodes"][0]["held_by"]
    assert sorted(holder["model"] for holder in held) == [f"m{number}" for number in range(5)]
    assert {holder["stays_because"] for holder in held} == {"pinned"}
    assert details["would_help"][0] == "unpinning m0, m1, m2, m3, m4"


def test_unload_not_yet_returned() -> None:
    """The acknowledgement of a close is not the memory: nothing is created before the node says that it is back."""
    harness = Harness(node_timeout_s=1e9)
    node = full_node(harness, 1, host_mb=800)
    harness.deploy("next", host_mb=800)
    harness.service("next", "next")
    effects = harness.call("next", 9, now_s=1.0)
    (close,) = closed(effects)
    for second in (1.5, 2.0, 3.0):
        effects += harness.beat(node, second, report(close.container, "m0", state="draining"))
        effects += harness.tick(second)
    assert created(effects) == []
    assert [create.model.name for create in created(harness.gone(node, close.container, 4.0))] == ["next"]


def test_unload_not_yet_returned_and_a_third_model_asks() -> None:
    """The room of what is leaving is promised once."""
    harness = Harness(node_timeout_s=1e9)
    node = full_node(harness, 1, host_mb=800)
    for name in ("second", "third"):
        harness.deploy(name, host_mb=800)
        harness.service(name, name)
    (close,) = closed(harness.call("second", 9, now_s=1.0))
    harness.call("third", 10, now_s=1.1)
    creates = created(harness.gone(node, close.container, 2.0))
    assert [create.model.name for create in creates] == ["second"]
    assert created(harness.tick(2.1)) == []


class TestPopularModelStuckOnOneReplica:
    def popular(self, slots: int = 4) -> tuple[Harness, bytes, int]:
        harness = Harness(node_timeout_s=1e9, replica_queue=4, replica_after_s=1.0)
        harness.drains_at_once = False
        node = harness.node(slots=slots)
        harness.deploy("m")
        for name in ("s0", "s1"):
            harness.service(name, "m", tenant=name)
        return harness, node, harness.load(node, "s0", 1)

    def test_routed_calls_spread_over_a_replica_once_it_is_there(self) -> None:
        harness, node, first = self.popular()
        for number in range(10):
            harness.hit("s0", 100 + number, now_s=0.1)
        harness.beat(node, 0.2, report(first, "m"))
        (create,) = created(harness.beat(node, 1.5, report(first, "m")))
        harness.ready(node, create.container, 2.0)
        taken = Counter(found.id for n in range(10) if (found := harness.hit("s0", 200 + n, now_s=2.1)))
        assert taken[create.container] == 10  # the first has ten calls to work off

    def test_callers_with_lanes_are_spread_too(self) -> None:
        """A lane leads to one container for as long as it lives: some are ended, so that they are leased anew."""
        harness, node, first = self.popular()
        lanes = [usage(harness.handles[name], calls=100, idle_s=0.0) for name in ("s0", "s1")]
        crowded = report(first, "m", lanes=2, lane_calls=20, lane_usage=lanes)
        harness.beat(node, 0.2, crowded)
        (create,) = created(harness.beat(node, 1.5, crowded))
        orders = drained(harness.ready(node, create.container, 2.0))
        assert len(orders) == 1
        assert orders[0].service in (harness.handles["s0"], harness.handles["s1"])

    def test_second_replica_comes_while_a_caller_is_slow(self) -> None:
        """The queue is what counts, not the number of services or callers."""
        harness, node, first = self.popular()
        for number in range(6):
            harness.hit("s0", 100 + number, now_s=0.1)
        harness.beat(node, 0.2, report(first, "m"))
        assert len(created(harness.beat(node, 1.5, report(first, "m")))) == 1


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_container_that_crashes_while_it_is_the_chosen_victim(policy: str) -> None:
    """Its room comes the other way: the plan goes on, and nobody else has to leave."""
    harness = Harness(policy=policy, node_timeout_s=1e9)
    harness.drains_at_once = False
    node = full_node(harness, 3)
    harness.service("other")
    (order,) = drained(harness.call("other", 9, now_s=10.0))
    effects = harness.gone(node, order.container, 10.1, cause="crashed", reason="killed by SIGKILL")
    assert [create.model.name for create in created(effects)] == ["other"]
    assert drained(effects) == []
    assert len(events_of(effects, "crash")) == 1


def test_call_of_a_dead_callers_service_does_not_keep_its_container_for_ever(harness: Harness) -> None:
    """A call in flight whose container never answers ends with its deadline, and then guards nobody any more."""
    node = full_node(harness, 1)
    harness.hit("m0", 7, now_s=1.0)  # for ten seconds, and no answer comes
    harness.beat(node, 11.0)
    harness.tick(11.1)
    assert harness.board.calls.get(CALLER, 7) is None
    harness.service("other")
    assert len(drained(harness.call("other", 9, now_s=12.0))) == 1
