"""Messages off the hot path wait here for a moment, one line for each peer, and are worked off in turns.

Problem: a message that the core must think about takes a hundred times as long as a hit. Idea: what is read is put into
its peer's line; between two looks at the sockets some are worked off, one of each peer after the other. So a hit waits
for one such message, not for a flood of them, and a peer waits for one message of each other. Full: the peer's next
message is refused.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any

from huterox_connector.handlers.pipeline import Inbound


class Turns:
    """The lines of all peers.

    Args:
        messages_max: of one peer.
        nbytes_max: of all peers. Nobody may have more than is left for the others.
    """

    def __init__(self, messages_max: int, nbytes_max: int) -> None:
        self._messages_max = messages_max
        self._nbytes_max = nbytes_max
        self._lines: dict[bytes, deque[tuple[Inbound, int]]] = {}  # whose turn it is comes first
        self._nbytes_of: dict[bytes, int] = {}
        self._nbytes = 0

    def __len__(self) -> int:
        """How many peers wait."""
        return len(self._lines)

    def put(self, peer: bytes, frames: Sequence[Any], now_s: float) -> bool:
        """The last in its peer's line. False: that is full, and nothing was done."""
        nbytes = sum(map(len, frames))
        line, own = self._lines.get(peer), self._nbytes_of.get(peer, 0)
        if line is None:
            line = self._lines[peer] = deque()
        elif len(line) >= self._messages_max or self._nbytes + own + nbytes > self._nbytes_max:
            return False
        line.append((Inbound(peer, frames, now_s), nbytes))
        self._nbytes_of[peer] = own + nbytes
        self._nbytes += nbytes
        return True

    def next(self) -> Inbound:
        """Take out the message whose turn it is. There must be one."""
        peer, line = next(iter(self._lines.items()))
        message, nbytes = line.popleft()
        del self._lines[peer]
        self._nbytes -= nbytes
        if line:
            self._lines[peer] = line
            self._nbytes_of[peer] -= nbytes
        else:
            del self._nbytes_of[peer]
        return message
