"""Who leaves for whom: no more than needed, in the order of the policy, the dearest spared."""

import pytest
from tests.connector.harness import Harness, created, events_of, report

from huterox_connector.core.guards import Wish, wish_of
from huterox_connector.core.records import Node
from huterox_connector.core.replacer import POLICIES
from huterox_connector.core.vectors import MIB, Charge
from huterox_connector.core.victims import Victims, find_victims, room_comes_s
from huterox_wire.ids import text_of


class Pool:
    """One node, filled with containers of given sizes; the first was used longest ago."""

    def __init__(self, host_mb: int, *sizes_mb: int, slots: int = 16, load_s: tuple[float, ...] = (), **config: object):
        self.harness = Harness(**config)
        self.identity = self.harness.node(slots=slots, host_mb=host_mb)
        self.harness.service("asks")
        self.names: dict[int, str] = {}
        for number, size_mb in enumerate(sizes_mb):
            name = f"m{number}"
            self.harness.deploy(name, host_mb=size_mb)
            self.harness.service(name, name)
            load = {"load": load_s[number]} if load_s else {}
            container = self.harness.load(self.identity, name, number + 1, now_s=float(number), timings_s=load)
            self.names[container] = name

    @property
    def node(self) -> Node:
        return self.harness.board.registry.nodes[self.identity]

    def wish(self, turn_due: bool = False) -> Wish:
        group = self.harness.board.registry.services[self.harness.handles["asks"]].group
        return Wish(group, 1.0, 100.0, turn_due)

    def find(self, need_mb: int, turn_due: bool = False) -> Victims | None:
        return find_victims(Charge(1, need_mb * MIB), self.node, self.wish(turn_due), 100.0, self.harness.config)

    def leaving(self, need_mb: int, turn_due: bool = False) -> list[str] | None:
        victims = self.find(need_mb, turn_due)
        return None if victims is None else sorted(self.names[victim.id] for victim in victims.containers)

    def busy(self, name: str) -> None:
        assert self.harness.hit(name, 1000 + int(name[1:]), now_s=50.0) is not None


def test_one_large_load_takes_no_more_than_it_needs() -> None:
    pool = Pool(1000, 100, 100, 100, 100, 100, 100, 100, 100)
    assert pool.leaving(400) == ["m0", "m1"]
    assert pool.leaving(1000) == [f"m{number}" for number in range(8)]


def test_one_that_turns_out_not_to_be_needed_is_spared() -> None:
    assert Pool(1000, 100, 800).leaving(700) == ["m1"]


def test_of_those_the_policy_names_the_dearest_to_load_again_are_spared() -> None:
    """Three are named until 400 MiB are free; then the first alone, or the other two, would do."""
    assert Pool(1000, 400, 200, 400, load_s=(9.0, 1.0, 1.0)).leaving(400) == ["m0"]  # the policy's first is enough
    assert Pool(1000, 200, 400, 400, load_s=(9.0, 1.0, 1.0)).leaving(400) == ["m1"]  # m0 was named, and is spared
    assert Pool(1000, 200, 400, 400, load_s=(1.0, 9.0, 1.0)).leaving(400) == ["m1"]  # without m1 it is not enough


def test_what_frees_nothing_that_is_short_stays() -> None:
    harness = Harness()
    node = harness.node(slots=8, host_mb=1000, gpu_mb={"gpu0": 1000, "gpu1": 1000})
    harness.deploy("host", host_mb=100)
    harness.deploy("first", host_mb=10, gpu_mb=900, device="cuda")
    harness.deploy("second", host_mb=10, gpu_mb=600, device="cuda")
    for number, name in enumerate(("host", "first", "second")):
        harness.service(name, name)
        harness.load(node, name, number + 1, now_s=float(number), timings_s={"load": 1.0 + number})
    harness.deploy("asks", host_mb=10, gpu_mb=700, device="cuda")
    harness.service("asks", "asks")
    effects = harness.call("asks", 9, now_s=10.0)
    (evict,) = events_of(effects, "evict")
    assert evict.subject.startswith("first ")  # the cheapest on a device; `host` is older, and would not help
    (load,) = events_of(effects, "load")
    assert load.details["needs"]["device"] == evict.details["frees"]["device"]


def test_nobody_leaves_where_all_together_would_not_be_enough() -> None:
    pool = Pool(1000, 300, 300, 300)
    pool.busy("m1")
    pool.node.containers[next(iter(pool.names))].group.pins += 1
    assert pool.leaving(500) is None
    assert pool.leaving(400) == ["m2"]


def test_busy_ones_are_named_only_in_turn_and_after_the_idle() -> None:
    pool = Pool(1000, 500, 500)
    pool.busy("m0")
    pool.busy("m1")
    assert pool.leaving(500) is None
    assert pool.leaving(500, turn_due=True) == ["m0"]
    pool = Pool(1000, 500, 500)
    pool.busy("m0")
    assert pool.leaving(500, turn_due=True) == ["m1"]


def test_surplus_replicas_go_before_whatever_the_policy_says() -> None:
    harness = Harness()
    node = harness.node(slots=3)
    harness.service("old")
    harness.load(node, "old", 1, now_s=0.0)
    harness.deploy("twice", services_per_container=1)
    for name in ("t1", "t2"):
        harness.service(name, "twice")
    first = harness.load(node, "t1", 2, now_s=1.0)
    harness.hit("t2", 3, now_s=1.0)
    harness.answer(node, 3)
    (create,) = created(harness.beat(node, 1.0, report(first, "twice")))
    harness.ready(node, create.container, now_s=2.0)
    harness.service("asks")
    effects = harness.call("asks", 9, now_s=5.0)
    (evict,) = events_of(effects, "evict")
    assert evict.subject == f"twice {text_of('c', create.container)}"
    assert "a replica that others can stand in for" in evict.reason
    assert harness.board.registry.nodes[node].ghosts.refault(("twice", 0), 6.0) is None  # its group is still there


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_looking_for_victims_moves_nothing(policy: str) -> None:
    pool = Pool(1000, 250, 250, 250, 250, policy=policy)
    before = pool.leaving(500)
    assert [pool.leaving(500) for _ in range(5)] == [before] * 5


class TestWhenRoomComes:
    def room_s(self, pool: Pool, need_mb: int, now_s: float, wait_for_hot: bool = True) -> float:
        charge = Charge(1, need_mb * MIB)
        return room_comes_s(charge, pool.node, pool.wish(), now_s, pool.harness.config, wait_for_hot=wait_for_hot)

    def test_with_the_lapse_of_the_last_guard_that_is_needed(self) -> None:
        pool = Pool(1000, 500, 500, load_s=(3.0, 8.0), residency_load_factor=2.0)
        assert self.room_s(pool, 500, 1.0) == 6.0
        assert self.room_s(pool, 1000, 1.0) == 17.0  # loaded at 1, protected for 16

    def test_never_where_the_rest_is_pinned(self) -> None:
        pool = Pool(1000, 500, 500)
        for container in pool.node.containers.values():
            container.group.pins += 1
        assert self.room_s(pool, 500, 1.0) == float("inf")

    def test_not_on_the_room_that_is_planned_for_others(self) -> None:
        pool = Pool(1000, 500, 500, load_s=(3.0, 8.0), residency_load_factor=2.0, residency_min_s=4.0)
        pool.harness.drains_at_once = False
        pool.harness.deploy("first", host_mb=500)
        pool.harness.service("first", "first")
        assert events_of(pool.harness.call("first", 50, now_s=7.0), "evict")  # m0 leaves for it
        assert self.room_s(pool, 500, 7.0) == 11.0  # when that one has had its minimum residency

    def test_hot_ones_are_not_counted_on_where_a_claim_is_made(self) -> None:
        pool = Pool(1000, 1000, hotter_factor=0.001)
        assert wish_of(pool.wish().group, 1.0, pool.harness.config).rate > 0.0
        for number in range(200):
            pool.harness.hit("m0", 100 + number, now_s=1.0)
            pool.harness.answer(pool.identity, 100 + number)
        assert self.room_s(pool, 500, 1.0) < float("inf")
        assert self.room_s(pool, 500, 1.0, wait_for_hot=False) == float("inf")
