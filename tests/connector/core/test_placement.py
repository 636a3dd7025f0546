"""Which node and which device."""

from collections.abc import Sequence

import pytest
from tests.connector.harness import Harness, created, journalled, report

from huterox_connector.core.records import Node
from huterox_connector.core.vectors import MIB


def chosen(harness: Harness, service: str = "m", request_id: int = 500, now_s: float = 50.0) -> str:
    """The node that a fault leads to; "": none."""
    found = created(harness.call(service, request_id, now_s))
    return harness.board.registry.containers[found[0].container].node.name if found else ""


def with_model(**config: object) -> Harness:
    harness = Harness(**config)
    harness.deploy("m", host_mb=300)
    harness.service("m", "m")
    return harness


def fill(harness: Harness, node: bytes, host_mb: int, load_s: float = 1.0, now_s: float = 0.0) -> int:
    """Something resident on `node`."""
    name = f"fill{len(harness.handles)}"
    harness.deploy(name, host_mb=host_mb)
    harness.service(name, name)
    others = [other for other in harness.board.registry.nodes.values() if other.identity != node]
    for other in others:
        other.drained = True
    container = harness.load(node, name, 100 + len(harness.handles), now_s, timings_s={"load": load_s})
    for other in others:
        other.drained = False
    return container


def test_node_with_room_comes_before_one_where_others_must_leave() -> None:
    harness = with_model()
    fill(harness, harness.node("large", host_mb=1000, slots=4), 900)
    harness.node("small", host_mb=310, slots=4)
    assert chosen(harness) == "small"


@pytest.mark.parametrize(("placement", "expected"), [("spread", "empty"), ("pack", "half")])
def test_where_room_is_on_several_the_ranking_decides(placement: str, expected: str) -> None:
    harness = with_model(placement=placement)
    fill(harness, harness.node("half", host_mb=1000, slots=4), 500)
    harness.node("empty", host_mb=1000, slots=4)
    assert chosen(harness) == expected


def test_without_room_the_cheapest_eviction_decides() -> None:
    harness = with_model()
    fill(harness, harness.node("dear", host_mb=300, slots=4), 300, load_s=20.0)
    fill(harness, harness.node("cheap", host_mb=300, slots=4), 300, load_s=2.0)
    harness.drains_at_once = False
    effects = harness.call("m", 500, now_s=50.0)
    assert [kind for kind, _ in journalled(effects)] == ["load", "evict"]
    (planned,) = harness.board.registry.groups["m", 0].coming.values()
    assert planned.node.name == "cheap"


def test_idle_victims_come_before_busy_ones_however_cheap() -> None:
    harness = with_model(turn_after_s=0.0)
    fill(harness, harness.node("idle", host_mb=300, slots=4), 300, load_s=20.0)
    busy = fill(harness, harness.node("busy", host_mb=300, slots=4), 300, load_s=1.0)
    harness.board.registry.containers[busy].lane_calls = 1
    harness.drains_at_once = False
    harness.call("m", 500, now_s=50.0)
    (planned,) = harness.board.registry.groups["m", 0].coming.values()
    assert planned.node.name == "idle"


def test_where_it_loaded_fast_is_preferred() -> None:
    harness = with_model()
    slow, fast = (harness.node(name, host_mb=1000, slots=4) for name in ("slow", "fast"))
    for node, load_s in ((fast, 1.0), (slow, 8.0)):
        for other in harness.board.registry.nodes.values():
            other.drained = other.identity != node
        container = harness.load(node, "m", int(load_s), timings_s={"load": load_s}, host_bytes=300 * MIB)
        harness.ask("evict", container=harness.board.registry.containers[container].title)
        harness.gone(node, container)
    for other in harness.board.registry.nodes.values():
        other.drained = False
    fill(harness, fast, 600)  # fuller, and chosen all the same
    assert chosen(harness) == "fast"


def test_replicas_go_to_different_nodes() -> None:
    harness = Harness(replica_after_s=1.0, replica_queue=1)
    first, second = (harness.node(name, host_mb=1000, slots=4) for name in ("n1", "n2"))
    harness.deploy("m", host_mb=100)
    harness.service("m", "m")
    container = created(harness.call("m", 1))[0].container
    node = harness.board.registry.containers[container].node
    harness.ready(node.identity, container)
    for request_id in range(2, 6):
        harness.hit("m", request_id)
    harness.beat(node.identity, 1.0, report(container, "m"))
    (create,) = created(harness.beat(node.identity, 2.5, report(container, "m")))
    assert {node.identity, harness.board.registry.containers[create.container].node.identity} == {first, second}


class TestClosedNodes:
    @pytest.fixture
    def harness(self) -> Harness:
        harness = with_model(node_suspect_s=2.0, node_timeout_s=100.0)
        for name in ("n1", "n2"):
            harness.node(name, host_mb=1000, slots=4)
        return harness

    @staticmethod
    def node(harness: Harness, name: str) -> Node:
        return harness.board.registry.nodes_by_name[name]

    def test_drained_one_gets_no_load_until_it_is_resumed(self, harness: Harness) -> None:
        for name in ("n1", "n2"):
            harness.ask("drain", name=name)
        assert chosen(harness, request_id=1, now_s=1.0) == ""
        (create,) = created(harness.admin("resume", now_s=1.5, name="n2"))
        assert harness.board.registry.containers[create.container].node.name == "n2"

    def test_sick_one_gets_no_load(self, harness: Harness) -> None:
        self.node(harness, "n1").sick_until_s = 5.0
        assert chosen(harness, now_s=1.0) == "n2"

    def test_silent_one_gets_no_load(self, harness: Harness) -> None:
        harness.beat(self.node(harness, "n2").identity, 9.0)
        assert chosen(harness, now_s=10.0) == "n2"

    def test_claimed_one_is_for_its_claimer_alone(self, harness: Harness) -> None:
        harness.service("other")
        claimer = harness.board.registry.services[harness.handles["other"]].group
        self.node(harness, "n1").claim = self.node(harness, "n2").claim = claimer
        assert chosen(harness, request_id=1, now_s=1.0) == ""
        assert chosen(harness, "other", request_id=2, now_s=1.0) in ("n1", "n2")


class TestDevices:
    def placed(self, device: str, gpu_mb: dict[str, int], need_gpu_mb: int = 500) -> Sequence[str]:
        """The device of each load of three such models."""
        harness = Harness()
        harness.node(slots=8, host_mb=1000, gpu_mb=gpu_mb)
        devices = []
        for number in range(3):
            name = f"m{number}"
            harness.deploy(name, host_mb=100, gpu_mb=need_gpu_mb, device=device)
            harness.service(name, name)
            devices += [create.device for create in created(harness.call(name, number + 1))]
        return devices

    def test_cuda_models_spread_over_the_devices_that_have_room(self) -> None:
        assert sorted(self.placed("cuda", {"gpu0": 1000, "gpu1": 1000})) == ["gpu0", "gpu0", "gpu1"] or sorted(
            self.placed("cuda", {"gpu0": 1000, "gpu1": 1000})
        ) == ["gpu0", "gpu1", "gpu1"]

    def test_any_prefers_a_device_and_makes_do_without(self) -> None:
        assert self.placed("any", {"gpu0": 1000}) == ["gpu0", "gpu0", ""]

    def test_cpu_models_take_no_device(self) -> None:
        assert self.placed("cpu", {"gpu0": 1000}) == ["", "", ""]

    def test_cuda_model_never_goes_where_no_device_is(self) -> None:
        harness = Harness()
        harness.node("host", slots=8, host_mb=1000)
        harness.node("gpu", slots=8, host_mb=200, gpu_mb={"gpu0": 600})
        harness.deploy("m", host_mb=100, gpu_mb=500, device="cuda")
        harness.service("m", "m")
        assert chosen(harness) == "gpu"
