"""What both ends of a lane have in common: the mapping, the rings, the state word, the way to end."""

import abc
import os
import select
from collections.abc import Callable
from contextlib import ExitStack
from time import monotonic_ns
from types import TracebackType
from typing import Any, NoReturn, Protocol, Self

from huterox_shm.doorbell import COUNT_MASK, Doorbell
from huterox_shm.errors import LaneDead, PeerProtocolError
from huterox_shm.layout import (
    DEAD,
    DRAINING,
    OPEN,
    PAGE_NBYTES,
    PINNED,
    STATE,
    LaneLayout,
    read_header,
    state_of,
)
from huterox_shm.ring import CONTROL_HEADROOM, Consumer, Producer
from huterox_shm.segment import Segment
from huterox_shm.slab import Slab, SlabStats


class Memory(Protocol):
    """Where a lane lies: a Segment, or in tests a bytearray with as little around it."""

    buffer: Any
    nbytes: int

    def reserve(self, offset: int, nbytes: int) -> None: ...
    def punch(self, offset: int, nbytes: int) -> None: ...
    def hide_from_children(self, offset: int, nbytes: int) -> None: ...
    def close(self) -> None: ...


class Bell(Protocol):
    """How one end tells the other a number. See Doorbell."""

    ring: Callable[[int], None]
    read: Callable[[], int]
    word: Any

    def fileno(self) -> int: ...
    def wake(self) -> None: ...
    def is_rung(self) -> bool: ...
    def close(self) -> None: ...


class _Closed:
    """Stands in for memory and doorbells of a closed end: a descriptor's number may be somebody else's by now."""

    def _refuse(self, *_: object) -> NoReturn:
        raise LaneDead("this end of the lane is closed")

    __call__ = __getattr__ = __getitem__ = __setitem__ = _refuse


_CLOSED: Any = _Closed()


class End(abc.ABC):
    """One end. Not for several threads at once, but for `release`-like methods where they say so.

    `out` and `free` are its allocator's (see `slab`); `readable` and `writable` are the whole segment, for hot paths
    that slice it themselves.
    """

    __slots__ = (
        "free",
        "generation",
        "out",
        "readable",
        "writable",
        "_acknowledge_at",
        "_bell",
        "_claim",
        "_closed",
        "_consumer",
        "_entries",
        "_layout",
        "_memory",
        "_peer_bell",
        "_peer_high",
        "_peer_low",
        "_pending",
        "_poll",
        "_producer",
        "_read_bell",
        "_ring_peer",
        "_seen",
        "_slab",
        "_told_at",
        "_words",
    )

    def __init__(self, memory: Memory, bell: Bell, peer_bell: Bell) -> None:
        """Check the header and take over memory and bells; on failure they stay the giver's."""
        layout, self.generation = read_header_of(memory.buffer, memory.nbytes)
        view = memoryview(memory.buffer)
        self._layout = layout
        self._words: Any = view[:PAGE_NBYTES].cast("Q")
        self.writable: Any = view
        self.readable: Any = view.toreadonly()
        self._memory = memory
        self._bell = bell
        self._peer_bell = peer_bell
        self._read_bell = bell.read
        self._ring_peer = peer_bell.ring
        self._poll: select.poll | None = None
        self._closed = False
        self._seen = 0  # of the peer's hint, at the last take
        self._told_at = 0
        self._entries = layout.ring_entries
        self._acknowledge_at = self._entries >> 2
        outgoing, incoming, base, nbytes, self._peer_low, self._peer_high = self._places(layout)
        self._consumer = Consumer(memory.buffer, incoming, self._entries)
        self._producer = Producer(memory.buffer, outgoing, self._entries, self._consumer)
        self._pending = self._producer.pending
        self._slab = slab = Slab(base, nbytes, memory.reserve, memory.punch)
        self._claim, self.out, self.free = slab.claim, slab.out, slab.free

    @staticmethod
    @abc.abstractmethod
    def _places(layout: LaneLayout) -> tuple[int, int, int, int, int, int]:
        """Outgoing ring, incoming ring; offset and size of this end's own half; offset and end of the peer's."""

    @classmethod
    def _attach(cls, memfd: int, bell_fd: int, peer_bell_fd: int, *more: Any) -> Self:
        with ExitStack() as undo:
            for fd in (memfd, bell_fd, peer_bell_fd):
                undo.callback(os.close, fd)
            bell, peer_bell = Doorbell(bell_fd), Doorbell(peer_bell_fd)
            segment = Segment(memfd)
            undo.callback(segment.buffer.close)  # nobody has a view of it yet
            end = cls(segment, bell, peer_bell, *more)
            undo.pop_all()
        return end

    # --- the life of the lane ---------------------------------------------------------------------------------------

    def fileno(self) -> int:
        """This end's doorbell, readable when `take` has something to say. Level-triggered."""
        return self._bell.fileno()

    @property
    def layout(self) -> LaneLayout:
        """Where everything lies."""
        return self._layout

    @property
    def nbytes_max(self) -> int:
        """Largest block that this end can claim, ever."""
        return self._slab.nbytes_max

    @property
    def state(self) -> int:
        """OPEN, DRAINING or DEAD. Whatever else stands there, or a closed end, is DEAD."""
        return DEAD if self._closed else state_of(self._words)

    def slab_stats(self) -> SlabStats:
        """How the half that this end allocates from is used."""
        return self._slab.stats()

    def trim(self) -> int:
        """Give memory that is not in use back to the system; returns how many bytes. For idle times."""
        return 0 if self._closed or self._words[PINNED] else self._slab.trim()

    def drain(self) -> None:
        """No new calls from now on; those in flight still end. Wakes both ends."""
        if self.state == OPEN:
            self._words[STATE] = DRAINING
            self._wake_both()

    def mark_dead(self) -> None:
        """The lane is over. Wakes both ends, whose `take` then raises LaneDead. Does nothing on a closed end."""
        if not self._closed:
            self._words[STATE] = DEAD
            self._wake_both()

    def _wake_both(self) -> None:
        self._peer_bell.wake()
        self._bell.wake()

    def close(self) -> None:
        """Let go of descriptors and memory. Views that are still out keep their memory, readable, until they die. A
        second call finishes one that was interrupted."""
        self._closed = True
        self._read_bell = self._ring_peer = self.readable = self.writable = self._words = _CLOSED
        self._consumer = self._producer = _CLOSED
        self._bell.close()
        self._peer_bell.close()
        self._poll = None
        self._memory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    # --- blocks -----------------------------------------------------------------------------------------------------

    def write_view(self, offset: int, nbytes: int) -> memoryview:
        """Hot path. The first `nbytes` bytes of a block that this end has claimed, writable.

        Raises:
            ValueError: no claimed block begins there, or it is smaller. At the container PeerProtocolError.
        """
        order = self.out.get(offset)
        if order is None or nbytes > 1 << order:
            self._no_block(offset, nbytes)
        return self.writable[offset : offset + nbytes]  # type: ignore[no-any-return]

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Hot path. The bytes of a block that `take` has named, read-only."""
        return self.readable[offset : offset + nbytes]  # type: ignore[no-any-return]

    def abandon(self, offset: int) -> None:
        """Free a block that was claimed and not published.

        Raises:
            ValueError: no such block. At the container PeerProtocolError.
        """
        if offset not in self.out:
            self._no_block(offset, 0)
        self._slab.release(offset)

    def _no_block(self, offset: int, nbytes: int) -> NoReturn:
        raise ValueError(f"no block of {nbytes} bytes that is out begins at {offset}")

    # --- releases and acknowledgements ------------------------------------------------------------------------------

    @property
    def releases_pending(self) -> int:
        """How many releases wait for the next entry to tell of them."""
        return len(self._pending)

    def flush_releases(self) -> None:
        """Tell pending releases now, as far as the ring has room, in entries of their own. Do it before waiting."""
        self._publish_releases()
        self.flush()

    def _publish_releases(self) -> None:
        producer = self._producer
        kept = CONTROL_HEADROOM + self._finals_due()
        while self._pending and producer.publish_releases(kept):
            pass

    def _acknowledge(self) -> None:
        """A quarter of the incoming ring is consumed: say so, or the peer may wait for ever."""
        if self._producer.publish_releases(self._finals_due()):
            self.flush()

    def _finals_due(self) -> int:
        """Places in the outgoing ring that are promised to final replies."""
        return 0

    @abc.abstractmethod
    def flush(self) -> None:
        """Make all that is queued visible."""

    # --- the doorbell -----------------------------------------------------------------------------------------------

    def wait(self, timeout_s: float) -> bool:
        """Wait until the doorbell rings: True, or the time is over: False. Tells pending releases first."""
        if self._pending:
            self.flush_releases()
        if self._poll is None:
            if self._closed:
                raise LaneDead("this end of the lane is closed")
            self._poll = select.poll()
            self._poll.register(self.fileno(), select.POLLIN)
        return bool(self._poll.poll(max(timeout_s, 0.0) * 1000.0))

    @property
    def told(self) -> bool:
        """Hot path. Whether the peer has told something since the last `take`. Its hint may lie; `take` knows."""
        told: bool = self._words[self._told_at] != self._seen
        return told

    def spin(self, until_ns: int) -> bool:
        """Hot path. Look without sleeping until the peer has told something: True, or until the monotonic clock shows
        `until_ns`: False."""
        words, index, seen = self._words, self._told_at, self._seen
        while words[index] == seen:
            if monotonic_ns() >= until_ns:
                return False
        return True

    def _odd_count(self, count: int) -> int:
        """A count that is not just entries: bells stripped off. Too many entries are the consumer's to refuse."""
        if count >> 32 and self.state == DEAD and count & COUNT_MASK:
            self._bell.wake()  # the entries come first; the end comes with the next take
        return count & COUNT_MASK

    def _check_alive(self) -> None:
        if self.state == DEAD:
            raise LaneDead("the lane is dead")

    def _stuffed(self) -> PeerProtocolError:
        """The doorbell's count is at its end, which no honest peer lets happen."""
        error = PeerProtocolError("the peer's doorbell is stuffed")
        self._on_protocol_error(error)
        return error

    def _on_protocol_error(self, error: PeerProtocolError) -> None:
        """Nothing more is believed: the lane is dead for both, and every later `take` here says why."""
        args = error.args  # not the error: its traceback holds this end

        def refuse() -> NoReturn:
            raise PeerProtocolError(*args)

        self._read_bell = refuse
        self.mark_dead()

    def _check_release_count(self, count: int, room: int) -> None:
        if count > room:
            raise PeerProtocolError(f"an entry with {count} releases; {room} have room")


def read_header_of(buffer: Any, segment_nbytes: int) -> tuple[LaneLayout, int]:
    """Layout and generation from the first page of `buffer`; holds no view of it afterwards.

    Raises:
        PeerProtocolError: this is no lane.
    """
    if segment_nbytes < PAGE_NBYTES:
        raise PeerProtocolError(f"a segment of {segment_nbytes} bytes is no lane")
    with memoryview(buffer) as view, view[:PAGE_NBYTES] as page, page.cast("Q") as words:
        return read_header(words, segment_nbytes)
