"""How much waits in this process for its user: answers of futures and tasks that nobody has read.

Problem: answers come whether or not anybody reads them. Idea: their bytes are counted as they come, and not again until
the sum is over the limit: then those that were read, or dropped, are left out. An answer that passes the limit all the
same is dropped, and its call ends as `Busy`; one alone may be as large as any.
"""

import weakref
from typing import Any, Final

from huterox_wire.errors import Busy

UNCOUNTED_NBYTES: Final = 4096
"""A smaller answer takes no more than its future, which its user has made and keeps."""


class Unread:
    """The unread answers of one connection, or of one lane. Who reads one says so by an attribute `is_read`."""

    def __init__(self, nbytes_max: int) -> None:
        self.nbytes = 0  # no less than that; corrected when it is too much
        self._nbytes_max = nbytes_max
        self._entries: list[tuple[weakref.ref[Any], int]] = []

    def check(self, reader: Any, nbytes: int) -> Busy | None:
        """Hot path. Count an answer that has come for `reader`. What to end the call with, if it has to be dropped."""
        if nbytes < UNCOUNTED_NBYTES:
            return None
        if self.nbytes + nbytes > self._nbytes_max:
            self._count()
            if self.nbytes + nbytes > self._nbytes_max and self._entries:
                return Busy(
                    f"{len(self._entries)} answers of {self.nbytes} bytes wait to be read, and {nbytes} more would pass"
                    f" the limit of {self._nbytes_max}: read or drop futures before submitting more",
                    unread=len(self._entries),
                    unread_nbytes=self.nbytes,
                    limit=self._nbytes_max,
                    executed="yes",
                )
        self.nbytes += nbytes
        self._entries.append((weakref.ref(reader), nbytes))
        return None

    def _count(self) -> None:
        self._entries = [
            (ref, nbytes)
            for ref, nbytes in self._entries
            if (reader := ref()) is not None and not getattr(reader, "is_read", False)
        ]
        self.nbytes = sum(nbytes for _, nbytes in self._entries)
