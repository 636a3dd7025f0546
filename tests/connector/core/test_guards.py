"""Who may not leave, why, and until when."""

from math import inf

import pytest
from tests.connector.harness import Harness, created, forwarded, report

from huterox_connector.core.guards import Guard, Wish, explain, guard_of, lapses_s, wish_of
from huterox_connector.core.hotness import impulse
from huterox_connector.core.records import Container


def resident(harness: Harness, name: str = "a", tier: str = "shared", now_s: float = 0.0, **ready: float) -> Container:
    """A container that is ready, with no call in flight."""
    if name not in harness.handles:
        harness.service(name, tier=tier)
    node = next(iter(harness.board.registry.nodes), None) or harness.node(slots=8)
    timings_s = {"load": ready["load_s"]} if ready else {}
    return harness.board.registry.containers[harness.load(node, name, 1, now_s, timings_s=timings_s)]


def wish(harness: Harness, name: str = "b", now_s: float = 0.0) -> Wish:
    """What a fault of another model asks for."""
    if name not in harness.handles:
        harness.service(name)
    return wish_of(harness.board.registry.services[harness.handles[name]].group, now_s, harness.config)


def guard(harness: Harness, container: Container, wished: Wish, now_s: float) -> Guard | None:
    found = guard_of(container, wished, now_s, harness.config)
    text = explain(found, container, wished, now_s, harness.config)
    assert bool(text) == (found is not None)  # every guard has a text
    return found


def test_idle_shared_container_may_leave(harness: Harness) -> None:
    container = resident(harness)
    assert guard(harness, container, wish(harness), 100.0) is None
    assert lapses_s(None, container, wish(harness), 100.0, harness.config) == 100.0


@pytest.mark.parametrize(("tier", "expected"), [("pinned", Guard.PINNED), ("dedicated", Guard.DEDICATED)])
def test_tiers_that_never_leave_never_lapse(harness: Harness, tier: str, expected: Guard) -> None:
    container = resident(harness, tier=tier)
    assert guard(harness, container, wish(harness), 1e6) is expected
    assert lapses_s(expected, container, wish(harness), 1e6, harness.config) == inf


def test_one_pinned_service_pins_the_container_of_all(harness: Harness) -> None:
    container = resident(harness)
    harness.service("also", model="a", tier="pinned")
    assert guard(harness, container, wish(harness), 100.0) is Guard.PINNED
    harness.ask("delete", name="also")
    assert guard(harness, container, wish(harness), 100.0) is None


def test_what_loads_or_leaves_is_nobodys_victim(harness: Harness) -> None:
    node = harness.node()
    harness.service("a")
    container = harness.board.registry.containers[created(harness.call("a", 1))[0].container]
    assert guard(harness, container, wish(harness), 1.0) is Guard.LOADING
    harness.ready(node, container.id)
    harness.drains_at_once = False
    harness.ask("evict", container=container.title)
    assert guard(harness, container, wish(harness), 2.0) is Guard.LEAVING


def test_minimum_residency_is_a_multiple_of_the_load_time_within_bounds() -> None:
    harness = Harness(residency_min_s=1.0, residency_load_factor=2.0, residency_max_s=10.0)
    for name, load_s, stays_s in (("quick", 0.1, 1.0), ("usual", 3.0, 6.0), ("slow", 60.0, 10.0)):
        container = resident(harness, name, load_s=load_s)
        assert guard(harness, container, wish(harness), stays_s - 0.01) is Guard.FRESH
        assert lapses_s(Guard.FRESH, container, wish(harness), 0.0, harness.config) == stays_s
        assert guard(harness, container, wish(harness), stays_s) is None


def test_call_in_flight_keeps_a_container_until_the_turn_of_who_waits_is_due() -> None:
    harness = Harness(turn_after_s=2.0)
    container = resident(harness)
    harness.hit("a", 7, now_s=1.0)
    waiting = Wish(wish(harness).group, 1.0, since_s=1.0)
    assert guard(harness, container, waiting, 2.0) is Guard.BUSY
    assert lapses_s(Guard.BUSY, container, waiting, 2.0, harness.config) == 3.0
    assert guard(harness, container, Wish(waiting.group, 1.0, 1.0, turn_due=True), 3.0) is None


def test_call_in_a_lane_keeps_a_container_too(harness: Harness) -> None:
    container = resident(harness)
    harness.beat(container.node.identity, 1.0, report(container.id, "a", lane_calls=1))
    assert guard(harness, container, Wish(wish(harness).group, 1.0, 1.0), 1.0) is Guard.BUSY


class TestHotness:
    """A cold tenant does not push out hotter ones; how much hotter is a setting."""

    @staticmethod
    def called_every(period_s: float, until_s: float) -> tuple[Harness, Container]:
        harness = Harness(hotter_factor=20.0)
        container = resident(harness)
        for number in range(int(until_s / period_s)):
            harness.hit("a", 10 + number, now_s=(number + 1) * period_s)
            harness.answer(container.node.identity, 10 + number)
        return harness, container

    def test_much_hotter_one_stays_until_it_has_been_idle(self) -> None:
        harness, container = self.called_every(0.5, until_s=60.0)
        wished = wish(harness, now_s=60.0)
        assert guard(harness, container, wished, 60.1) is Guard.HOT
        at_s = lapses_s(Guard.HOT, container, wished, 60.1, harness.config)
        assert 60.1 < at_s < 66.0
        assert guard(harness, container, wished, at_s + 0.001) is None

    def test_little_hotter_one_leaves(self) -> None:
        harness, container = self.called_every(10.0, until_s=60.0)
        assert guard(harness, container, wish(harness, now_s=60.0), 60.1) is None

    def test_factor_zero_turns_it_off(self) -> None:
        harness, container = self.called_every(0.1, until_s=10.0)
        off = Harness(hotter_factor=0.0)
        assert guard_of(container, wish(harness, now_s=10.0), 10.0, off.config) is None

    def test_model_called_for_the_first_time_in_a_long_time_counts_its_call(self) -> None:
        """Else what is called once an hour would be hotter than what is called once a day, and stay for ever."""
        harness = Harness(hotter_factor=20.0)
        container = resident(harness, now_s=0.0)
        for hour in range(1, 49):
            harness.hit("a", 10 + hour, now_s=hour * 3600.0)
            harness.answer(container.node.identity, 10 + hour)
        wished = wish(harness, now_s=49 * 3600.0)
        assert wished.rate == impulse(harness.config.hot_half_life_s)
        assert guard(harness, container, wished, 49 * 3600.0) is None

    def test_surplus_replica_may_leave_however_hot_and_the_last_one_stays(self) -> None:
        harness = Harness(hotter_factor=20.0)
        node = harness.node(slots=8)
        harness.deploy("a", services_per_container=1)
        for name in ("a", "a2"):
            harness.service(name, "a")
        first = harness.board.registry.containers[harness.load(node, "a", 1)]
        harness.hit("a2", 2, now_s=0.1)
        (create,) = created(harness.beat(node, 0.2, report(first.id, "a")))  # two services: another replica
        harness.ready(node, create.container, now_s=0.3)
        second = harness.board.registry.containers[create.container]
        for number in range(200):
            harness.hit("a", 10 + number, now_s=0.3 + number * 0.01)
            harness.answer(node, 10 + number)
        harness.answer(node, 2)
        wished = wish(harness, now_s=2.3)
        assert guard(harness, second, wished, 2.31) is None
        assert guard(harness, first, wished, 2.31) is Guard.HOT


def test_wish_is_as_old_as_the_call_that_waits_longest() -> None:
    harness = Harness(turn_after_s=2.0)
    node = harness.node()
    harness.service("a")
    container = created(harness.call("a", 1, now_s=5.0))[0].container
    harness.call("a", 2, now_s=6.0)
    group = harness.board.registry.services[harness.handles["a"]].group
    assert not wish_of(group, 6.9, harness.config).turn_due
    assert wish_of(group, 7.0, harness.config) == Wish(
        group, wish_of(group, 7.0, harness.config).rate, since_s=5.0, turn_due=True
    )
    assert len(forwarded(harness.ready(node, container, now_s=7.0))) == 2
    assert wish_of(group, 8.0, harness.config).since_s == 8.0
