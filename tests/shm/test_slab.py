import pytest
from tests.shm.slabs import CHUNK, make_slab

from huterox_shm.errors import LaneFull, LaneTooSmall
from huterox_shm.slab import Slab


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
    with pytest.raises(ValueError, match="no block that is out"):
        slab.release(offset)


def test_offset_inside_of_a_block_is_refused():
    slab, _ = make_slab()
    offset = slab.claim(1000)
    for wrong in (offset + 64, offset - 64, 0, -1, 1 << 70):
        with pytest.raises(ValueError, match="no block that is out"):
            slab.release(wrong)


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


def test_stats_count_whole_blocks():
    slab, _ = make_slab()
    slab.claim(100)
    slab.claim(10)
    slab.claim(0)
    assert slab.stats() == (16 * CHUNK, 3, 128 + 64 + 64, CHUNK, 8 * CHUNK)
    assert slab.stats().out_nbytes == 256


def test_block_that_an_entry_could_not_name_is_too_large():
    slab = Slab(0, 1 << 40)
    assert slab.nbytes_max == 2**32 - 1
    with pytest.raises(LaneTooSmall):
        slab.claim(1 << 32)
    first, second = slab.claim(2**32 - 1), slab.claim(2**32 - 1)
    assert abs(first - second) >= 2**32


def test_reserving_that_fails_in_any_way_loses_no_block():
    slab, pages = make_slab()

    def refuse(*_):
        raise KeyboardInterrupt

    slab._reserve = refuse
    for nbytes in (64, CHUNK, 16 * CHUNK):
        with pytest.raises(KeyboardInterrupt):
            slab.claim(nbytes)
    slab._reserve = pages.reserve
    assert slab.claim(16 * CHUNK) == slab.base


def test_pages_that_came_before_the_system_had_none_left_are_known_and_given_back():
    slab, pages = make_slab(chunks_max=16)
    blocks = [slab.claim(CHUNK) for _ in range(16)]
    slab.release(blocks[5])
    slab.trim()
    for offset in blocks[:5] + blocks[6:]:
        slab.release(offset)
    slab.trim()
    first = slab.claim(2 * CHUNK)
    slab.release(first)
    pages.chunks_max = 3
    with pytest.raises(LaneFull):
        slab.claim(8 * CHUNK)
    assert slab.stats().reserved_nbytes == len(pages.chunks) * CHUNK
    slab.trim()
    assert not pages.chunks


def test_claims_and_releases_of_the_hot_path_are_those_of_the_slab():
    """The lane pops and pushes `out` and `free` itself."""
    slab, _ = make_slab()
    offset = slab.claim(1000)
    order = slab.out.pop(offset)
    slab.free[order].append(offset)
    assert slab.claim(1000) == offset
    assert slab.free[0] is slab.free[6]  # one stack for all that is at most a line


@pytest.mark.parametrize(
    ("base", "nbytes", "chunk"), [(0, 0, 4096), (0, 5000, 4096), (1, 4096, 4096), (0, 64, 64), (0, 9000, 3000)]
)
def test_slab_of_an_odd_form_is_refused(base, nbytes, chunk):
    with pytest.raises(ValueError, match="slab"):
        Slab(base, nbytes, chunk_nbytes=chunk)
