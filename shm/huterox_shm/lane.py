"""A lane: the way of a call through shared memory, and its two ends.

Problem: a caller and a model's process on one host exchange requests and replies of any size at the price of a wake-up,
and either may die or lie at any moment. Idea: one segment, two halves with one allocator each, two rings with one
writer each, two doorbells (see `slab`, `ring`, `doorbell`).

    caller                                                     container
    claim, write_view            request half                  view
    publish_call, flush   ────▶  request ring, its doorbell ─▶ take
    take                  ◀────  reply ring, its doorbell  ◀── publish_reply, flush
    view                         reply half                    claim, write_view
    release (with the next flush) ──────────────────────────▶  the block is free again

A block belongs to one side at a time. The request's blocks are the container's from `flush` until the container says
otherwise (with the final reply, or later in a release), so a model may keep an input for as long as it likes; a caller
that fills one block for many calls owns it. A reply block is the caller's until it releases it. A call has exactly one
final reply (REPLY or ERROR), and any number of PARTs before it. Calls have consecutive ids and are begun in that order:
one word, `begun`, tells which calls a container that has ended had not touched.

What a block holds is not this package's business, but entries carry a number for those whose business it is:
`signature` stands for everything about a message but its tensors' bytes, once an entry with the flag DEFINES has told
what that is. Such an entry is a CALL that is answered with an empty REPLY and counts as none, or a PART that is none.

When full: `claim` and `publish_call` raise LaneFull. A final reply needs no care: no more calls are in flight than half
the reply ring holds, and should parts have filled it, the reply waits at the container's end until the caller has taken
some. An answer for which no block can be had may go without one (0 bytes).
When dead: whoever watches marks the state word and rings both doorbells; replies that were published are still taken,
then `take` raises LaneDead. When the peer writes what no honest peer writes, `take` marks the lane dead and raises
PeerProtocolError. What a peer changes in a block under a reader's eyes is not seen here: who decodes it checks it.
"""

import mmap
import os
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any, Final, NamedTuple, Self

from huterox_shm.caller import CallerEnd, Reply
from huterox_shm.container import ContainerEnd, Request
from huterox_shm.descriptors import out_of_the_way
from huterox_shm.doorbell import Doorbell, create_eventfd
from huterox_shm.end import read_header_of
from huterox_shm.errors import PeerProtocolError
from huterox_shm.layout import (
    BEGUN,
    CALL,
    CANCEL,
    DEAD,
    DEFINES,
    DRAINING,
    ERROR,
    INDIRECT,
    NO_END,
    OPEN,
    PAGE_NBYTES,
    PART,
    REPLY,
    REQUEST_RELEASED,
    RUNNING_UNTIL,
    STATE,
    STREAM,
    LaneCounters,
    plan,
    state_of,
    write_header,
)
from huterox_shm.segment import check_seals, create_memfd, map_memory, reserve_pages

__all__ = [
    "BEGUN",
    "CALL",
    "CANCEL",
    "CallerEnd",
    "ContainerEnd",
    "DEAD",
    "DEFINES",
    "DRAINING",
    "ERROR",
    "INDIRECT",
    "LaneConfig",
    "LaneCounters",
    "LaneDescriptors",
    "LaneWatch",
    "NO_END",
    "OPEN",
    "PART",
    "REPLY",
    "REQUEST_RELEASED",
    "RUNNING_UNTIL",
    "Reply",
    "Request",
    "STATE",
    "STREAM",
    "create_lane",
]

_MIB: Final = 1 << 20


class LaneConfig(NamedTuple):
    """Sizes of a lane. The halves are addresses, not memory: pages come when blocks do."""

    ring_entries: int = 1024
    request_half_nbytes: int = 512 * _MIB
    reply_half_nbytes: int = 512 * _MIB


class LaneDescriptors(NamedTuple):
    """What a lane is, as it travels over a socket. Plain numbers: who has them closes them, or gives them to an end."""

    memfd: int
    request_doorbell: int
    reply_doorbell: int

    def duplicate(self) -> "LaneDescriptors":
        """The same lane under new descriptors, for a second end or a watch."""
        copies: list[int] = []
        try:
            for fd in self:
                copies.append(out_of_the_way(os.dup(fd)))
        except OSError:
            _close_all(copies)
            raise
        return LaneDescriptors(*copies)

    def close(self) -> None:
        """Close all three."""
        _close_all(self)


def _close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)


def create_lane(config: LaneConfig, generation: int) -> LaneDescriptors:
    """Make a lane in state OPEN; both ends are attached to its descriptors (one of them to a `duplicate`).

    Raises:
        ValueError: sizes that no lane can have.
        LaneFull: the system has no memory for header and rings.
        OSError: no descriptors.
        In each case nothing is left behind.
    """
    layout = plan(*config)
    with ExitStack() as undo:
        fds = [_closing(undo, create_memfd(layout.segment_nbytes))]
        fds += [_closing(undo, create_eventfd()) for _ in range(2)]
        reserve_pages(fds[0], 0, layout.rings_end)
        with map_memory(fds[0], PAGE_NBYTES) as header, memoryview(header) as view, view.cast("Q") as words:
            write_header(words, layout, generation)
        undo.pop_all()
    return LaneDescriptors(*fds)


def _closing(undo: ExitStack, fd: int) -> int:
    undo.callback(os.close, fd)
    return fd


class LaneWatch:
    """A third party's hold on a lane: ends it, sees none of its blocks. Owns the descriptors."""

    __slots__ = ("generation", "_bells", "_closed", "_header", "_words")

    def __init__(self, header: mmap.mmap, generation: int, bells: tuple[Doorbell, ...]) -> None:
        """See `attach`."""
        self.generation = generation
        self._header = header
        self._words: Any = memoryview(header).cast("Q")
        self._bells = bells
        self._closed = False

    @classmethod
    def attach(cls, descriptors: LaneDescriptors) -> Self:
        """Take over `descriptors`; they are closed if this fails.

        Raises:
            HandoverError, PeerProtocolError: this is not a lane.
        """
        with ExitStack() as undo:
            for fd in descriptors:
                _closing(undo, fd)
            bells = tuple(Doorbell(fd) for fd in descriptors[1:])
            check_seals(descriptors.memfd)
            nbytes = os.fstat(descriptors.memfd).st_size
            if nbytes < PAGE_NBYTES:
                raise PeerProtocolError(f"a segment of {nbytes} bytes is no lane")
            header = undo.enter_context(map_memory(descriptors.memfd, PAGE_NBYTES))
            _, generation = read_header_of(header, nbytes)
            undo.pop_all()
        os.close(descriptors.memfd)
        return cls(header, generation, bells)

    @property
    def state(self) -> int:
        """OPEN, DRAINING or DEAD; whatever else stands there is DEAD."""
        return DEAD if self._closed else state_of(self._words)

    def drain(self) -> None:
        """No new calls from now on; those in flight still end. Wakes both ends."""
        if self.state == OPEN:
            self._set_state(DRAINING)

    def mark_dead(self) -> None:
        """The lane is over. Wakes both ends, whose `take` then raises LaneDead."""
        if not self._closed:
            self._set_state(DEAD)

    def is_unheard(self) -> bool:
        """Has the container not looked since its caller has rung last?"""
        return not self._closed and self._bells[0].is_rung()

    def unstuff(self) -> bool:
        """Free whoever hangs in a doorbell that a peer has stuffed; was there one? Never waits."""
        stuffed = [bell.unstuff() for bell in self._bells]
        return any(stuffed)

    def _set_state(self, state: int) -> None:
        self._words[STATE] = state
        for bell in self._bells:
            bell.wake()

    def close(self) -> None:
        """Let go of the lane, which goes on without a watch."""
        if not self._closed:
            self._closed = True
            self._words.release()
            self._header.close()
            for bell in self._bells:
                bell.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
