"""What happened and why, for people: the last events, numbered."""

from collections import deque
from typing import Any

from huterox_connector.core.effects import Journalled


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
