"""What must hold when a platform has come to rest: nothing is under way, and nothing was left behind."""

from typing import TYPE_CHECKING

from huterox_connector.core.lifecycle import State
from huterox_connector.core.vectors import MIB

if TYPE_CHECKING:
    from tests.simulation.world import World

LEAVES_IN_S = 3.5
"""Who was idle for too long leaves at any time, and takes no longer than that."""


def check_at_rest(world: "World") -> None:
    everything_has_ended(world)
    both_sides_agree(world)
    lanes_are_of_living_services(world)
    sums_are_what_is_held(world)
    nothing_is_left_behind(world)


def everything_has_ended(world: "World") -> None:
    board = world.board
    assert not world.callers.open, f"{len(world.callers.open)} calls have no end"
    assert not world.lanes.leases, f"{len(world.lanes.leases)} leases have no end"
    assert (len(board.calls), len(board._faults), len(board._questions)) == (0, 0, 0)
    assert (board.calls._nbytes, board._faults._nbytes, len(board.calls._of_caller)) == (0, 0, 0)
    assert not len(board._residency._claims), "a node is claimed, and nobody waits"
    assert board._admin._pending is None and not board._admin._queue, "a change has no end"
    for container in board.registry.containers.values():
        since_s = world.now_s - float(container.history[-1].rpartition(" ")[2]) if container.history else LEAVES_IN_S
        leaves = container.state in (State.DRAINING, State.CLOSING) and since_s < LEAVES_IN_S
        assert container.state is State.READY or leaves, f"{container.title} is {container.state}: {container.history}"
        assert (container.in_flight, container.borrowed) == (0, 0)


def both_sides_agree(world: "World") -> None:
    """The switchboard knows what runs, and nothing else."""
    registry = world.board.registry
    living = {kernel.identity: kernel for kernel in world.kernels.living()}
    assert set(registry.nodes) == set(living), "not all kernels are registered"
    for identity, kernel in living.items():
        known, there = set(registry.nodes[identity].containers), set(kernel.containers)
        assert known == there, f"{kernel.name} runs {there}, and is known to run {known}"


def lanes_are_of_living_services(world: "World") -> None:
    for lane in world.lanes.all:
        known = lane.handle in world.board.registry.services
        assert known or lane.container.state != "ready", f"a lane of {lane.handle} goes on, which is no more"


def sums_are_what_is_held(world: "World") -> None:
    """All that a node holds is charged once: to a container, or to the node."""
    for kernel in world.kernels.living():
        node = world.board.registry.nodes[kernel.identity]
        if any(container.state != "ready" for container in kernel.containers.values()):
            continue
        held_mb = kernel.host_mb + kernel.spare_mb - kernel.free(world.now_s)[""]
        charged_mb = (node.present.host_bytes + node.base_bytes) // MIB
        assert charged_mb == held_mb, f"{kernel.name} holds {held_mb} MiB, {charged_mb} are charged"


def nothing_is_left_behind(world: "World") -> None:
    registry = world.board.registry
    for group in registry.groups.values():
        assert group.services, f"{group.key} has no service, and {len(group.ready)} containers"
        assert not group.waiting
    for model in registry.models.values():
        assert set(model.containers) == {c.id for c in registry.containers.values() if c.model is model}
    for service in registry.services.values():
        assert service.in_flight == 0
