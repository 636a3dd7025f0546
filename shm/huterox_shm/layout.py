"""The bytes of a lane: header, rings, halves. Declared here once, with pictures; everyone else imports the names.

    0        header page            4096 bytes
    4096     request ring           ring_entries x 64      written by the caller
    ...      reply ring             ring_entries x 64      written by the container
    ...      request half           blocks of the caller   (begins and ends at a multiple of 256 KiB)
    ...      reply half             blocks of the container

    entry: 64 bytes, little-endian, in its own cache line
     0 kind u8 | 1 flags u8 | 2 release_count u16 | 4 acked u32 | 8 call_id u64 | 16 offset u64
    24 nbytes u32 | 28 signature u32 | 32 deadline_us u64 | 40 released 3 x u64

    header page: u64 words, each writer on cache lines of its own
       0 magic | 1 version | 2 generation | 3 ring_entries | 4 request_half_nbytes | 5 reply_half_nbytes   written once
      16 state                                                                      written by who ends the lane
      32 calls_taken | 33 calls_done | 34 errors | 35 busy_us | 36 activity_us | 37 running_until
                                                                                   container (see `ledger`)
      40 begun | 41 pinned                                                                               container
      48 replies told                                                                                    container
      56 requests told                                                                                   caller

What is released are, in the request ring, offsets of reply blocks; in the reply ring, ids of calls whose request is no
longer needed.

Offsets count from the start of the segment, so an address never travels. All positions follow from three numbers
(`plan`), and an end keeps the plan that it checked once: what a peer writes into the header later moves nothing.
"""

import struct
from typing import Final, NamedTuple, Protocol

from huterox_shm.errors import PeerProtocolError

PAGE_NBYTES: Final = 4096
ALIGNMENT: Final = 64
CHUNK_NBYTES: Final = 256 * 1024
"""Pages are reserved and given back in multiples of this; the halves are multiples of it."""

# --- entry -----------------------------------------------------------------------------------------------------------

ENTRY: Final = struct.Struct("<BBHIQQIIQQQQ")
ENTRY_NBYTES: Final = 64
ENTRY_SHIFT: Final = 6
assert ENTRY.size == ENTRY_NBYTES == 1 << ENTRY_SHIFT

CALL: Final = 1
CANCEL: Final = 2
RELEASE: Final = 3
REPLY: Final = 4
ERROR: Final = 5
PART: Final = 6

REQUEST_RELEASED: Final = 1
"""Flag of a final reply: the call's request block is free again."""
STREAM: Final = 2
"""Flag of a call: its answer may come in parts."""
DEFINES: Final = 4
"""Flag of a CALL or PART that is none: its block tells what its signature stands for from now on. See `lane`."""
INDIRECT: Final = 8
"""Flag of a call: its block holds references to blocks. See `lane`."""

RELEASES_MAX: Final = 3
RELEASES_ONLY_MAX: Final = 6
"""Releases in an entry of kind RELEASE, which uses other fields for them too: call_id, offset, deadline_us."""

BLOCK_NBYTES_MAX: Final = 0xFFFF_FFFF

ACKED_MASK: Final = 0xFFFF_FFFF

# --- header ----------------------------------------------------------------------------------------------------------

MAGIC: Final = 0x3130454E414C5848  # "HXLANE01", little-endian
VERSION: Final = 1
HEADER_WORDS: Final = PAGE_NBYTES // 8

STATE: Final = 16
OPEN: Final = 1
DRAINING: Final = 2
DEAD: Final = 3

COUNTERS: Final = slice(32, 38)
"""Where the header counts; the same words in the same order may lie elsewhere (see `ledger`)."""
CALLS_TAKEN: Final = 0
CALLS_DONE: Final = 1
ERRORS: Final = 2
BUSY_US: Final = 3
ACTIVITY_US: Final = 4
RUNNING_UNTIL: Final = 5
"""The deadline of the call that runs, in microseconds; NO_END where it has none, 0 where none runs."""
NO_END: Final = (1 << 64) - 1

BEGUN: Final = 40
"""The highest id of a call that the container has begun. Calls are begun in the order of their ids."""
REPLIES_TOLD: Final = 48
REQUESTS_TOLD: Final = 56
"""Change after each ring of that doorbell: a hint for who looks before it sleeps, and nothing more. Each has a cache
line of its own, for the other side may be reading it without end."""
PINNED: Final = 41
"""Not zero: a device reads these pages, so none of them may go back to the system."""

RING_ENTRIES_MIN: Final = 128
RING_ENTRIES_MAX: Final = 65536
HALF_NBYTES_MAX: Final = 1 << 40


class Words(Protocol):
    """The header page as u64 words: a cast memoryview, or in tests a list. Each access is one aligned load or store."""

    def __getitem__(self, index: int, /) -> int: ...
    def __setitem__(self, index: int, value: int, /) -> None: ...


class LaneLayout(NamedTuple):
    """Where everything lies in a segment. Bytes; offsets from its start."""

    ring_entries: int
    request_ring: int
    reply_ring: int
    request_half: int
    request_half_nbytes: int
    reply_half: int
    reply_half_nbytes: int
    segment_nbytes: int

    @property
    def rings_end(self) -> int:
        """End of header and rings: what must have pages from the start."""
        return self.reply_ring + (self.ring_entries << ENTRY_SHIFT)


class LaneCounters(NamedTuple):
    """What a container says of a lane, now. `activity_us` is on CLOCK_MONOTONIC, 0 before the first call."""

    calls_taken: int
    calls_done: int
    errors: int
    busy_us: int
    activity_us: int


def plan(ring_entries: int, request_half_nbytes: int, reply_half_nbytes: int) -> LaneLayout:
    """Lay out a segment; the halves are rounded up to whole chunks.

    Raises:
        ValueError: ring_entries is no power of two from 128 to 65536, or a half is empty or over 1 TiB.
    """
    if not RING_ENTRIES_MIN <= ring_entries <= RING_ENTRIES_MAX or ring_entries & (ring_entries - 1):
        raise ValueError(
            f"ring_entries is {ring_entries}; it must be a power of two from {RING_ENTRIES_MIN} to {RING_ENTRIES_MAX}"
        )
    for nbytes in (request_half_nbytes, reply_half_nbytes):
        if not 0 < nbytes <= HALF_NBYTES_MAX:
            raise ValueError(f"a half of {nbytes} bytes; it must have 1 to {HALF_NBYTES_MAX}")
    request_nbytes = _whole_chunks(request_half_nbytes)
    reply_nbytes = _whole_chunks(reply_half_nbytes)
    reply_ring = PAGE_NBYTES + (ring_entries << ENTRY_SHIFT)
    request_half = _whole_chunks(reply_ring + (ring_entries << ENTRY_SHIFT))
    reply_half = request_half + request_nbytes
    return LaneLayout(
        ring_entries,
        PAGE_NBYTES,
        reply_ring,
        request_half,
        request_nbytes,
        reply_half,
        reply_nbytes,
        reply_half + reply_nbytes,
    )


def _whole_chunks(nbytes: int) -> int:
    return -(-nbytes // CHUNK_NBYTES) * CHUNK_NBYTES


def write_header(words: Words, layout: LaneLayout, generation: int) -> None:
    """Fill in the header of a fresh (zeroed) segment, state OPEN."""
    words[1] = VERSION
    words[2] = generation
    words[3] = layout.ring_entries
    words[4] = layout.request_half_nbytes
    words[5] = layout.reply_half_nbytes
    words[STATE] = OPEN
    words[0] = MAGIC


def read_header(words: Words, segment_nbytes: int) -> tuple[LaneLayout, int]:
    """Layout and generation of an existing segment, checked against its size.

    Raises:
        PeerProtocolError: this is no lane of this version, or its numbers do not fit its size.
    """
    magic, version, generation, ring_entries, request_half_nbytes, reply_half_nbytes = (
        words[index] for index in range(6)
    )
    if magic != MAGIC or version != VERSION:
        raise PeerProtocolError(f"no lane of version {VERSION}: magic 0x{magic:016x}, version {version}")
    try:
        layout = plan(ring_entries, request_half_nbytes, reply_half_nbytes)
    except ValueError as exc:
        raise PeerProtocolError(f"the lane's header makes no sense: {exc}") from exc
    if layout.segment_nbytes != segment_nbytes:
        raise PeerProtocolError(f"the header needs {layout.segment_nbytes} bytes, the segment has {segment_nbytes}")
    return layout, generation


def state_of(words: Words) -> int:
    """OPEN, DRAINING or DEAD; whatever else a peer may have written there is DEAD."""
    state = words[STATE]
    return state if state in (OPEN, DRAINING) else DEAD


def read_counters(words: Words) -> LaneCounters:
    """The counters that begin at the first of these words."""
    return LaneCounters(words[CALLS_TAKEN], words[CALLS_DONE], words[ERRORS], words[BUSY_US], words[ACTIVITY_US])
