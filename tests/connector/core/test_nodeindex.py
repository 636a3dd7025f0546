"""A bounded number of nodes to look at, whatever their number."""

from tests.connector.harness import Harness, created

from huterox_connector.core.nodeindex import IN_TURN, ROOMIEST, Need, NodeIndex
from huterox_connector.core.records import Node
from huterox_connector.core.replacer import POLICIES
from huterox_connector.core.vectors import Amounts

LOOKED_AT_MAX = ROOMIEST + IN_TURN
LITTLE = Need(0, None)


def node(name: str, host_bytes: int = 100, slots: int = 1, **devices: int) -> Node:
    capacity = Amounts(slots, host_bytes, devices)
    return Node(
        name, name.encode(), "b", "host", 1, "", capacity, capacity, capacity, POLICIES["lru"](), "lru", 0.0, 0.0
    )


def index_of(*nodes: Node) -> NodeIndex:
    index = NodeIndex()
    for each in nodes:
        index.add(each)
    return index


def names(index: NodeIndex, *needs: Need, known: tuple[str, ...] = (), turn: int = 0) -> list[str]:
    return [each.name for each in index.search(needs or (LITTLE,), known, turn).nodes]


def test_few_nodes_are_all_looked_at() -> None:
    index = index_of(*(node(f"n{number}") for number in range(LOOKED_AT_MAX)))
    assert len(set(names(index))) == LOOKED_AT_MAX
    assert index.search((Need(10**9, None),), (), 0).complete


def test_of_many_nodes_the_roomiest_and_the_known_are_looked_at_and_each_once() -> None:
    index = index_of(*(node(f"n{number}", host_bytes=number) for number in range(1000)))
    found = names(index, known=("n3", "gone", "n999"))
    assert {"n3", *(f"n{number}" for number in range(1000 - ROOMIEST, 1000))} <= set(found)
    assert len(found) == len(set(found)) <= LOOKED_AT_MAX + 1


def test_every_node_has_its_turn_and_asking_changes_nothing() -> None:
    index = index_of(*(node(f"n{number}", host_bytes=number) for number in range(500)))
    seen: set[str] = set()
    for turn in range(500 // IN_TURN + 1):
        assert names(index, turn=turn) == names(index, turn=turn)
        seen |= set(names(index, turn=turn))
    assert len(seen) == 500
    assert not index.search((LITTLE,), (), 0).complete


def test_devices_have_an_order_of_their_own() -> None:
    nodes = [node(f"n{number}", host_bytes=1000 - number, gpu=number) for number in range(100)]
    found = names(index_of(*nodes), Need(0, 0))
    assert found[:ROOMIEST] == [f"n{number}" for number in range(99, 99 - ROOMIEST, -1)]


def test_model_that_runs_with_or_without_a_device_has_both_looked_at() -> None:
    with_device = [node(f"d{number}", gpu=100) for number in range(100)]
    roomy = node("roomy", host_bytes=10**6)
    assert "roomy" in names(index_of(*with_device, roomy), Need(0, 10), Need(0, None))


def test_node_without_a_slot_or_drained_comes_behind_all_that_take_loads() -> None:
    full, drained = node("full", host_bytes=10**6, slots=0), node("drained", host_bytes=10**6)
    index = index_of(full, drained, *(node(f"n{number}") for number in range(100)))
    drained.drained = True
    index.update(drained)
    assert not {"full", "drained"} & set(names(index)[:ROOMIEST])


def test_nodes_that_are_too_small_are_passed_over() -> None:
    """The only large one is full, and is looked at all the same: others may leave it."""
    large = node("large", host_bytes=1000)
    large.limit = Amounts(1, 0)
    index = index_of(large, *(node(f"n{number}") for number in range(200)))
    found = index.search((Need(500, None),), (), 7)
    assert "large" in [each.name for each in found.nodes]
    assert found.complete


def test_whether_any_is_large_enough_is_known_of_all() -> None:
    small = [node(f"n{number}", host_bytes=100 + number, gpu=1000 - number) for number in range(200)]
    index = index_of(*small, node("no slots", host_bytes=10**6, slots=0))
    assert index.has_large_enough([Need(299, None)])
    assert not index.has_large_enough([Need(300, None)])
    assert index.has_large_enough([Need(200, 900)])
    assert not index.has_large_enough([Need(201, 900)]), "none has both"
    assert index.has_large_enough([Need(201, 900), Need(201, None)])


def test_update_moves_a_node_and_remove_forgets_it() -> None:
    nodes = [node(f"n{number}", host_bytes=number) for number in range(100)]
    index = index_of(*nodes)
    nodes[0].limit = Amounts(1, 10**6)
    index.update(nodes[0])
    assert names(index)[0] == "n0"
    index.remove(nodes[0])
    index.update(nodes[0])  # late news of a node that is gone
    for turn in range(10):
        assert "n0" not in names(index, turn=turn)
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
