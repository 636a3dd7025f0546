"""A small slab, and the pages under it."""

from huterox_shm.errors import LaneFull
from huterox_shm.slab import ORDER_MIN, Slab

CHUNK = 4096


class Pages:
    """What the operating system would know: which chunks have pages; refuses beyond `chunks_max`."""

    def __init__(self, chunks_max=1 << 30):
        self.chunks = set()
        self.chunks_max = chunks_max

    def reserve(self, offset, nbytes):
        more = self._span(offset, nbytes) - self.chunks
        if len(self.chunks) + len(more) > self.chunks_max:
            raise LaneFull("no pages")
        self.chunks |= more

    def punch(self, offset, nbytes):
        self.chunks -= self._span(offset, nbytes)

    def _span(self, offset, nbytes):
        assert offset % CHUNK == 0 and nbytes % CHUNK == 0 and nbytes > 0
        return set(range(offset // CHUNK, (offset + nbytes) // CHUNK))


def make_slab(nbytes=16 * CHUNK, base=3 * CHUNK, chunks_max=1 << 30):
    pages = Pages(chunks_max)
    return Slab(base, nbytes, pages.reserve, pages.punch, CHUNK), pages


def check_partition(slab):
    """Every byte is in exactly one block, out or free, and blocks lie where buddies can be found."""
    blocks = [(offset, max(order, ORDER_MIN)) for offset, order in slab.out.items()]
    blocks += [(offset, order) for order in range(ORDER_MIN, len(slab.free)) for offset in slab.free[order]]
    at = slab.base
    for offset, order in sorted(blocks):
        assert offset == at
        assert not (offset - slab.base) % (1 << order)
        at += 1 << order
    assert at == slab.base + slab.nbytes
