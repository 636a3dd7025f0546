"""Lanes of two kinds behind one fixture: over a bytearray with counters as doorbells, and over a real segment."""

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from huterox_shm.lane import CallerEnd, ContainerEnd, LaneConfig, create_lane
from huterox_shm.layout import ENTRY, HEADER_WORDS, plan, write_header

CONFIG = LaneConfig(ring_entries=128, request_half_nbytes=256 * 1024, reply_half_nbytes=512 * 1024)


class MemoryBell:
    """An eventfd's count without an eventfd."""

    def __init__(self):
        self.count = 0

    def ring(self, count):
        if self.count + count > 2**64 - 2:
            raise BlockingIOError
        self.count += count

    def read(self):
        if self.count == 0:
            raise BlockingIOError
        count, self.count = self.count, 0
        return count

    def wake(self):
        try:
            self.ring(1 << 32)
        except BlockingIOError:
            pass

    def fileno(self):
        raise NotImplementedError("a lane in a bytearray cannot be polled")

    def close(self):
        pass


class MemorySegment:
    """A bytearray as a segment. It counts what has pages."""

    def __init__(self, buffer):
        self.buffer = buffer
        self.nbytes = len(buffer)

    def reserve(self, offset, nbytes):
        assert 0 <= offset <= offset + nbytes <= self.nbytes

    def punch(self, offset, nbytes):
        self.buffer[offset : offset + nbytes] = bytes(nbytes)

    def close(self):
        pass


class Lane(NamedTuple):
    """Two honest ends, and hands to cheat with: the whole memory and both doorbells."""

    caller: CallerEnd
    container: ContainerEnd
    memory: object
    request_bell: object
    reply_bell: object

    @property
    def layout(self):
        return self.caller.layout

    def forge_reply(self, *fields, index=0):
        """Write an entry into the reply ring and tell of it, as a container would."""
        ENTRY.pack_into(self.memory, self.layout.reply_ring + 64 * index, *fields)
        self.reply_bell.ring(1)

    def forge_request(self, *fields, index=0):
        ENTRY.pack_into(self.memory, self.layout.request_ring + 64 * index, *fields)
        self.request_bell.ring(1)

    def close(self):
        self.caller.close()
        self.container.close()


def make_memory_lane(config=CONFIG) -> Lane:
    layout = plan(*config)
    buffer = bytearray(layout.segment_nbytes)
    words = [0] * HEADER_WORDS
    write_header(words, layout, 1)
    buffer[:4096] = b"".join(word.to_bytes(8, "little") for word in words)
    request_bell, reply_bell = MemoryBell(), MemoryBell()
    return Lane(
        CallerEnd(MemorySegment(buffer), reply_bell, request_bell),
        ContainerEnd(MemorySegment(buffer), request_bell, reply_bell),
        buffer,
        request_bell,
        reply_bell,
    )


def make_segment_lane(config=CONFIG) -> Lane:
    descriptors = create_lane(config, 1)
    caller = CallerEnd.attach(descriptors.duplicate())
    container = ContainerEnd.attach(descriptors)
    return Lane(caller, container, caller._memory.buffer, caller._peer_bell, caller._bell)


MAKERS = {"bytearray": make_memory_lane, "segment": make_segment_lane}


@pytest.fixture(params=MAKERS)
def make_lane(request):
    """The maker of one kind of lane, for tests that need several or other sizes."""
    return MAKERS[request.param]


@pytest.fixture
def lane(make_lane) -> Iterator[Lane]:
    made = make_lane()
    yield made
    made.close()


@pytest.fixture
def memory_lane_maker():
    """Only the kind without an operating system, for thousands of examples."""
    return make_memory_lane
