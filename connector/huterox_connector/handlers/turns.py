"""Messages off the hot path wait here for a moment, one line for each peer, and are worked off in turns.

Problem: a message that the core must think about takes a hundred times as long as a hit. Idea: what is read is put into
its peer's line; between two looks at the sockets some are worked off, one of each peer after the other. So a hit waits
for one such message, not for a flood of them, and a peer waits for one message of each other. Who had nothing in line
comes first: who sends now and then does not wait for those who send without end, and these can be left waiting while
others have something to do. Full: the peer's next message is refused.

Source: Hoeiland-Joergensen 2018, "The Flow Queue CoDel Packet Scheduler" (RFC 8290), new flows before old ones.
"""

from collections import deque
from collections.abc import Container, Sequence
from typing import Any

from huterox_connector.handlers.pipeline import Inbound

_Lines = dict[bytes, deque[tuple[Inbound, int]]]


class Turns:
    """The lines of all peers.

    Args:
        messages_max: of one peer.
        nbytes_max: of all peers. Nobody may have more than is left for the others.
    """

    def __init__(self, messages_max: int, nbytes_max: int) -> None:
        self._messages_max = messages_max
        self._nbytes_max = nbytes_max
        self._fresh: _Lines = {}  # whose first message has not had its turn; whose turn it is comes first
        self._behind: _Lines = {}  # who had more in line when one of his had its turn; the same
        self._nbytes_of: dict[bytes, int] = {}
        self._nbytes = 0

    def __len__(self) -> int:
        """How many peers wait."""
        return len(self._fresh) + len(self._behind)

    @property
    def has_fresh(self) -> bool:
        """Is there a peer who had nothing in line before? The next turn is his."""
        return bool(self._fresh)

    @property
    def behind(self) -> Container[bytes]:
        """The peers who send faster than their turns come, as they are now and from now on."""
        return self._behind

    def put(self, peer: bytes, frames: Sequence[Any], now_s: float) -> bool:
        """The last in its peer's line. False: that is full, and nothing was done."""
        nbytes = sum(map(len, frames))
        line, own = self._behind.get(peer) or self._fresh.get(peer), self._nbytes_of.get(peer, 0)
        if line is None:
            line = self._fresh[peer] = deque()
        elif len(line) >= self._messages_max or self._nbytes + own + nbytes > self._nbytes_max:
            return False
        line.append((Inbound(peer, frames, now_s), nbytes))
        self._nbytes_of[peer] = own + nbytes
        self._nbytes += nbytes
        return True

    def next(self, now_s: float) -> Inbound:
        """Take out the message whose turn it is. There must be one."""
        lines = self._fresh or self._behind
        peer, line = next(iter(lines.items()))
        message, nbytes = line.popleft()
        del lines[peer]
        self._nbytes -= nbytes
        if line:
            self._behind[peer] = line
            self._nbytes_of[peer] -= nbytes
        else:
            del self._nbytes_of[peer]
        message.waited_s, message.now_s = now_s - message.now_s, now_s
        return message
