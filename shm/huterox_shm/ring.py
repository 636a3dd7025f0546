"""One ring of a lane from both sides: who writes entries, who takes them, and how neither overruns the other.

Problem: two processes pass 64-byte entries through shared memory, in Python, which has no memory barriers, and neither
may trust the other. Idea: the producer writes entries, then tells how many through an eventfd; the kernel's counter is
both the number of entries published and the barrier. So no index lies in the shared memory, and nothing there can be
half-written when it is read.

    producer   |..acked....|....published, not acked....|....free....|      published - acked <= entries
    consumer   |....consumed....|...told by the doorbell...|

Flow control needs no shared word either: every entry tells in `acked` how many entries its sender has consumed from
the opposite ring, modulo 2^32. A producer never has more unacknowledged entries than the ring holds; and because some
kinds must always get through, the last places are kept for them:

    | calls ... entries - 64 | parts ... entries - 32 | cancels, releases ... entries - 8 | acknowledgements |

An acknowledgement (a RELEASE entry, perhaps without offsets) is due once a quarter of the opposite ring is consumed and
untold. At most five of them can be outstanding between two honest ends, so eight places are enough and neither side
waits for ever. No more calls are in flight than half the ring has places (`calls_max`): so beside all the final replies
that are due, more fits into the ring than a consumer may leave unacknowledged, and parts are never stuck behind them.

When full: LaneFull, nothing written. When the peer cheats (tells more than the ring holds, acknowledges what was never
published): PeerProtocolError. It does not look into entries beyond `acked`; the lane does.
"""

from collections.abc import Iterator
from typing import Any, Final

from huterox_shm.errors import LaneFull, PeerProtocolError
from huterox_shm.layout import (
    ACKED_MASK,
    ENTRY,
    ENTRY_SHIFT,
    RELEASE,
    RELEASES_ONLY_MAX,
)

CALL_HEADROOM: Final = 64
PART_HEADROOM: Final = 32
CONTROL_HEADROOM: Final = 8


def calls_max(entries: int) -> int:
    """How many calls may be in flight over rings of this length."""
    return entries >> 1


Entry = tuple[int, int, int, int, int, int, int, int, int, int, int, int]
"""kind, flags, release_count, acked, call_id, offset, nbytes, signature, deadline_us, released 0, 1, 2"""

_pack_into = ENTRY.pack_into
_iter_unpack = ENTRY.iter_unpack


class Consumer:
    """The reading side of a ring. `consumed` and `acknowledged` are running counts; `acknowledged` is set by the
    producer of the opposite ring when it tells `consumed` to the peer."""

    __slots__ = ("acknowledged", "buffer", "consumed", "_at", "_end", "_entries")

    def __init__(self, buffer: Any, at: int, entries: int) -> None:
        """
        Args:
            buffer: memory whose slices are copies: an mmap, a bytearray.
            at, entries: where the ring lies in it, and its length, a power of two.
        """
        self.consumed = 0
        self.acknowledged = 0
        self.buffer = buffer
        self._at = at
        self._entries = entries
        self._end = at + (entries << ENTRY_SHIFT)

    def take(self, count: int) -> Iterator[Entry]:
        """Hot path. The next `count` entries, which the doorbell has told, copied out; unchecked but for their number.

        Raises:
            PeerProtocolError: more than an honest producer can have published.
        """
        consumed = self.consumed
        entries = self._entries
        if consumed + count - self.acknowledged > entries:
            raise PeerProtocolError(f"{count} entries more, {consumed - self.acknowledged} of {entries} unacknowledged")
        self.consumed = consumed + count
        start = self._at + ((consumed & (entries - 1)) << ENTRY_SHIFT)
        end = start + (count << ENTRY_SHIFT)
        if end <= self._end:
            return _iter_unpack(self.buffer[start:end])
        over = end - self._end
        return _iter_unpack(self.buffer[start : self._end] + self.buffer[self._at : self._at + over])


class Producer:
    """The writing side of a ring.

    `published`, `flushed` (told through the doorbell) and `acked` are running counts. `pending` holds what the peer may
    have back (offsets or call ids: the ring does not care); it travels with the next entries. Appending to it is all
    that a garbage collector's callback does, so any thread may.

    An exception may come between any two steps here (an interrupt). An entry is published by one assignment; what it
    releases is in `pending` or in `_telling` all the time, and `mend` tells which of them counts.
    """

    __slots__ = (
        "acked",
        "buffer",
        "flushed",
        "pending",
        "published",
        "_at",
        "_entries",
        "_mask",
        "_opposite",
        "_telling",
        "_telling_at",
    )

    def __init__(self, buffer: Any, at: int, entries: int, opposite: Consumer) -> None:
        """
        Args:
            opposite: the consumer at this end, whose progress the entries acknowledge.
        """
        self.published = 0
        self.flushed = 0
        self.acked = 0
        self.pending: list[int] = []
        self.buffer = buffer
        self._at = at
        self._entries = entries
        self._mask = entries - 1
        self._opposite = opposite
        self._telling: list[int] = []  # what the entry that is being written releases
        self._telling_at = 0  # how many entries were published before that one

    def publish(
        self,
        kind: int,
        flags: int,
        call_id: int,
        offset: int,
        nbytes: int,
        signature: int,
        deadline_us: int,
        kept: int,
    ) -> None:
        """Hot path. Write the next entry; it is seen once its number has been told through the doorbell.

        Args:
            kept: how many places must stay free after it.
        Raises:
            LaneFull: they would not.
        """
        published = self.published
        if published - self.acked + kept >= self._entries:
            raise LaneFull(f"{published - self.acked} of {self._entries} ring entries are not yet acknowledged")
        opposite = self._opposite
        consumed = opposite.acknowledged = opposite.consumed
        count = second = first = third = 0
        if pending := self.pending:
            telling = self._telling
            self._telling_at = published
            count = 1
            first = pending[0]
            telling.append(first)
            del pending[0]  # from the front: others append meanwhile
            if pending:
                count = 2
                second = pending[0]
                telling.append(second)
                del pending[0]
                if pending:
                    count = 3
                    third = pending[0]
                    telling.append(third)
                    del pending[0]
        _pack_into(
            self.buffer,
            self._at + ((published & self._mask) << ENTRY_SHIFT),
            kind,
            flags,
            count,
            consumed & ACKED_MASK,
            call_id,
            offset,
            nbytes,
            signature,
            deadline_us,
            first,
            second,
            third,
        )
        self.published = published + 1
        if count:
            telling.clear()

    def publish_releases(self, kept: int) -> bool:
        """Write one RELEASE entry with up to six pending releases (or none: a mere acknowledgement), if it fits."""
        published = self.published
        if published - self.acked + kept >= self._entries:
            return False
        opposite = self._opposite
        consumed = opposite.acknowledged = opposite.consumed
        pending, telling = self.pending, self._telling
        self._telling_at = published
        while pending and len(telling) < RELEASES_ONLY_MAX:
            telling.append(pending[0])
            del pending[0]
        count = len(telling)
        r0, r1, r2, *more = telling + [0] * (RELEASES_ONLY_MAX - count)
        at = self._at + ((published & self._mask) << ENTRY_SHIFT)
        _pack_into(self.buffer, at, RELEASE, 0, count, consumed & ACKED_MASK, r0, r1, 0, 0, r2, *more)
        self.published = published + 1
        telling.clear()
        return True

    def mend(self) -> None:
        """After an exception has left a method half done: what was to be released and was not told is pending again."""
        if self.published == self._telling_at:
            for released in self._telling:
                if released not in self.pending:
                    self.pending.append(released)
        self._telling.clear()

    def on_acked(self, acked: int) -> None:
        """The peer says that it has consumed `acked` entries in all, modulo 2^32.

        Raises:
            PeerProtocolError: it takes back what it said before, or claims more than it was told of.
        """
        more = (acked - self.acked) & ACKED_MASK
        if more > self.flushed - self.acked:
            raise PeerProtocolError(
                f"acknowledged {acked}, which is not between {self.acked & ACKED_MASK} and {self.flushed & ACKED_MASK}"
            )
        self.acked += more
