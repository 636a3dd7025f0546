"""The slab against a model of plain intervals, over memory whose pages run out."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.shm.slabs import CHUNK, check_partition, make_slab

from huterox_shm.errors import LaneFull, LaneTooSmall
from huterox_shm.slab import ORDER_MIN


class SlabMachine(RuleBasedStateMachine):
    @initialize(chunks=st.integers(1, 40), chunks_max=st.integers(0, 40), base=st.sampled_from([0, 3, 1 << 20]))
    def make(self, chunks, chunks_max, base):
        self.slab, self.pages = make_slab(chunks * CHUNK, base * CHUNK, chunks_max)
        self.sizes = {}

    def claim_one(self, nbytes):
        before, pages_before = self.slab.stats(), len(self.pages.chunks)
        try:
            offset = self.slab.claim(nbytes)
        except LaneTooSmall:
            assert nbytes > self.slab.nbytes_max
            return
        except LaneFull:
            after = self.slab.stats()
            assert after[:3] == before[:3]
            assert len(self.pages.chunks) >= pages_before
            if len(self.pages.chunks) == pages_before and self.pages.chunks_max >= self.slab.nbytes // CHUNK:
                # Pages are no reason: so there is indeed no free block, however buddies are joined.
                assert not self.could_fit(nbytes)
            return
        assert offset not in self.sizes
        self.sizes[offset] = max(nbytes, 1)

    def could_fit(self, nbytes):
        """Is there an aligned span of that order without a block that is out?"""
        slab, size = self.slab, 1 << max((nbytes - 1).bit_length(), ORDER_MIN)
        used = set()
        for offset, order in slab.out.items():
            first = (offset - slab.base) // size
            used.update(range(first, (offset - slab.base + (1 << max(order, ORDER_MIN)) - 1) // size + 1))
        at = 0
        for order in range(slab.nbytes.bit_length() - 1, ORDER_MIN - 1, -1):  # the roots
            if slab.nbytes >> order & 1:
                if not used.issuperset(range(at // size, (at + (1 << order)) // size)):
                    return True
                at += 1 << order
        return False

    @rule(nbytes=st.one_of(st.integers(0, 300), st.integers(0, 9 * CHUNK), st.integers(0, 50 * CHUNK)))
    def claim(self, nbytes):
        self.claim_one(nbytes)

    @rule(nbytes=st.sampled_from([1, 64, 200, 1000, CHUNK]), count=st.integers(2, 80))
    def claim_many(self, nbytes, count):
        for _ in range(count):
            self.claim_one(nbytes)

    @precondition(lambda self: self.sizes)
    @rule(data=st.data())
    def release(self, data):
        offset = data.draw(st.sampled_from(sorted(self.sizes)))
        self.slab.release(offset)
        del self.sizes[offset]

    @rule(data=st.data(), part=st.floats(0.3, 1.0))
    def release_many(self, data, part):
        order = data.draw(st.randoms(use_true_random=False))
        offsets = sorted(self.sizes)
        order.shuffle(offsets)
        for offset in offsets[: int(len(offsets) * part)]:
            self.slab.release(offset)
            del self.sizes[offset]

    @rule(offset=st.integers(0, 40 * CHUNK))
    def release_what_is_not_out(self, offset):
        if offset not in self.sizes:
            try:
                self.slab.release(offset)
            except ValueError as exc:
                assert "begins at" in str(exc)
            else:
                raise AssertionError(f"released {offset}, which is not out")

    @rule(chunks_max=st.integers(0, 40))
    def system_has_other_memory(self, chunks_max):
        self.pages.chunks_max = chunks_max

    @rule()
    def trim(self):
        before = len(self.pages.chunks)
        assert self.slab.trim() == (before - len(self.pages.chunks)) * CHUNK
        touched = {
            chunk
            for offset, order in self.slab.out.items()
            for chunk in range(offset // CHUNK, (offset + (1 << max(order, ORDER_MIN)) - 1) // CHUNK + 1)
        }
        assert self.pages.chunks <= touched  # none is left under what is wholly free

    @invariant()
    def blocks_lie_inside_aligned_apart_and_on_pages(self):
        check_partition(self.slab)
        end = self.slab.base
        for offset, nbytes in sorted(self.sizes.items()):
            assert offset % 64 == 0
            assert offset >= end
            end = offset + nbytes
            assert set(range(offset // CHUNK, (end - 1) // CHUNK + 1)) <= self.pages.chunks
        assert end <= self.slab.base + self.slab.nbytes

    @invariant()
    def small_free_blocks_have_pages(self):
        for order in range(ORDER_MIN, CHUNK.bit_length() - 1):
            assert {offset // CHUNK for offset in self.slab.free[order]} <= self.pages.chunks

    @invariant()
    def stats_agree_with_the_model(self):
        stats = self.slab.stats()
        assert stats.out_count == len(self.sizes)
        assert stats.reserved_nbytes == len(self.pages.chunks) * CHUNK
        assert stats.out_nbytes >= sum(self.sizes.values())

    def teardown(self):
        if not hasattr(self, "slab"):
            return
        for offset in self.sizes:
            self.slab.release(offset)
        self.slab.trim()
        assert not self.pages.chunks
        assert not self.slab.out
        self.pages.chunks_max = 1 << 30
        assert self.slab.claim(self.slab.nbytes_max) == self.slab.base


SlabMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=60)
test_slab_agrees_with_an_interval_model = SlabMachine.TestCase
