"""The sums of what containers hold on their nodes, kept as containers come, change and go.

Every change of a container's state or charge goes through here, so that a node's room is known without looking at its
containers, and the nodes with the most room without looking at the others.
"""

from typing import Final

from huterox_connector.core.lifecycle import State, Step
from huterox_connector.core.nodeindex import NodeIndex
from huterox_connector.core.records import Container, Node
from huterox_connector.core.registry import Registry
from huterox_connector.core.vectors import Amounts, Charge

_PRESENT: Final = frozenset({State.CREATING, State.READY, State.DRAINING, State.CLOSING})
_STAYING: Final = frozenset({State.PLANNED, State.CREATING, State.READY})


class Books:
    """Enters containers, moves them through their life, and takes them out again."""

    def __init__(self, registry: Registry, index: NodeIndex) -> None:
        self._registry = registry
        self._index = index
        self.version = 0  # larger after every change that may give room

    def changed(self) -> None:
        """Something has changed that gives room, though no sum has: a node was opened, a pin taken off."""
        self.version += 1

    def enter(self, container: Container) -> None:
        """A container was planned, or found."""
        self._registry.add_container(container)
        self._count(container, 1)

    def step(self, container: Container, step: Step, now_s: float) -> None:
        """Move it along the life cycle's table."""
        self._count(container, -1)
        container.step(step, now_s)
        self._count(container, 1)

    def settle(self, container: Container, charge: Charge) -> None:
        """It takes more or less than was counted until now."""
        self._count(container, -1)
        container.charge = charge
        self._count(container, 1)

    def leave(self, container: Container, now_s: float) -> None:
        """It is gone, and its memory is back."""
        self.step(container, Step.LOST, now_s)
        container.node.replacer.remove(container.id)
        self._registry.remove_container(container)

    def limit(self, node: Node, limit: Amounts) -> None:
        """A node may give more or less to containers than until now."""
        if node.limit != limit:
            self.version += 1
            node.limit = limit
            self._index.update(node)

    def _count(self, container: Container, sign: int) -> None:
        self.version += sign < 0  # something is taken out of the sums
        node, state, charge = container.node, container.state, container.charge
        for sum_, states in ((node.present, _PRESENT), (node.staying, _STAYING)):
            if state in states:
                if sign > 0:
                    sum_.add(charge)
                else:
                    sum_.remove(charge)
        if sign > 0:
            self._index.update(node)


def not_held(node: Node, told_s: float) -> Amounts:
    """What is counted as present and was not held at `told_s`, when its kernel told of all that it has.

    What is loading has not taken all yet; what the kernel does not tell of has gone, or has not come.
    """
    total = Amounts()
    for container in node.containers.values():
        charge = container.charge
        if container.seen_s < told_s and container.state in _PRESENT:
            total.add(Charge(0, charge.host_bytes, charge.device, charge.device_bytes))
        elif container.is_filling:
            host_bytes = max(0, charge.host_bytes - container.measured_host_bytes)
            device_bytes = max(0, charge.device_bytes - container.measured_device_bytes)
            total.add(Charge(0, host_bytes, charge.device, device_bytes))
    return total


def sums_of(node: Node) -> tuple[Amounts, Amounts]:
    """What is present and what stays, counted anew: for tests, which compare."""
    present, staying = Amounts(), Amounts()
    for container in node.containers.values():
        if container.state in _PRESENT:
            present.add(container.charge)
        if container.state in _STAYING:
            staying.add(container.charge)
    return present, staying
