"""For how long a kind of zygote has been missing, and whether its orders should go elsewhere meanwhile.

Orders wait a moment for a zygote that is coming up: what it has imported is worth it. Beyond that they go to one that
imports less. A kind that failed, and nobody knows over which module, rests before it is tried again; so does one that
had to be started again too often in a row.
"""

from typing import Final

STARTS_MAX: Final = 8
REST_S: Final = 60.0


class Outage:
    """What one kind of zygote has gone through since one of it was ready. `patience_s`: how long orders wait."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._since_s: float | None = None
        self._rests_until_s = 0.0
        self._failures = 0

    def begin(self, now_s: float) -> None:
        """One is started; none is ready."""
        if self._since_s is None:
            self._since_s = now_s

    def end(self) -> None:
        """One is ready."""
        self._since_s = None
        self._failures = 0

    def fail(self, now_s: float, *, is_explained: bool) -> bool:
        """One did not come up, or never made a worker. `is_explained`: it is known what the next must do without.

        Returns whether the kind rests now.
        """
        self._failures += 1
        if is_explained and self._failures < STARTS_MAX:
            return False
        self._failures = 0
        self._rests_until_s = now_s + REST_S
        return True

    def is_resting(self, now_s: float) -> bool:
        return now_s < self._rests_until_s

    def is_long(self, now_s: float) -> bool:
        """Should orders wait no longer?"""
        return self._since_s is not None and now_s - self._since_s > self._patience_s
