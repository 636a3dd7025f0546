"""Does the switchboard answer? Tells the log when it does not, again in growing pauses, and when it does again.

A kernel without a switchboard goes on as it is: its containers serve their lanes. So nobody would notice.
"""

from typing import Final

SILENT_S: Final = 3.0
"""Without an answer to two heartbeats and for so long beyond, there is something to tell."""

PAUSE_MAX_S: Final = 3600.0


class Pauses:
    """When a thing that goes on is told of again: at once, then after pauses that double."""

    def __init__(self, first_s: float) -> None:
        self._first_s = first_s
        self.reset()

    def reset(self) -> None:
        """It is over: the next time is news."""
        self._pause_s, self._due_s = self._first_s, 0.0

    def is_due(self, now_s: float) -> bool:
        if now_s < self._due_s:
            return False
        self._due_s = now_s + self._pause_s
        self._pause_s = min(2 * self._pause_s, PAUSE_MAX_S)
        return True


class Contact:
    """What is heard of the switchboard. Texts are empty where nothing is to be told."""

    def __init__(self, endpoint: str, now_s: float) -> None:
        self._endpoint = endpoint
        self._heard_s = now_s
        self._is_lost = False
        self._lost = Pauses(2 * SILENT_S)
        self._refused = Pauses(60.0)
        self._refusal = ""

    def heard(self, now_s: float) -> str:
        """Something came from it."""
        silent_s, self._heard_s = now_s - self._heard_s, now_s
        if not self._is_lost:
            return ""
        self._is_lost = False
        self._lost.reset()
        return f"the switchboard at {self._endpoint} answers, after {silent_s:.1f} s"

    def look(self, now_s: float, heartbeat_s: float) -> str:
        """Time has passed; each heartbeat has an answer."""
        silent_s = now_s - self._heard_s
        if silent_s < SILENT_S + 2 * heartbeat_s or not self._lost.is_due(now_s):
            return ""
        self._is_lost = True
        return (
            f"no switchboard answers at {self._endpoint}: nothing was heard for {silent_s:.0f} s; "
            "containers and lanes go on, nothing new can be loaded"
        )

    def refused(self, reason: str, now_s: float) -> str:
        """It does not take this kernel in."""
        if reason != self._refusal:
            self._refusal = reason
            self._refused.reset()
        return f"the switchboard refuses this kernel: {reason}" if self._refused.is_due(now_s) else ""

    def taken_in(self) -> None:
        """It has registered this kernel."""
        self._refusal = ""
