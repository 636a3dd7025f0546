"""How many connections a socket takes, so that this process never runs out of descriptors.

Problem: libzmq takes every connection that comes to an ipc socket, and ends the process when there is no descriptor
for one. To end its listener would end the connections that came by it. Idea: near the limit the socket's path is
renamed. Nobody finds it then; whoever is connected stays, and whoever wants to be tries again, as ZeroMQ does.
Once others have left it has its name again. What was under way when it was hidden is taken; the reserve is for that,
and for what this process itself needs. A TCP socket has no path, and no bound; libzmq bears it when descriptors
run out there, and the paths of others are hidden before that.
"""

import logging
import resource
import sys
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
    try:
        return sum(1 for _ in _DESCRIPTORS.iterdir()) - 1  # one is that of the listing
    except OSError:  # there is none left for it
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class Gate:
    """Hides a bound path while it has too many connections, or this process too many descriptors open.

    Args:
        connections_max: of this path.
        share: of the reserve, what is left to this path: another may be closed earlier.
    """

    def __init__(self, path: BoundPath, connections_max: int, share: float = 1.0) -> None:
        self._path = path
        self._connections_max = connections_max
        self._leave = max(1, min(LEAVE, connections_max // 8))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._limit = sys.maxsize if soft == resource.RLIM_INFINITY else soft - int(min(RESERVE, soft // 4) * share)
        self._connections = 0
        self._counted = 0  # descriptors
        self._taken = 0  # connections since they were counted

    def changed(self, came: int, went: int) -> None:
        """So many have come to this path, so many have left it."""
        self._connections += came - went
        self.beside(came)

    def beside(self, came: int) -> None:
        """So many have come to another one: they take descriptors, too."""
        self._taken += came
        if self._is_full() and self._path.hide():
            _log.warning(
                "%d connections, %d descriptors are open: nobody new is let in until others have left",
                self._connections,
                self._counted,
            )

    def _is_full(self) -> bool:
        """Those that went do not matter to the descriptors until these are counted."""
        if self._taken >= _LOOK_EVERY or self._counted + self._taken >= self._limit:
            self._count()
        return self._connections >= self._connections_max or self._counted >= self._limit

    def look(self) -> None:
        """Now and then: let others in again."""
        if not self._path.is_hidden:
            return
        self._count()
        if self._connections > self._connections_max - self._leave or self._counted > self._limit - LEAVE:
            return
        if self._path.show():
            _log.warning("%d descriptors are open: connections are taken again", self._counted)

    def close(self) -> None:
        self._path.close()

    def _count(self) -> None:
        self._counted, self._taken = descriptors_in_use(), 0
