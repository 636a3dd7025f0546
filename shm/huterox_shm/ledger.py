"""A ledger: where a container counts what each of its lanes does, out of the callers' reach.

Problem: hits, usage and the replacer live on counters, and a caller can write everything that lies in its lane. Idea: a
small memfd of its own, which only the kernel and the container map; one line of 64 bytes, its slot, for each lane.

    slot: 0 calls_taken | 1 calls_done | 2 errors | 3 busy_us | 4 activity_us | 5 running_until | 6-7 zero
                                                                                                 u64, by the container

The kernel clears a slot before it gives it to another lane, and after the container has let go of it: one writer at a
time. The container is believed about itself; that is all that it can lie about.
"""

import mmap
import os
from typing import Any, Final, Self

from huterox_shm.errors import HandoverError
from huterox_shm.layout import RUNNING_UNTIL, LaneCounters, read_counters
from huterox_shm.segment import check_seals, create_memfd, map_memory, reserve_pages

SLOT_NBYTES: Final = 64
_SLOT_WORDS: Final = SLOT_NBYTES // 8


def create_ledger(slots: int) -> int:
    """A memfd with room for `slots` lanes, all zeros.

    Raises:
        LaneFull: the system has no memory for it.
        OSError: no descriptor. In each case nothing is left behind.
    """
    fd = create_memfd(slots * SLOT_NBYTES)
    try:
        reserve_pages(fd, 0, slots * SLOT_NBYTES)
    except BaseException:
        os.close(fd)
        raise
    return fd


class Ledger:
    """One side's mapping of a ledger."""

    __slots__ = ("slots", "_words")

    def __init__(self, memory: mmap.mmap) -> None:
        """See `attach`."""
        self._words: Any = memoryview(memory).cast("Q")
        self.slots = len(memory) // SLOT_NBYTES

    @classmethod
    def attach(cls, fd: int) -> Self:
        """Map a ledger and close `fd`, also on failure.

        Raises:
            HandoverError: this is no ledger.
        """
        try:
            check_seals(fd)
            nbytes = os.fstat(fd).st_size
            if not nbytes or nbytes % SLOT_NBYTES:
                raise HandoverError(f"a ledger of {nbytes} bytes")
            return cls(map_memory(fd, nbytes))
        finally:
            os.close(fd)

    def slot(self, index: int) -> Any:
        """The words of one lane, for `ContainerEnd.attach`.

        Raises:
            IndexError: there is no such slot.
        """
        if not 0 <= index < self.slots:
            raise IndexError(f"slot {index} of a ledger of {self.slots}")
        return self._words[index * _SLOT_WORDS : (index + 1) * _SLOT_WORDS]

    def read(self, index: int) -> LaneCounters:
        """What has been counted for one lane. Raises as `slot`."""
        return read_counters(self.slot(index))

    def running_until(self, index: int) -> int:
        """The deadline of the call of this lane that runs (see `layout.RUNNING_UNTIL`). Raises as `slot`."""
        return int(self._words[index * _SLOT_WORDS + RUNNING_UNTIL])

    def clear(self, index: int) -> None:
        """Make a slot ready for another lane. Raises as `slot`."""
        words = self.slot(index)
        for word in range(_SLOT_WORDS):
            words[word] = 0

    def close(self) -> None:
        """Let go. Slots that are still in use keep the mapping."""
        self._words = memoryview(b"").cast("Q")
        self.slots = 0
