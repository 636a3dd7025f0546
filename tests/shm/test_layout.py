import pytest

from huterox_shm.errors import PeerProtocolError
from huterox_shm.layout import (
    BEGUN,
    CHUNK_NBYTES,
    COUNTERS,
    DEAD,
    DRAINING,
    ENTRY,
    ENTRY_NBYTES,
    HEADER_WORDS,
    OPEN,
    PINNED,
    RELEASES_MAX,
    RELEASES_ONLY_MAX,
    STATE,
    LaneCounters,
    plan,
    read_counters,
    read_header,
    state_of,
    write_header,
)


def fresh_header(generation=7):
    layout = plan(1024, 1 << 20, 1 << 21)
    words = [0] * HEADER_WORDS
    write_header(words, layout, generation)
    return words, layout


def test_header_reads_back_what_was_written():
    words, layout = fresh_header()
    assert read_header(words, layout.segment_nbytes) == (layout, 7)
    assert state_of(words) == OPEN
    assert read_counters(words[COUNTERS]) == LaneCounters(0, 0, 0, 0, 0)
    assert (words[BEGUN], words[PINNED]) == (0, 0)


def test_parts_of_a_segment_follow_each_other_without_overlap():
    layout = plan(256, 1, 3 * CHUNK_NBYTES + 1)
    assert layout.request_ring == 4096
    assert layout.reply_ring == 4096 + 256 * 64
    assert layout.rings_end == layout.reply_ring + 256 * 64 <= layout.request_half
    assert layout.request_half % CHUNK_NBYTES == 0
    assert layout.request_half_nbytes == CHUNK_NBYTES
    assert layout.reply_half == layout.request_half + CHUNK_NBYTES
    assert layout.reply_half_nbytes == 4 * CHUNK_NBYTES
    assert layout.segment_nbytes == layout.reply_half + 4 * CHUNK_NBYTES


@pytest.mark.parametrize("ring_entries", [0, 1, 64, 127, 129, 1000, 1 << 17, -128])
def test_ring_of_an_odd_length_is_refused(ring_entries):
    with pytest.raises(ValueError, match="power of two"):
        plan(ring_entries, 4096, 4096)


@pytest.mark.parametrize("nbytes", [0, -1, (1 << 40) + 1])
def test_half_of_an_odd_size_is_refused(nbytes):
    with pytest.raises(ValueError, match="half"):
        plan(128, nbytes, 4096)
    with pytest.raises(ValueError, match="half"):
        plan(128, 4096, nbytes)


@pytest.mark.parametrize(
    ("index", "value"),
    [(0, 0), (0, 1), (1, 2), (3, 0), (3, 100), (3, 2048), (3, 2**64 - 1), (4, 0), (4, 1 << 21), (5, 2**64 - 1)],
)
def test_header_that_does_not_fit_is_refused(index, value):
    words, layout = fresh_header()
    words[index] = value
    with pytest.raises(PeerProtocolError):
        read_header(words, layout.segment_nbytes)


def test_header_of_a_segment_of_another_size_is_refused():
    words, layout = fresh_header()
    with pytest.raises(PeerProtocolError, match="needs"):
        read_header(words, layout.segment_nbytes + 4096)


@pytest.mark.parametrize(("word", "state"), [(OPEN, OPEN), (DRAINING, DRAINING), (DEAD, DEAD), (0, DEAD), (99, DEAD)])
def test_unknown_state_counts_as_dead(word, state):
    words, _ = fresh_header()
    words[STATE] = word
    assert state_of(words) == state


def test_counters_are_read_from_the_first_of_their_words():
    assert read_counters([1, 2, 3, 4, 5, 6, 7, 8]) == LaneCounters(1, 2, 3, 4, 5)
    words, _ = fresh_header()
    words[COUNTERS] = [1, 2, 3, 4, 5]
    assert read_counters(words[COUNTERS]) == LaneCounters(1, 2, 3, 4, 5)


def test_words_of_different_writers_lie_in_different_cache_lines():
    written_once, ender = {index // 8 for index in range(6)}, {STATE // 8}
    container = {index // 8 for index in [*range(COUNTERS.start, COUNTERS.stop), BEGUN, PINNED]}
    assert not written_once & ender and not written_once & container and not ender & container


def test_entry_fills_its_line_and_has_room_for_its_releases():
    assert ENTRY.size == ENTRY_NBYTES == 64
    fields = len(ENTRY.unpack(bytes(64)))
    assert (fields, RELEASES_MAX, RELEASES_ONLY_MAX) == (12, 3, 6)
    largest = (255, 255, 65535, 2**32 - 1, 2**64 - 1, 2**64 - 1, 2**32 - 1, 2**32 - 1, *[2**64 - 1] * 4)
    assert ENTRY.unpack(ENTRY.pack(*largest)) == largest
    assert ENTRY.pack(1, 0, 0, 0, 0x0102, *[0] * 7)[8:10] == b"\x02\x01"
