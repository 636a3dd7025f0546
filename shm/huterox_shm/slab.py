"""The allocator of one half: a binary buddy with lazy coalescing, private to the half's owner.

Problem: blocks of 64 bytes to hundreds of megabytes, claimed and released a hundred thousand times a second in Python,
in memory that another process reads. Idea: power-of-two blocks on one stack per order. A release only pushes, a claim
only pops; buddies are joined again no sooner than a claim finds no block, or on `trim`. Nothing of the allocator lies
in the shared memory, so a peer cannot damage it: all that a peer can do is name a block, and `out` knows whether that
one is out.

    order 6 (64 B)    [ | | ]           out:      offset -> order    claimed and not released
    order 7           [ ]
    ...               [ | ]             reserved: one byte per chunk of pages
    order n (root)    [ ]

Pages: the half is sparse. Before a block is handed out, the chunks that its bytes touch are reserved (`reserve` raises
LaneFull where the system has none); `trim` gives wholly free chunks back (`punch`). Power-of-two blocks therefore
waste addresses, not memory. Invariant: a free block smaller than a chunk lies in a reserved chunk; larger free blocks
may have pages or not, and are checked when claimed.

When full: LaneFull, nothing changed. It never moves a block and never waits.

Source: Knowlton 1965, "A fast storage allocator"; Barkley & Lee 1989, "A lazy buddy system bounded by two coalescing
delays per class" (the laziness, without its bounds: a claim that finds nothing pays for joining).
"""

from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from typing import Final, NamedTuple

from huterox_shm.errors import LaneFull, LaneTooSmall
from huterox_shm.layout import ALIGNMENT, BLOCK_NBYTES_MAX, CHUNK_NBYTES

ORDER_MIN: Final = ALIGNMENT.bit_length() - 1
SMALL_NBYTES_MAX: Final = CHUNK_NBYTES >> 1
"""A free block of at most this size has pages: who knows its order may pop it off `free` and enter it into `out`."""

_CHUNK_SIZES: Final = frozenset(1 << order for order in range(ORDER_MIN + 1, 41))


class SlabStats(NamedTuple):
    """A slab at one moment; sizes are those of whole blocks, in bytes."""

    nbytes: int
    out_count: int
    out_nbytes: int
    reserved_nbytes: int
    largest_free_nbytes: int


def _nothing(_offset: int, _nbytes: int) -> None:
    """Stands for reserve and punch where the memory is there anyway."""


class Slab:
    """Blocks of one half. Offsets are absolute: they begin at `base`.

    `out` and `free` are open to the lane's hot path, which does with them what `claim` and `release` do.
    """

    __slots__ = (
        "base",
        "free",
        "nbytes",
        "nbytes_max",
        "out",
        "_chunk_order",
        "_punch",
        "_reserve",
        "_reserved",
        "_small_nbytes",
    )

    def __init__(
        self,
        base: int,
        nbytes: int,
        reserve: Callable[[int, int], None] = _nothing,
        punch: Callable[[int, int], None] = _nothing,
        chunk_nbytes: int = CHUNK_NBYTES,
    ) -> None:
        """
        Args:
            base, nbytes: the half; nbytes is a multiple of chunk_nbytes, base of 64.
            reserve(offset, nbytes): gives pages to whole chunks, or raises LaneFull.
            punch(offset, nbytes): takes the pages of whole chunks away again.
            chunk_nbytes: a power of two, at least 128.
        """
        if nbytes <= 0 or nbytes % chunk_nbytes or base % ALIGNMENT or chunk_nbytes not in _CHUNK_SIZES:
            raise ValueError(f"a slab of {nbytes} bytes at {base} in chunks of {chunk_nbytes}")
        self.base = base
        self.nbytes = nbytes
        self.nbytes_max = min(1 << (nbytes.bit_length() - 1), BLOCK_NBYTES_MAX)  # an entry must be able to name it
        self.out: dict[int, int] = {}
        self._chunk_order = chunk_nbytes.bit_length() - 1
        self._small_nbytes = chunk_nbytes >> 1
        self._reserve = reserve
        self._punch = punch
        self._reserved = bytearray(nbytes // chunk_nbytes)
        smallest: list[int] = []  # orders 0 to 6 share one stack: a claim needs no lower bound
        self.free: list[list[int]] = [smallest] * (ORDER_MIN + 1)
        self.free += [[] for _ in range(ORDER_MIN, nbytes.bit_length() - 1)]
        self._push_roots()

    def _push_roots(self) -> None:
        """Cut the half into its largest powers of two: roots, which never join, as no root's buddy is a root."""
        offset = self.base
        for order in range(len(self.free) - 1, ORDER_MIN - 1, -1):
            if self.nbytes >> order & 1:
                self.free[order].append(offset)
                offset += 1 << order

    def claim(self, nbytes: int) -> int:
        """Hot path. Offset of a block of at least `nbytes` bytes, on a 64-byte boundary, with its pages reserved.

        Raises:
            LaneFull: no such block is free now, or the system has no pages for it.
            LaneTooSmall: no such block can ever be.
            ValueError: a negative size.
        """
        if 0 <= nbytes <= self._small_nbytes:
            order = (nbytes - 1).bit_length()
            stack = self.free[order]
            if stack:
                offset = stack.pop()
                self.out[offset] = order
                return offset
        return self._claim_rarely(nbytes)

    def release(self, offset: int) -> None:
        """Free a block.

        Raises:
            ValueError: no block that is out begins there: released twice, or never claimed.
        """
        order = self.out.pop(offset, None)
        if order is None:
            raise ValueError(f"no block that is out begins at {offset}")
        self.free[order].append(offset)

    def trim(self) -> int:
        """Give the pages of all wholly free chunks back to the system; returns how many bytes that were."""
        self._coalesce()
        punched = 0
        for order in range(self._chunk_order, len(self.free)):
            for offset in self.free[order]:
                punched += self._punch_block(offset, 1 << order)
        return punched

    def stats(self) -> SlabStats:
        """Count what is out, what has pages, and the largest block that is free without joining buddies."""
        free = [order for order in range(ORDER_MIN, len(self.free)) if self.free[order]]
        return SlabStats(
            self.nbytes,
            len(self.out),
            sum(1 << max(order, ORDER_MIN) for order in self.out.values()),
            self._reserved.count(1) << self._chunk_order,
            1 << free[-1] if free else 0,
        )

    def mend(self, living: Collection[int]) -> None:
        """Work out anew which blocks are free, after an exception has left a method half done.

        Args:
            living: offsets of the blocks that somebody still uses. Everything else is free.
        """
        for offset in list(self.out):
            if offset not in living:
                del self.out[offset]
        for stack in self.free:
            stack.clear()
        taken = sorted(self.out)
        offset = self.base
        for order in range(len(self.free) - 1, ORDER_MIN - 1, -1):
            if self.nbytes >> order & 1:
                self._free_between(offset, order, taken)
                offset += 1 << order

    def _free_between(self, offset: int, order: int, taken: Sequence[int]) -> None:
        """Of this block, free what `taken` leaves."""
        first = bisect_left(taken, offset)
        if first == len(taken) or taken[first] >= offset + (1 << order):
            self.free[order].append(offset)
        elif taken[first] != offset or max(self.out[offset], ORDER_MIN) < order:
            self._free_between(offset, order - 1, taken)
            self._free_between(offset + (1 << (order - 1)), order - 1, taken)

    def _claim_rarely(self, nbytes: int) -> int:
        """A claim that needs a large block, or a split, or is refused."""
        if nbytes < 0:
            raise ValueError(f"a block of {nbytes} bytes")
        if nbytes > self.nbytes_max:
            raise LaneTooSmall(nbytes, self.nbytes_max)
        order = max((nbytes - 1).bit_length(), ORDER_MIN)
        offset, have = self._pop(order)
        if have >= self._chunk_order:
            down_to = max(order, self._chunk_order)
            self._split(offset, have, down_to)
            have = down_to
            try:
                self._reserve_block(offset, nbytes or 1)
            except BaseException:
                self.free[have].append(offset)
                raise
        self._split(offset, have, order)
        self.out[offset] = order
        return offset

    def _pop(self, order: int) -> tuple[int, int]:
        """The smallest free block of at least `order`, joining buddies if it must: (offset, order)."""
        found = self._pop_no_join(order)
        if found is None and sum(len(self.free[o]) << o for o in range(ORDER_MIN, len(self.free))) >= 1 << order:
            self._coalesce()
            found = self._pop_no_join(order)
        if found is None:
            raise LaneFull(f"no block of {1 << order} bytes is free: {len(self.out)} are out")
        return found

    def _pop_no_join(self, order: int) -> tuple[int, int] | None:
        for have in range(order, len(self.free)):
            if self.free[have]:
                return self.free[have].pop(), have
        return None

    def _split(self, offset: int, have: int, want: int) -> None:
        """Halve the block until it has order `want`; the upper halves become free."""
        while have > want:
            have -= 1
            self.free[have].append(offset + (1 << have))

    def _coalesce(self) -> None:
        """Join free buddies, from the smallest order up."""
        for order in range(ORDER_MIN, len(self.free) - 1):
            stack = self.free[order]
            here = set(stack)
            uppers = {buddy for offset in stack if (buddy := self._buddy(offset, order)) > offset and buddy in here}
            if uppers:
                size = 1 << order
                self.free[order + 1].extend(upper - size for upper in uppers)
                stack[:] = [offset for offset in stack if offset not in uppers and offset + size not in uppers]

    def _buddy(self, offset: int, order: int) -> int:
        return ((offset - self.base) ^ (1 << order)) + self.base

    def _reserve_block(self, offset: int, nbytes: int) -> None:
        """Reserve those chunks under the first `nbytes` bytes of a block that have no pages yet."""
        reserved = self._reserved
        first = (offset - self.base) >> self._chunk_order
        end = ((offset - self.base + nbytes - 1) >> self._chunk_order) + 1
        start = reserved.find(0, first, end)
        while start >= 0:
            stop = reserved.find(1, start, end)
            stop = end if stop < 0 else stop
            count = stop - start
            self._reserve(self.base + (start << self._chunk_order), count << self._chunk_order)
            reserved[start:stop] = b"\x01" * count
            start = reserved.find(0, stop, end)

    def _punch_block(self, offset: int, nbytes: int) -> int:
        """Take the pages of a free block away; returns how many bytes had some."""
        reserved = self._reserved
        first = (offset - self.base) >> self._chunk_order
        end = first + (nbytes >> self._chunk_order)
        count = reserved.count(1, first, end)
        if count:
            self._punch(offset, nbytes)
            reserved[first:end] = bytes(end - first)
        return count << self._chunk_order
