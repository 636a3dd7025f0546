"""One name, one living kernel: a second one is refused, and waits until the first is lost.

It asks again with each heartbeat, for ever perhaps; so the journal is told of it once, and again in growing pauses.
"""

from typing import Final

from huterox_connector.core.effects import Command, Effect
from huterox_connector.core.journal import Journal
from huterox_connector.core.records import Node
from huterox_wire.kinds import Kind
from huterox_wire.meta import ErrorMeta

PAUSE_FIRST_S: Final = 60.0
PAUSE_MAX_S: Final = 3600.0


class Twins:
    """Refuses kernels whose name another one has. What it remembers is of nodes that are registered."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._told: dict[str, tuple[float, float]] = {}  # by name: when it is told again, and the pause then

    def refuse(self, identity: bytes, node: Node, now_s: float, *, who: str = "") -> list[Effect]:
        """A second kernel has come; `who` it is, where it says so. The first one is asked whether it lives."""
        reason = f"a kernel named {node.name!r} is alive, on {node.host}, pid {node.pid}; this one waits for its end"
        error = ErrorMeta("Conflict", reason, True, {"node": node.name})
        effects: list[Effect] = [
            Command(identity, Kind.ERROR, error),
            Command(node.identity, Kind.HEARTBEAT, None),  # unreachable where that process has ended
        ]
        due_s, pause_s = self._told.get(node.name, (now_s, PAUSE_FIRST_S))
        if not who or now_s < due_s:
            return effects
        self._told[node.name] = now_s + pause_s, min(2 * pause_s, PAUSE_MAX_S)
        told = f"a kernel of this name is alive; the one of {who} is kept waiting"
        return [self._journal.record("node.twin", node.name, told, now_s), *effects]

    def settled(self, node: Node) -> None:
        """A registered kernel is lost: whoever comes is no second one."""
        self._told.pop(node.name, None)
