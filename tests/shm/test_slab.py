import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from huterox_shm.errors import LaneFull, LaneTooSmall
from huterox_shm.slab import Slab

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


def claim_all(slab, nbytes):
    offsets = []
    with pytest.raises(LaneFull):
        while True:
            offsets.append(slab.claim(nbytes))
    return offsets


def test_whole_slab_is_one_block_again_after_every_block_came_back():
    slab, _ = make_slab()
    for offset in claim_all(slab, 64):
        slab.release(offset)
    assert slab.claim(slab.nbytes_max) == slab.base


@pytest.mark.parametrize("nbytes", [0, 1, 63, 64, 65, 1000, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_blocks_of_one_size_fill_the_slab_without_overlap(nbytes):
    slab, _ = make_slab()
    offsets = claim_all(slab, nbytes)
    size = max(64, 1 << max(nbytes - 1, 0).bit_length())
    assert len(offsets) == slab.nbytes // size
    assert sorted(offsets) == list(range(slab.base, slab.base + slab.nbytes, size))


def test_block_released_twice_is_refused():
    slab, _ = make_slab()
    offset = slab.claim(100)
    slab.release(offset)
    with pytest.raises(ValueError, match="no claimed block"):
        slab.release(offset)


def test_offset_inside_of_a_block_is_refused():
    slab, _ = make_slab()
    offset = slab.claim(1000)
    for wrong in (offset + 64, offset - 64, 0, -1, 1 << 70):
        with pytest.raises(ValueError, match="no claimed block"):
            slab.release(wrong)


def test_lent_block_comes_back_from_the_peer_only():
    slab, _ = make_slab()
    offset = slab.claim(100)
    with pytest.raises(ValueError, match="no lent block"):
        slab.take_back(offset)
    slab.lend(offset)
    with pytest.raises(ValueError, match="no claimed block"):
        slab.release(offset)
    with pytest.raises(ValueError, match="no claimed block"):
        slab.lend(offset)
    slab.take_back(offset)
    with pytest.raises(ValueError, match="no lent block"):
        slab.take_back(offset)


def test_size_that_can_never_fit_is_refused_with_the_limit():
    slab, _ = make_slab(nbytes=12 * CHUNK)
    assert slab.nbytes_max == 8 * CHUNK
    with pytest.raises(LaneTooSmall) as refused:
        slab.claim(8 * CHUNK + 1)
    assert (refused.value.need, refused.value.limit) == (8 * CHUNK + 1, 8 * CHUNK)
    assert slab.claim(8 * CHUNK) == slab.base


def test_negative_size_is_refused():
    slab, _ = make_slab()
    with pytest.raises(ValueError, match="-1"):
        slab.claim(-1)


def test_block_that_has_no_pages_is_refused_and_stays_free():
    slab, pages = make_slab(chunks_max=2)
    with pytest.raises(LaneFull):
        slab.claim(3 * CHUNK)
    assert not pages.chunks
    first = slab.claim(2 * CHUNK)
    with pytest.raises(LaneFull):
        slab.claim(64)
    slab.release(first)
    pages.chunks_max = 16
    assert len(claim_all(slab, CHUNK)) == 16


def test_only_touched_chunks_have_pages_when_a_block_is_larger_than_asked():
    slab, pages = make_slab()
    slab.claim(5 * CHUNK)
    assert len(pages.chunks) == 5
    assert slab.stats().reserved_nbytes == 5 * CHUNK


def test_larger_claim_of_a_used_block_reserves_what_it_lacks():
    slab, pages = make_slab()
    first = slab.claim(5 * CHUNK)
    slab.release(first)
    assert slab.claim(8 * CHUNK) == first
    assert len(pages.chunks) == 8


def test_trim_gives_back_all_pages_when_nothing_is_out():
    slab, pages = make_slab()
    offsets = [slab.claim(nbytes) for nbytes in (64, 100, CHUNK, 3 * CHUNK)]
    for offset in offsets:
        slab.release(offset)
    reserved = len(pages.chunks) * CHUNK
    assert slab.trim() == reserved
    assert not pages.chunks
    assert slab.stats().reserved_nbytes == 0
    assert slab.trim() == 0


def test_trim_leaves_pages_under_blocks_that_are_out():
    slab, pages = make_slab()
    kept = slab.claim(64)
    slab.release(slab.claim(8 * CHUNK))
    slab.trim()
    assert pages.chunks == {kept // CHUNK}


def test_small_claim_after_trim_has_pages_again():
    slab, pages = make_slab()
    for offset in claim_all(slab, 64):
        slab.release(offset)
    slab.trim()
    offset = slab.claim(64)
    assert offset // CHUNK in pages.chunks


def test_stats_count_blocks_by_who_has_them():
    slab, _ = make_slab()
    slab.claim(100)
    slab.lend(slab.claim(10))
    stats = slab.stats()
    assert (stats.claimed_count, stats.claimed_nbytes, stats.lent_count, stats.lent_nbytes) == (1, 128, 1, 64)
    assert stats.nbytes == 16 * CHUNK
    assert stats.largest_free_nbytes == 8 * CHUNK


@pytest.mark.parametrize(
    ("base", "nbytes", "chunk"), [(0, 0, 4096), (0, 5000, 4096), (1, 4096, 4096), (0, 64, 64), (0, 9000, 3000)]
)
def test_slab_of_an_odd_form_is_refused(base, nbytes, chunk):
    with pytest.raises(ValueError, match="slab"):
        Slab(base, nbytes, chunk_nbytes=chunk)


class SlabMachine(RuleBasedStateMachine):
    """The slab against a model of plain intervals, over memory whose pages run out."""

    blocks = Bundle("blocks")
    lent = Bundle("lent")

    @initialize(chunks=st.integers(1, 24), chunks_max=st.integers(0, 24))
    def make(self, chunks, chunks_max):
        self.slab, self.pages = make_slab(chunks * CHUNK, chunks_max=chunks_max)
        self.sizes = {}

    @rule(target=blocks, nbytes=st.one_of(st.integers(0, 300), st.integers(0, 9 * CHUNK)))
    def claim(self, nbytes):
        before = self.slab.stats()
        try:
            offset = self.slab.claim(nbytes)
        except (LaneFull, LaneTooSmall):
            after = self.slab.stats()
            assert before[:5] == after[:5]
            return multiple()
        assert offset not in self.sizes
        self.sizes[offset] = max(nbytes, 1)
        return offset

    @rule(offset=consumes(blocks))
    def release(self, offset):
        self.slab.release(offset)
        del self.sizes[offset]

    @rule(target=lent, offset=consumes(blocks))
    def lend(self, offset):
        self.slab.lend(offset)
        return offset

    @rule(offset=consumes(lent))
    def take_back(self, offset):
        self.slab.take_back(offset)
        del self.sizes[offset]

    @rule(offset=st.integers(0, 40 * CHUNK))
    def release_what_is_not_out(self, offset):
        if offset not in self.sizes:
            for refuse in (self.slab.release, self.slab.take_back, self.slab.lend):
                with pytest.raises(ValueError, match="begins at"):
                    refuse(offset)

    @rule()
    def trim(self):
        before = len(self.pages.chunks)
        assert self.slab.trim() == (before - len(self.pages.chunks)) * CHUNK

    @invariant()
    def blocks_lie_inside_aligned_apart_and_on_pages(self):
        end = self.slab.base
        for offset, nbytes in sorted(self.sizes.items()):
            assert offset % 64 == 0
            assert offset >= end
            end = offset + nbytes
            assert set(range(offset // CHUNK, (end - 1) // CHUNK + 1)) <= self.pages.chunks
        assert end <= self.slab.base + self.slab.nbytes

    @invariant()
    def stats_agree_with_the_model(self):
        stats = self.slab.stats()
        assert stats.claimed_count + stats.lent_count == len(self.sizes)
        assert stats.reserved_nbytes == len(self.pages.chunks) * CHUNK

    def teardown(self):
        for offset in self.sizes:
            (self.slab.release if offset in self.slab.claimed else self.slab.take_back)(offset)
        self.slab.trim()
        assert not self.pages.chunks
        self.pages.chunks_max = 1 << 30
        assert self.slab.claim(self.slab.nbytes_max) == self.slab.base


SlabMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
test_slab_agrees_with_an_interval_model = SlabMachine.TestCase
