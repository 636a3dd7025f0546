"""A bounded number of nodes to look at, whatever their number."""

from tests.connector.harness import Harness, created

from huterox_connector.core.nodeindex import IN_TURN, ROOMIEST, NodeIndex
from huterox_connector.core.records import Node
from huterox_connector.core.replacer import POLICIES
from huterox_connector.core.vectors import Amounts

LOOKED_AT_MAX = ROOMIEST + IN_TURN


def node(name: str, host_bytes: int = 100, slots: int = 1, **devices: int) -> Node:
    capacity = Amounts(slots, host_bytes, devices)
    return Node(name, name.encode(), "b", "host", 1, "", capacity, capacity, POLICIES["lru"](), "lru", 0.0, 0.0)


def index_of(*nodes: Node) -> NodeIndex:
    index = NodeIndex()
    for each in nodes:
        index.add(each)
    return index


def names(index: NodeIndex, on_device: bool = False, known: tuple[str, ...] = ()) -> list[str]:
    return [each.name for each in index.candidates(on_device=on_device, known=known)]


def test_few_nodes_are_all_looked_at() -> None:
    index = index_of(*(node(f"n{number}") for number in range(LOOKED_AT_MAX)))
    assert len(set(names(index))) == LOOKED_AT_MAX


def test_of_many_nodes_the_roomiest_and_the_known_are_looked_at_and_each_once() -> None:
    index = index_of(*(node(f"n{number}", host_bytes=number) for number in range(1000)))
    found = names(index, known=("n3", "gone", "n999"))
    assert {"n3", *(f"n{number}" for number in range(1000 - ROOMIEST, 1000))} <= set(found)
    assert len(found) == len(set(found)) <= LOOKED_AT_MAX + 1


def test_every_node_has_its_turn() -> None:
    index = index_of(*(node(f"n{number}", host_bytes=number) for number in range(500)))
    seen: set[str] = set()
    for _ in range(500 // IN_TURN + 1):
        seen |= set(names(index))
    assert len(seen) == 500


def test_devices_have_an_order_of_their_own() -> None:
    nodes = [node(f"n{number}", host_bytes=1000 - number, gpu=number) for number in range(100)]
    found = names(index_of(*nodes), on_device=True)
    assert found[:ROOMIEST] == [f"n{number}" for number in range(99, 99 - ROOMIEST, -1)]


def test_node_without_a_slot_comes_behind_all_that_have_one() -> None:
    full = node("full", host_bytes=10**6, slots=0)
    index = index_of(full, *(node(f"n{number}") for number in range(100)))
    assert "full" not in names(index)[:ROOMIEST]


def test_update_moves_a_node_and_remove_forgets_it() -> None:
    nodes = [node(f"n{number}", host_bytes=number) for number in range(100)]
    index = index_of(*nodes)
    nodes[0].limit = Amounts(1, 10**6)
    index.update(nodes[0])
    assert names(index)[0] == "n0"
    index.remove(nodes[0])
    index.update(nodes[0])  # late news of a node that is gone
    for _ in range(10):
        assert "n0" not in names(index)
    assert len(index) == 99


def test_room_is_found_although_only_one_node_of_many_has_it() -> None:
    harness = Harness()
    harness.deploy("m", host_mb=500)
    harness.service("m", "m")
    for number in range(200):
        harness.node(f"n{number}", host_mb=400)
    roomy = harness.node("roomy", host_mb=600)
    (create,) = created(harness.call("m", 1))
    assert harness.board.registry.containers[create.container].node.identity == roomy
