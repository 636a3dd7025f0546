"""Lanes of two kinds, over a bytearray with counters as doorbells and over a real segment; what tests do with them."""

import os
from typing import NamedTuple

from huterox_shm.lane import (
    PART,
    REPLY,
    REQUEST_RELEASED,
    CallerEnd,
    ContainerEnd,
    LaneConfig,
    create_lane,
)
from huterox_shm.layout import (
    ALIGNMENT,
    BEGUN,
    CHUNK_NBYTES,
    ENTRY,
    ENTRY_NBYTES,
    HEADER_WORDS,
    PAGE_NBYTES,
    plan,
    write_header,
)

CONFIG = LaneConfig(ring_entries=128, request_half_nbytes=256 * 1024, reply_half_nbytes=512 * 1024)
ENTRIES = CONFIG.ring_entries
CALLS_MAX = ENTRIES // 2


class MemoryBell:
    """An eventfd's count without an eventfd."""

    def __init__(self):
        self.count = 0
        self.word = [0]

    def ring(self, count):
        if self.count + count > 2**64 - 2:
            raise BlockingIOError
        self.count += count

    def read(self):
        if self.count == 0:
            raise BlockingIOError
        self.word[0], self.count = self.count, 0
        return self.word[0]

    def wake(self):
        try:
            self.ring(1 << 32)
        except BlockingIOError:
            pass

    def is_rung(self):
        return self.count > 0

    def fileno(self):
        raise NotImplementedError("a lane in a bytearray cannot be polled")

    def close(self):
        pass


class MemorySegment:
    """A bytearray as a segment. It knows which chunks have pages, and holds its end to its own half."""

    def __init__(self, buffer):
        self.buffer = buffer
        self.nbytes = len(buffer)
        self.home = range(0)
        self.chunks = set()

    def reserve(self, offset, nbytes):
        if (offset, nbytes) != (0, self.nbytes):
            self.chunks |= self._chunks_of(offset, nbytes)

    def punch(self, offset, nbytes):
        self.chunks -= self._chunks_of(offset, nbytes)
        self.buffer[offset : offset + nbytes] = bytes(nbytes)

    def hide_from_children(self, offset, nbytes):
        pass

    def _chunks_of(self, offset, nbytes):
        assert self.home.start <= offset < offset + nbytes <= self.home.stop
        assert not offset % CHUNK_NBYTES and not nbytes % CHUNK_NBYTES
        return set(range(offset, offset + nbytes, CHUNK_NBYTES))

    def close(self):
        pass


class Lane(NamedTuple):
    """Two ends, and hands to cheat with: the whole memory and both doorbells."""

    caller: CallerEnd
    container: ContainerEnd
    request_bell: object
    reply_bell: object

    @property
    def memory(self):
        """Not kept: a closed lane is gone."""
        return self.caller._memory.buffer

    @property
    def layout(self):
        return self.caller.layout

    def forge_reply(self, *fields, index=0):
        """Write an entry into the reply ring and tell of it, as a container would."""
        ENTRY.pack_into(self.memory, self.layout.reply_ring + ENTRY_NBYTES * (index % ENTRIES), *fields)
        self.reply_bell.ring(1)

    def forge_request(self, *fields, index=0):
        ENTRY.pack_into(self.memory, self.layout.request_ring + ENTRY_NBYTES * (index % ENTRIES), *fields)
        self.request_bell.ring(1)

    def close(self):
        self.caller.close()
        self.container.close()


def make_memory_lane(config=CONFIG, counters=None):
    layout = plan(*config)
    buffer = bytearray(layout.segment_nbytes)
    words = [0] * HEADER_WORDS
    write_header(words, layout, 1)
    buffer[:PAGE_NBYTES] = b"".join(word.to_bytes(8, "little") for word in words)
    request_bell, reply_bell = MemoryBell(), MemoryBell()
    caller = CallerEnd(MemorySegment(buffer), reply_bell, request_bell)
    container = ContainerEnd(MemorySegment(buffer), request_bell, reply_bell, counters)
    caller._memory.home = range(layout.request_half, layout.reply_half)
    container._memory.home = range(layout.reply_half, layout.segment_nbytes)
    return Lane(caller, container, request_bell, reply_bell)


def make_segment_lane(config=CONFIG, counters=None):
    descriptors = create_lane(config, 1)
    caller = CallerEnd.attach(descriptors.duplicate())
    container = ContainerEnd.attach(descriptors, counters)
    return lane_of(caller, container)


def lane_of(caller, container):
    """The lane of two real ends."""
    return Lane(caller, container, caller._peer_bell, caller._bell)


MAKERS = {"bytearray": make_memory_lane, "segment": make_segment_lane}


# --- what honest ends do ----------------------------------------------------------------------------------------------


def send(caller, payload=b"x", call=None, **options):
    """Publish a call with a block of its own; returns its id."""
    offset = caller.claim(len(payload))
    caller.write_view(offset, len(payload))[:] = payload
    return caller.publish_call(call, offset, len(payload), **options)


def answer(container, call_id, payload=b"", kind=REPLY, flags=REQUEST_RELEASED, signature=0):
    """Publish an answer or a part of one; returns its block."""
    offset = 0
    if payload:
        offset = container.claim(len(payload))
        container.write_view(offset, len(payload))[:] = payload
    publish(container, kind, call_id, offset, len(payload), flags, signature)
    return offset


def publish(container, kind, call_id, offset=0, nbytes=0, flags=REQUEST_RELEASED, signature=0):
    """The two methods for answers as one. A part carries no REQUEST_RELEASED."""
    if kind == PART:
        container.publish_part(flags & ~REQUEST_RELEASED, call_id, offset, nbytes, signature)
    else:
        container.publish_reply(kind, flags, call_id, offset, nbytes, signature)


def open_calls(lane, count, **options):
    """So many calls that the container has taken; returns their ids."""
    ids = [send(lane.caller, **options) for _ in range(count)]
    lane.caller.flush()
    lane.container.take()
    return ids


def exchange(lane, request=b"question", reply=b"answer"):
    """One call and its answer; returns what the caller takes."""
    call_id = send(lane.caller, request)
    lane.caller.flush()
    lane.container.take()
    answer(lane.container, call_id, reply)
    lane.container.flush()
    (taken,) = lane.caller.take()
    return taken


# --- what can be looked at --------------------------------------------------------------------------------------------


def check_slab(end):
    """Every byte of an end's half is in exactly one block, out or free, and what needs pages has some."""
    slab = end._slab
    free = [(offset, order) for order in range(6, len(end.free)) for offset in end.free[order]]
    blocks = sorted([(offset, max(order, 6)) for offset, order in end.out.items()] + free)
    at = slab.base
    for offset, order in blocks:
        assert offset == at
        assert not (offset - slab.base) % (1 << order)
        at += 1 << order
    assert at == slab.base + slab.nbytes
    for offset, order in [*end.out.items(), *(block for block in free if 1 << block[1] < CHUNK_NBYTES)]:
        assert slab._reserved[(offset - slab.base) // CHUNK_NBYTES], (offset, order)
    if isinstance(end._memory, MemorySegment):
        reserved = {slab.base + index * CHUNK_NBYTES for index, has in enumerate(slab._reserved) if has}
        assert end._memory.chunks == reserved


def nothing_is_out(end):
    check_slab(end)
    return not end.out


def all_pages_are_back(end):
    """Trim, and see that this end's half has no pages and is one block again."""
    end.trim()
    check_slab(end)
    stats = end.slab_stats()
    return stats.reserved_nbytes == 0 and stats.largest_free_nbytes == end.nbytes_max


def pages_nbytes(lane):
    """What the operating system says that a real lane costs."""
    return os.fstat(lane.caller._memory.fd).st_blocks * 512


def is_block(offset, nbytes, low, high):
    """Is this a span of a half, or no block at all?"""
    return not nbytes or (not offset % ALIGNMENT and low <= offset < offset + nbytes <= high)


def begin(container, call_id):
    container.header[BEGUN] = call_id
