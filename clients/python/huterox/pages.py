"""Long lists come in pages; here they are put together, within one timeout and a bound. Sans-IO: a shell asks.

while pages.where is not None:
    pages.take(ask(verb, timeout=pages.left_s(now_s), **pages.where))
return pages.rows
"""

from typing import Any, Final

from huterox.verbs import Row
from huterox_wire.errors import DeadlineExceeded, Fault, TooLarge

ROWS_MAX: Final = 1_000_000
"""Of one list: ten times what a large platform has."""

EVENTS_PER_PAGE_MAX: Final = 1000
"""What the switchboard gives at once."""


class Pages:
    """A list under way: `services`, `ps`, `nodes`, `models` or `usage`, whose pages name what to ask after.

    Attributes:
        rows: what has come.
        where: the arguments that ask for the next page, beside the caller's own; None: the list is complete.
    """

    def __init__(self, timeout_s: float, now_s: float) -> None:
        self.rows: list[Row] = []
        self.where: dict[str, Any] | None = {}
        self._timeout_s = timeout_s
        self._until_s = now_s + timeout_s

    def left_s(self, now_s: float) -> float:
        """How long the next page may take: all together have the time of one answer.

        Raises:
            DeadlineExceeded: no time is left.
        """
        if self.rows and now_s >= self._until_s:
            raise DeadlineExceeded(
                f"the list was not complete within {self._timeout_s:g} s: {len(self.rows)} rows of it have come",
                timeout_s=self._timeout_s,
            )
        return self._until_s - now_s if self.rows else self._timeout_s

    def take(self, page: Any) -> None:
        """The page that was asked for has come."""
        rows, after = _part(page, "rows", list), _part(page, "next", str)
        if after and (not rows or after == (self.where or {}).get("after")):
            raise Fault(f"the switchboard's list does not go on after {after!r}")
        self.rows += rows
        if len(self.rows) > ROWS_MAX:
            raise TooLarge(f"the list has more than {ROWS_MAX} rows", need=len(self.rows), limit=ROWS_MAX)
        self.where = {"after": after} if after else None


class EventPages(Pages):
    """At most `limit` events: those from `after` on, or, where that is 0, the newest, fetched backwards."""

    def __init__(self, after: int, limit: int, timeout_s: float, now_s: float) -> None:
        super().__init__(timeout_s, now_s)
        self._forward = after != 0
        self._limit = limit
        self.where = {"limit": min(limit, EVENTS_PER_PAGE_MAX)}
        if after:
            self.where["after"] = after

    def take(self, page: Any) -> None:
        events = _part(page, "events", list)
        self.rows = self.rows + events if self._forward else events + self.rows
        missing = self._limit - len(self.rows)
        first = not self._forward and events and events[0]["seq"] <= 1
        if not events or missing <= 0 or first or not page.get("more"):
            self.where = None
            return
        edge = {"after": events[-1]["seq"]} if self._forward else {"before": events[0]["seq"]}
        if edge.items() <= (self.where or {}).items():
            raise Fault(f"the switchboard's list of events does not go on: {edge}")
        self.where = {**edge, "limit": min(missing, EVENTS_PER_PAGE_MAX)}


def _part(page: Any, name: str, kind: type) -> Any:
    if not isinstance(page, dict) or not isinstance(part := page.get(name), kind):
        raise Fault(f"the switchboard's answer is malformed: no page of a list with {name!r}")
    return part
