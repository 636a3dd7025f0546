"""What must hold between any two events: counted anew from the records, and compared with what the core keeps."""

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from tests.simulation.callers import LATE_S
from tests.simulation.decisions import HOLDS_MEMORY, STAYS, has_tier

from huterox_connector.core.lifecycle import State
from huterox_connector.core.reclaim import GONE_MAX
from huterox_connector.core.records import Container, Node
from huterox_connector.core.usage import REMEMBERED_MAX
from huterox_connector.core.vectors import MIB, Amounts

if TYPE_CHECKING:
    from tests.simulation.world import World

_ON_ITS_WAY: Final = frozenset({State.PLANNED, State.CREATING})
WATCHED_MAX: Final = GONE_MAX + 100
"""Entries of the heap of idle times beyond two for each container."""


def check_all(world: "World") -> None:
    for invariant in EVERY:
        invariant(world)


# Calls.


def no_call_is_lost(world: "World") -> None:
    """Whoever waits for an answer is in flight or in a line, and in one of them alone. None is overdue."""
    table, waiting = world.board.calls._table, world.board._faults._waiting
    open_calls = world.callers.open
    assert len(table) + len(waiting) == len(open_calls), (
        f"{len(open_calls)} calls are open, {len(table)} in flight and {len(waiting)} waiting"
    )
    late_s = world.now_s - LATE_S
    for key, call in open_calls.items():
        assert key in table or key in waiting, f"call {key} is lost"
        assert call.deadline_s >= late_s, (
            f"call {key} has not ended {world.now_s - call.deadline_s:.3f} s after its end"
        )


def calls_are_counted_where_they_are(world: "World") -> None:
    """The counters of containers, services and callers, and the limits on them."""
    board, config = world.board, world.config
    of_container: Counter[int] = Counter()
    borrowed: Counter[int] = Counter()
    of_service: Counter[int] = Counter()
    of_caller: Counter[bytes] = Counter()
    for call in board.calls._table.values():
        container, service = call.container, call.service
        of_container[container.id] += 1
        borrowed[container.id] += container.group is not service.group
        of_service[service.id] += 1
        of_caller[call.caller] += 1
    for waiting in board._faults._waiting.values():
        of_service[waiting.service.id] += 1
    for container in board.registry.containers.values():
        assert container.in_flight == of_container[container.id], f"{container.title}: in_flight is wrong"
        assert container.borrowed == borrowed[container.id], f"{container.title}: borrowed is wrong"
        assert container.borrowed <= 1, f"{container.title} is lent {container.borrowed} times"
    for service in board.registry.services.values():
        in_flight = of_service[service.id]
        assert service.in_flight == in_flight, f"{service.title}: in_flight is {service.in_flight}, not {in_flight}"
        assert not service.in_flight_max or in_flight <= service.in_flight_max, f"{service.title}: over its quota"
    assert board.calls._of_caller == of_caller, "calls of callers are counted wrong"
    assert len(board.calls) + len(board._faults) <= config.calls_max


def calls_are_at_nodes_that_live(world: "World") -> None:
    board = world.board
    nodes = board.registry.nodes
    nbytes = 0
    for key, call in board.calls._table.items():
        node = call.container.node
        assert nodes.get(node.identity) is node, f"call {key} is at {node.name}, which has gone"
        nbytes += call.nbytes
    nbytes += sum(board.calls._given_up.values())
    assert board.calls._nbytes == nbytes
    assert set(board.calls._given_up) <= set(board.registry.nodes)
    assert nbytes <= world.config.calls_nbytes_max + world.config.waiting_nbytes_max
    for key, question in board._questions._open.items():
        assert question.kernel in nodes, f"question {key} waits for a kernel that has gone"


def lines_hold_what_waits(world: "World") -> None:
    """Every waiting call stands in the line of its group, and only those groups have lines."""
    board, config = world.board, world.config
    faults = board._faults
    in_lines = {}
    for key, group in faults._lines.items():
        assert board.registry.groups.get(key) is group, f"calls wait for {key}, which is no more"
        assert 0 < len(group.waiting) <= config.waiting_per_group_max + config.calls_max
        for waiting in group.waiting:
            in_lines[waiting.caller, waiting.request_id] = waiting
            assert waiting.service.group is group
            assert board.registry.services.get(waiting.service.id) is waiting.service
    assert in_lines == faults._waiting
    assert faults._nbytes == sum(waiting.nbytes for waiting in in_lines.values())


# Containers and their nodes.


def books_equal_a_recount(world: "World") -> None:
    for node in world.board.registry.nodes.values():
        assert node.present == _sum(node, HOLDS_MEMORY), f"{node.name}: what is present is {node.present}"
        assert node.staying == _sum(node, STAYS), f"{node.name}: what stays is {node.staying}"


def _sum(node: Node, states: frozenset[State]) -> Amounts:
    total = Amounts()
    for container in node.containers.values():
        if container.state in states:
            total.add(container.charge)
    return total


def memory_is_given_away_once(world: "World") -> None:
    """What is charged to containers and to the node is what it offers, or less, but for what has grown meanwhile."""
    for kernel in world.kernels.living():
        if (node := world.board.registry.nodes.get(kernel.identity)) is None:
            continue
        assert node.present.host_bytes >= 0 and node.base_bytes == kernel.told_base_mb * MIB
        charged_mb = (node.present.host_bytes + node.base_bytes) // MIB
        may_mb = kernel.host_mb + kernel.overdrawn_mb(node.containers)
        assert charged_mb <= may_mb, f"{kernel.name}: {charged_mb} MiB of {kernel.host_mb} are given away"


def page_table_leads_to_the_ready(world: "World") -> None:
    """Ready containers take calls, those on their way are waited for, others are neither; one load at a time."""
    registry = world.board.registry
    ready, coming = 0, 0
    for container in registry.containers.values():
        assert container.state is not State.GONE
        is_ready, comes = container.state is State.READY, container.state in _ON_ITS_WAY
        group = container.group
        assert (container in group.ready) == is_ready, f"{container.title} is {container.state}"
        assert (container.id in group.coming) == comes, f"{container.title} is {container.state}"
        if is_ready or comes:
            assert registry.groups.get(group.key) is group, f"{container.title} serves {group.key}, which is no more"
        ready, coming = ready + is_ready, coming + comes
    groups = registry.groups.values()
    assert sum(len(group.ready) for group in groups) == ready, "the page table leads to containers that have gone"
    assert sum(len(group.coming) for group in groups) == coming, "a container is waited for that has gone"


def loads_are_shared(world: "World") -> None:
    for group in world.board.registry.groups.values():
        assert len(group.coming) <= 1, f"{group.key} is loaded {len(group.coming)} times at once"


def records_know_each_other(world: "World") -> None:
    """Containers, nodes, models, services and groups: what one names is there, and names it back."""
    registry = world.board.registry
    for container in registry.containers.values():
        node = container.node
        assert registry.nodes.get(node.identity) is node, f"{container.title} is on {node.name}, which has gone"
        assert node.containers.get(container.id) is container
    assert sum(len(node.containers) for node in registry.nodes.values()) == len(registry.containers)
    assert set(registry.nodes_by_name) == {node.name for node in registry.nodes.values()}
    for service in registry.services.values():
        group = service.group
        assert registry.groups.get(group.key) is group and group.services.get(service.id) is service
        assert registry.models.get(service.model.name) is service.model is group.model
        assert service.model.services.get(service.id) is service
        assert (service.id in service.model.lenders) == service.lend
    assert sum(len(group.services) for group in registry.groups.values()) == len(registry.services)
    for group in registry.groups.values():
        held = group.services or group.resident or _is_held(group.key, list(registry.containers.values()))
        assert held, f"{group.key} serves nobody and has nothing"
        assert group.pins == sum(service.tier == "pinned" for service in group.services.values())
        assert not group.pinned or has_tier(group, "pinned")


def _is_held(key: tuple[str, int], containers: list[Container]) -> bool:
    return any(container.group.key == key for container in containers)


# What finds things quickly, and what remembers them.


def index_is_in_order(world: "World") -> None:
    index, nodes = world.board._residency._index, world.board.registry.nodes
    by_host, by_device, by_size, by_device_size = [], [], [], []
    for node in nodes.values():
        room = node.limit.less(node.staying)
        takes_loads = room.slots > 0 and not node.drained
        by_host.append((takes_loads, room.host_bytes, node.name))
        by_size.append((node.capacity.host_bytes, node.name))
        if room.devices:
            by_device.append((takes_loads, max(room.devices.values()), node.name))
            by_device_size.append((max(node.capacity.devices.values()), node.name))
    assert index._host.room == sorted(by_host), "the index by host memory is not up to date"
    assert index._device.room == sorted(by_device), "the index by devices is not up to date"
    assert (index._host.size, index._device.size) == (sorted(by_size), sorted(by_device_size))
    assert {name: id(node) for name, node in index._nodes.items()} == {n.name: id(n) for n in nodes.values()}


def lists_are_in_order(world: "World") -> None:
    registry = world.board.registry
    assert list(registry.service_ids.after(0)) == sorted(registry.services)
    assert list(registry.container_ids.after(0)) == sorted(registry.containers)
    assert list(registry.model_names.after("")) == sorted(registry.models)


def claims_are_mutual(world: "World") -> None:
    claims = world.board._residency._claims._claimed
    registry = world.board.registry
    living = {key: node for key, node in claims.items() if registry.nodes.get(node.identity) is node}
    for key, node in living.items():
        assert node.claim is not None and node.claim.key == key, f"{node.name} does not know that it is {key}'s"
    claimed = [node for node in registry.nodes.values() if node.claim is not None]
    assert len(claimed) == len(living), "a node is claimed for nobody"


def watches_are_bounded(world: "World") -> None:
    """Every ready container is looked at when its idle time is over; those that have gone are forgotten in the end."""
    registry = world.board.registry
    due = world.board._reclaim._due
    watched = Counter(container_id for _, container_id in due)
    for container in registry.containers.values():
        if container.state is State.READY:
            assert watched[container.id] == 1, f"{container.title} is watched {watched[container.id]} times"
    assert len(due) <= 2 * len(registry.containers) + WATCHED_MAX, f"{len(due)} watches"


def replacers_know_the_ready(world: "World") -> None:
    """What a policy does not know it never names, and what has left it must forget."""
    for node in world.board.registry.nodes.values():
        ready = {container.id for container in node.containers.values() if container.state is State.READY}
        replacer = node.replacer.copy()
        named = set()
        while (victim := replacer.victim(ready - named)) is not None:
            named.add(victim)
        assert named == ready, f"{node.name}: the policy names {named} of {ready}"
        gone = {container.id for container in node.containers.values()} - ready
        assert node.replacer.copy().victim(gone) is None, f"{node.name}: the policy remembers who has left"


def accesses_are_of_their_groups(world: "World") -> None:
    registry = world.board.registry
    for group in registry.groups.values():
        assert group.accessed.keys() <= group.services.keys()
        assert group.recent.keys() <= group.services.keys()
        assert group.users == len(group.accessed.keys() | group.recent.keys()), f"{group.key}: {group.users} users"
    for service in registry.services.values():
        assert service.accessed == (service.id in service.group.accessed), f"{service.title}: the bit is wrong"
    remembered = world.board._lane_use._counted
    assert len(remembered) <= REMEMBERED_MAX + len(registry.containers) + 1
    for node in registry.nodes.values():
        assert len(node.ghosts) <= 1024


# What people were told.


def lanes_add_up(world: "World") -> None:
    world.lanes.check()


def usage_never_shrinks(world: "World") -> None:
    world.ledger.check(world.board)


def acknowledged_changes_hold(world: "World") -> None:
    registry = world.board.registry
    changing = world.operator.changing
    for title, tier in world.operator.tiers.items():
        if changing[title] <= 0:
            service = registry.find_service(*title)
            assert service is not None and service.tier == tier, f"{title} was acknowledged as {tier}"
    for service in registry.services.values():
        title = service.tenant, service.name
        assert title in world.operator.tiers or changing[title] > 0, f"{service.title} was made by nobody"


EVERY: Final[tuple[Callable[["World"], None], ...]] = (
    no_call_is_lost,
    calls_are_counted_where_they_are,
    calls_are_at_nodes_that_live,
    lines_hold_what_waits,
    books_equal_a_recount,
    memory_is_given_away_once,
    page_table_leads_to_the_ready,
    loads_are_shared,
    records_know_each_other,
    index_is_in_order,
    lists_are_in_order,
    claims_are_mutual,
    watches_are_bounded,
    replacers_know_the_ready,
    accesses_are_of_their_groups,
    lanes_add_up,
    usage_never_shrinks,
    acknowledged_changes_hold,
)
