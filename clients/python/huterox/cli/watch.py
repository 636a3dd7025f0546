"""Tells when a platform that was ready cannot be called any more, and when it can again. Pure: time is an argument."""

from typing import Final

PAUSE_FIRST_S: Final = 10.0
PAUSE_MAX_S: Final = 3600.0


class Watch:
    """What was seen last. A trouble that goes on is told again after pauses that double."""

    def __init__(self) -> None:
        self._trouble = ""
        self._since_s = self._due_s = 0.0
        self._pause_s = PAUSE_FIRST_S

    def look(self, trouble: str, now_s: float) -> str:
        """What to tell; empty: nothing. `trouble` is why no call can be made now, empty where calls can be."""
        before, self._trouble = self._trouble, trouble
        if not trouble:
            return f"calls can be made again, after {now_s - self._since_s:.0f} s" if before else ""
        if not before:
            self._since_s = now_s
        if trouble != before:
            self._pause_s = PAUSE_FIRST_S
        elif now_s < self._due_s:
            return ""
        self._due_s = now_s + self._pause_s
        self._pause_s = min(2 * self._pause_s, PAUSE_MAX_S)
        return f"no calls can be made: {trouble}"
