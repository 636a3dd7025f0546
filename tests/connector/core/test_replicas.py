"""More containers for a model where its services or calls ask for them and they fit; fewer where not."""

import pytest
from tests.connector.harness import CALLER, Harness, closed, created, drained, events_of, report, usage

from huterox_wire.ids import text_of


class Crowd:
    """One model with some services, one container of it, on nodes of a few slots."""

    def __init__(self, services: int, slots: int = 4, nodes: int = 1, per_container: int = 2, **config: object) -> None:
        self.harness = Harness(**{"replica_queue": 4, "replica_after_s": 1.0, "replica_idle_s": 5.0, **config})
        self.harness.drains_at_once = False
        self.nodes = [self.harness.node(f"n{number}", slots=slots) for number in range(nodes)]
        self.harness.deploy("m", services_per_container=per_container, replicas_max=3)
        self.names = [f"s{number}" for number in range(services)]
        for name in self.names:
            self.harness.service(name, "m", tenant=f"t-{name}")
        self.first = created(self.harness.call("s0", 1))[0].container
        self.harness.ready(self.node_of(self.first), self.first)
        self.harness.answer(self.node_of(self.first), 1)
        self._request_id = 100

    def node_of(self, container: int) -> bytes:
        return self.harness.board.registry.containers[container].node.identity

    def call_all(self, now_s: float, answer: bool = True) -> None:
        for name in self.names:
            self._request_id += 1
            assert self.harness.hit(name, self._request_id, now_s) is not None
            if answer:
                call = self.harness.board.calls.get(CALLER, self._request_id)
                assert call is not None
                self.harness.answer(call.container.node.identity, self._request_id)

    def beat(self, now_s: float, **more: object) -> list[object]:
        """Every node tells of its containers."""
        effects: list[object] = []
        containers = self.harness.board.registry.containers
        for node in self.nodes:
            mine = [c for c in containers.values() if c.node.identity == node]
            reports = [report(c.id, "m", state="ready" if c.ready_s else "creating", **more) for c in mine]
            effects += self.harness.beat(node, now_s, *reports)
        return effects

    def grow(self, now_s: float) -> int:
        """Another replica comes; returns its id."""
        (create,) = created(self.beat(now_s))
        self.harness.ready(self.node_of(create.container), create.container, now_s)
        return int(create.container)


def test_more_services_than_a_container_is_meant_for_bring_another() -> None:
    crowd = Crowd(services=3)
    crowd.call_all(0.1)
    effects = crowd.beat(0.5)
    assert len(created(effects)) == 1
    (load,) = events_of(effects, "load")
    assert load.reason == "replica: 3 services use 1 container"
    assert created(crowd.beat(1.0)) == []  # one is under way


def test_services_that_do_not_call_ask_for_nothing() -> None:
    crowd = Crowd(services=30)
    assert created(crowd.beat(0.5)) == []


def test_default_is_ten_services_to_a_container() -> None:
    harness = Harness()
    harness.deploy("m")
    assert harness.board.registry.models["m"].spec.services_per_container == 10


def test_long_queue_brings_another_when_it_has_lasted() -> None:
    crowd = Crowd(services=1)
    for _ in range(5):
        crowd.call_all(0.1, answer=False)
    assert created(crowd.beat(0.2)) == []
    assert created(crowd.beat(1.1)) == []
    effects = crowd.beat(1.3)
    assert len(created(effects)) == 1
    (load,) = events_of(effects, "load")
    assert load.reason == "replica: 5 calls have queued for 1.1 s at 1"


def test_queue_must_last_as_long_as_a_load_takes() -> None:
    crowd = Crowd(services=1)
    crowd.harness.board.registry.containers[crowd.first].load_s = 8.0
    for _ in range(5):
        crowd.call_all(0.1, answer=False)
    assert [len(created(crowd.beat(now_s))) for now_s in (0.2, 2.0, 8.1, 8.3)] == [0, 0, 0, 1]


def test_nobody_is_evicted_for_a_replica_and_the_refusal_is_told_once_in_a_while() -> None:
    crowd = Crowd(services=3, slots=1)
    crowd.call_all(0.1)
    (told,) = events_of(crowd.beat(0.5), "replica.refused")
    assert told.reason == "a replica was wanted, but fits nowhere without an eviction: 3 services use 1 container"
    crowd.call_all(1.0)
    assert crowd.beat(1.0)[1:] == []  # but for the echo
    crowd.call_all(10.0)
    assert len(events_of(crowd.beat(10.6), "replica.refused")) == 1


def test_replicas_are_bounded_by_the_model_file() -> None:
    crowd = Crowd(services=20, slots=16)
    for now_s in (0.1, 0.2):
        crowd.call_all(now_s)
        crowd.grow(now_s)
    crowd.call_all(0.3)
    assert created(crowd.beat(0.4)) == []
    assert len(crowd.harness.board.registry.containers) == 3


def test_calls_go_to_the_replica_with_the_shortest_queue() -> None:
    crowd = Crowd(services=3)
    crowd.call_all(0.1)
    second = crowd.grow(0.5)
    for _ in range(4):
        crowd.call_all(1.0, answer=False)
    in_flight = {c.id: c.in_flight for c in crowd.harness.board.registry.containers.values()}
    assert in_flight == {crowd.first: 6, second: 6}


def test_replica_that_is_not_needed_any_more_leaves() -> None:
    crowd = Crowd(services=3, accessed_window_s=1.0)
    crowd.call_all(0.1)
    crowd.grow(0.5)
    for now_s in (1.1, 2.2, 3.3):
        crowd.harness.tick(now_s)  # nobody calls: windows pass
    assert drained(crowd.beat(3.4)) == []
    assert drained(crowd.beat(8.0)) == []
    effects = crowd.beat(8.6)
    (reclaim,) = events_of(effects, "reclaim")
    assert reclaim.reason == "2 replicas, fewer do"
    crowd.beat(30.0)
    assert len(crowd.harness.board.registry.groups["m", 0].ready) == 1  # the last one stays


def test_replica_that_is_needed_again_in_time_stays() -> None:
    crowd = Crowd(services=3, accessed_window_s=1.0)
    crowd.call_all(0.1)
    crowd.grow(0.5)
    for now_s in (1.1, 2.2, 3.3):
        crowd.harness.tick(now_s)
    crowd.beat(3.4)
    crowd.call_all(8.0)
    assert drained(crowd.beat(8.5)) == []
    crowd.harness.tick(9.3)
    assert drained(crowd.beat(9.4)) == []


def test_failed_replica_does_not_fail_the_calls_and_is_not_tried_at_once() -> None:
    crowd = Crowd(services=3)
    crowd.call_all(0.1)
    (create,) = created(crowd.beat(0.5))
    crowd.call_all(0.6, answer=False)
    crowd.harness.gone(crowd.nodes[0], create.container, 0.7, cause="load_failed", reason="boom")
    assert len(crowd.harness.board.calls) == 3
    assert created(crowd.beat(0.8)) == []
    assert len(created(crowd.beat(2.0))) == 1


class TestLanes:
    """A lane leads to one container: a model whose callers have lanes must not stay stuck on one replica."""

    def lanes(self, crowd: Crowd, now_s: float) -> list[object]:
        handles = [crowd.harness.handles[name] for name in crowd.names]
        lane_usage = [usage(handle, calls=5, idle_s=0.1) for handle in handles]
        return crowd.beat(now_s, lanes=len(handles), lane_usage=lane_usage)

    def test_some_lanes_are_closed_when_a_replica_joins_so_that_they_are_leased_anew(self) -> None:
        crowd = Crowd(services=4)
        (create,) = created(self.lanes(crowd, 0.5))
        effects = crowd.harness.ready(crowd.nodes[0], create.container, 1.0)
        orders = drained(effects)
        assert {order.container for order in orders} == {crowd.first}
        assert len({order.service for order in orders}) == 2  # half of four; 0 would be all
        assert all(order.service for order in orders)
        (move,) = events_of(effects, "move")
        assert move.reason == f"{text_of('c', create.container)} is another replica of m: lanes are shared out anew"

    def test_new_lanes_go_to_the_replica_with_fewer(self) -> None:
        crowd = Crowd(services=4)
        (create,) = created(self.lanes(crowd, 0.5))
        crowd.harness.ready(crowd.nodes[0], create.container, 1.0)
        (ask,) = [e for e in crowd.harness.lease("s0", 900, 1.1) if hasattr(e, "meta")]
        assert ask.meta.container == create.container


class TestDrainedNode:
    @pytest.fixture
    def crowd(self) -> Crowd:
        crowd = Crowd(services=1, nodes=2)
        crowd.call_all(0.1)
        return crowd

    def other(self, crowd: Crowd) -> bytes:
        (other,) = [node for node in crowd.nodes if node != crowd.node_of(crowd.first)]
        return other

    def drain(self, crowd: Crowd, now_s: float) -> list[object]:
        name = crowd.harness.board.registry.containers[crowd.first].node.name
        return crowd.harness.admin("drain", now_s, name=name)

    def test_container_in_use_moves_and_serves_until_its_successor_is_ready(self, crowd: Crowd) -> None:
        (create,) = created(self.drain(crowd, 1.0))
        assert crowd.node_of(create.container) == self.other(crowd)
        crowd.call_all(1.5)  # served by the old one
        effects = crowd.harness.ready(self.other(crowd), create.container, 2.0)
        assert [order.container for order in drained(effects)] == [crowd.first]
        (move,) = events_of(effects, "move")
        assert "its node was drained" in move.reason

    def test_container_that_nobody_uses_leaves_at_once(self) -> None:
        crowd = Crowd(services=1, nodes=2, accessed_window_s=1.0, node_timeout_s=100.0)
        for now_s in (1.1, 2.2, 3.3):
            crowd.harness.tick(now_s)
        effects = self.drain(crowd, 4.0)
        assert created(effects) == []
        assert [order.container for order in drained(effects)] == [crowd.first]

    def test_container_that_fits_nowhere_else_leaves_and_is_loaded_again_when_called(self) -> None:
        crowd = Crowd(services=1, nodes=1)
        crowd.call_all(0.1)
        effects = self.drain(crowd, 1.0)
        assert created(effects) == []
        (move,) = events_of(effects, "move")
        assert move.reason.endswith("it is loaded elsewhere when it is called")
        assert closed(effects) == []

    def test_drain_survives_the_kernels_restart_and_ends_with_resume(self, crowd: Crowd) -> None:
        self.drain(crowd, 1.0)
        name = crowd.harness.board.registry.containers[crowd.first].node.name
        crowd.harness.node(name, now_s=10.0)
        assert crowd.harness.board.registry.nodes_by_name[name].drained
        crowd.harness.ask("resume", name=name)
        assert not crowd.harness.board.registry.nodes_by_name[name].drained
