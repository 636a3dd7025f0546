"""What happened and why, for people: the last events, numbered."""

from collections import deque
from typing import Any, Final

from huterox_connector.core.effects import Effect, Journalled

CLOCK_SET_S: Final = 1.0
"""Clocks drift a little, and are pulled along; what is set by so much was wrong before."""


class Journal:
    """Keeps the newest `length_max` events. `clock_offset_s` turns the core's time into seconds since the epoch."""

    def __init__(self, length_max: int, clock_offset_s: float) -> None:
        self._events: deque[Journalled] = deque(maxlen=length_max)
        self._offset_s = clock_offset_s
        self._seq = 0

    def at(self, now_s: float) -> float:
        """`now_s` in seconds since the epoch."""
        return round(now_s + self._offset_s, 6)

    def since_start(self, at: float) -> float:
        """The inverse of `at`: the core's time. It may be negative, which is before this machine's clock began."""
        return at - self._offset_s

    def follow_clock(self, offset_s: float | None, now_s: float) -> list[Effect]:
        """What happens from now on has the time of a clock that was set. What was told before keeps the old one."""
        if offset_s is None or abs(offset_s - self._offset_s) < CLOCK_SET_S:
            return []
        by_s, self._offset_s = offset_s - self._offset_s, offset_s
        return [self.record("clock", "this machine", f"its clock was set by {by_s:+.1f} s", now_s, by_s=round(by_s, 3))]

    def restore(self, events: list[Journalled]) -> None:
        """Take over what an earlier switchboard kept, oldest first."""
        self._events.extend(events)
        if events:
            self._seq = events[-1].seq

    def record(self, kind: str, subject: str, reason: str, now_s: float, **details: Any) -> Journalled:
        self._seq += 1
        event = Journalled(self._seq, self.at(now_s), kind, subject, reason, details)
        self._events.append(event)
        return event

    def between(self, after: int, before: int, limit: int, subject: str = "") -> list[Journalled]:
        """Events with a larger number than `after` and a smaller one than `before` (0: any), oldest first.

        Of more than `limit` those next to `after`; without it, the newest.
        """
        found = [
            e
            for e in self._events
            if e.seq > after and (not before or e.seq < before) and (not subject or subject in e.subject)
        ]
        return found[:limit] if after else found[-limit:]
