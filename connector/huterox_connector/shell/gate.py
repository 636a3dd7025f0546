"""How many connections a socket takes, so that this process never runs out of descriptors.

Problem: libzmq takes every connection that comes to an ipc socket, and ends the process when there is no descriptor
for one. To end its listener would end the connections that came by it. Idea: near the limit the socket's path is
renamed. Nobody finds it then; whoever is connected stays, and whoever wants to be tries again, as ZeroMQ does.
Once others have left it has its name again. What was under way when it was hidden is taken; the reserve is for that,
and for what this process itself needs. A TCP socket has no path; libzmq bears its lack of descriptors.
"""

import logging
import resource
from pathlib import Path
from typing import Final

from huterox_connector.shell.paths import BoundPath

_log: Final = logging.getLogger(__name__)

RESERVE: Final = 256
"""Descriptors for files, for this process's own sockets, and for connections that come before the path is hidden."""

LEAVE: Final = 32
"""So many must be free again before the path is shown."""

_LOOK_EVERY: Final = 16
"""Connections that are taken before the descriptors are counted again."""

_DESCRIPTORS: Final = Path("/proc/self/fd")


def raise_limit() -> None:
    """Take as many descriptors as the system gives."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def descriptors_in_use() -> int:
    return sum(1 for _ in _DESCRIPTORS.iterdir()) - 1  # one is that of the listing


class Gate:
    """Hides a bound path while this process has too many descriptors open.

    Args:
        connections_max: beyond what is open now.
        share: of the reserve, what is left to this path: another may be closed earlier.
    """

    def __init__(self, path: BoundPath, connections_max: int, share: float = 1.0) -> None:
        self._path = path
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        reserve = int(min(RESERVE, soft // 4) * share)
        most = descriptors_in_use() + connections_max
        self._limit = most if soft == resource.RLIM_INFINITY else min(soft - reserve, most)
        self._counted = 0
        self._taken = 0  # connections since they were counted

    def taken(self, connections: int) -> None:
        """So many have come. Those that went do not matter until the descriptors are counted."""
        self._taken += connections
        if self._taken < _LOOK_EVERY and self._counted + self._taken < self._limit:
            return
        self._count()
        if self._counted >= self._limit and self._path.hide():
            _log.warning("%d descriptors are open: nobody new is let in until others have left", self._counted)

    def look(self) -> None:
        """Now and then: let others in again."""
        if not self._path.is_hidden:
            return
        self._count()
        if self._counted <= self._limit - LEAVE and self._path.show():
            _log.warning("%d descriptors are open: connections are taken again", self._counted)

    def _count(self) -> None:
        self._counted, self._taken = descriptors_in_use(), 0
