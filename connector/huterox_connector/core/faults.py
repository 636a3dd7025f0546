"""Calls whose model is not resident: they wait, bounded and with their deadline, while room is made.

All calls of one group wait in one line and share one load. A line ends in one of three ways: its container became ready
and the calls are forwarded in order; the load failed and all get its error; or one call's own time is over.
"""

import heapq
from collections.abc import Callable, Set
from typing import Final

from huterox_connector.core.calls import CallKey, Calls
from huterox_connector.core.config import CoreConfig
from huterox_connector.core.effects import Effect, Forward, Refuse
from huterox_connector.core.events import CallMissed
from huterox_connector.core.records import Container, Group, GroupKey, Service, WaitingCall
from huterox_wire.errors import Busy, DeadlineExceeded, HuteroxError, ResourceInterrupt

ENDED_MAX: Final = 1024
"""Deadlines of calls that have ended already, beyond as many as wait, before they are taken out."""


class Faults:
    """The waiting lines of all groups."""

    def __init__(self, calls: Calls, config: CoreConfig) -> None:
        self._calls = calls
        self._config = config
        self._lines: dict[GroupKey, Group] = {}  # the groups that have a line
        self._waiting: dict[CallKey, WaitingCall] = {}
        self._nbytes = 0
        self._due: list[tuple[float, CallKey]] = []  # when each is over; those that have ended before are passed over

    def __len__(self) -> int:
        return len(self._waiting)

    def groups(self) -> list[Group]:
        """The groups that calls wait for."""
        return list(self._lines.values())

    def wait(self, event: CallMissed, service: Service, now_s: float) -> None:
        """Put a call into its group's line. Raises Busy where the line, or all lines together, are full."""
        group = service.group
        config = self._config
        if len(group.waiting) >= config.waiting_per_group_max:
            raise self._busy(f"{len(group.waiting)} calls already wait for model {group.model.name!r} to load")
        if self._nbytes + event.nbytes > config.waiting_nbytes_max:
            raise self._busy(f"calls that wait for models to load hold {self._nbytes} bytes")
        if not self._calls.room_for(event.caller, len(self._waiting), event.nbytes):
            raise self._busy("too many calls are in flight")
        if service.in_flight_max and service.in_flight >= service.in_flight_max:
            raise self._busy(f"{service.in_flight} calls of {service.title} are in flight, which is its quota")
        deadline_s = now_s + (event.budget_us * 1e-6 if event.budget_us else config.call_timeout_s)
        waiting = WaitingCall(event.caller, event.request_id, service, deadline_s, now_s, event.frames, event.nbytes)
        group.waiting.append(waiting)
        self._waiting[event.caller, event.request_id] = waiting
        heapq.heappush(self._due, (deadline_s, (event.caller, event.request_id)))
        self._lines[group.key] = group
        self._nbytes += event.nbytes
        service.in_flight += 1
        service.faults += 1
        group.calls += 1

    def _busy(self, why: str) -> Busy:
        return Busy(why, retry_after_s=self._config.busy_retry_after_s)

    def release(self, container: Container, now_s: float) -> list[Effect]:
        """The group's container is ready: forward its line, in order.

        To the replacer the load stood for the first of these calls; the others are accesses.
        """
        released = self._take(container.group, lambda _: True)
        if len(released) > 1:
            container.node.replacer.record_access(container.id, len(released) - 1)
        return [self._forward(waiting, container, now_s) for waiting in released]

    def lend(self, group: Group, container: Container, now_s: float) -> Effect:
        """Forward the first of a line to a container that belongs to another group."""
        first = group.waiting[0]
        (taken,) = self._take(group, lambda waiting: waiting is first)
        return self._forward(taken, container, now_s)

    def _forward(self, waiting: WaitingCall, container: Container, now_s: float) -> Forward:
        call = self._calls.enter(
            waiting.caller, waiting.request_id, waiting.service, container, waiting.deadline_s, waiting.nbytes, now_s
        )
        budget_us = max(1, int((waiting.deadline_s - now_s) * 1e6))
        return Forward(container.node.identity, call.route, waiting.frames, budget_us)

    def fail(
        self, group: Group, error: HuteroxError, which: Callable[[WaitingCall], bool] = lambda _: True
    ) -> list[Effect]:
        """End those of a line that `which` picks, all by default, with one error."""
        effects: list[Effect] = []
        for waiting in self._take(group, which):
            waiting.service.errors += 1
            effects.append(Refuse(waiting.caller, waiting.request_id, error))
        return effects

    def interrupt(self, group: Group, error: ResourceInterrupt, which: Callable[[WaitingCall], bool]) -> list[Effect]:
        """There is no room for those that `which` picks."""
        for waiting in group.waiting:
            waiting.service.refused += which(waiting)
        return self.fail(group, error, which)

    def cancel(self, caller: bytes, request_id: int, error: HuteroxError) -> list[Effect]:
        """End one waiting call; nothing where it does not wait."""
        cancelled = self._waiting.get((caller, request_id))
        if cancelled is None:
            return []
        return self.fail(cancelled.service.group, error, lambda waiting: waiting is cancelled)

    def callers(self) -> set[bytes]:
        """Whose calls wait."""
        return {caller for caller, _ in self._waiting}

    def forget(self, callers: Set[bytes]) -> None:
        """Drop the calls of callers that have gone: there is nobody to tell."""
        groups = {w.service.group.key: w.service.group for w in self._waiting.values() if w.caller in callers}
        for group in groups.values():
            for waiting in self._take(group, lambda waiting: waiting.caller in callers):
                waiting.service.errors += 1

    def holds(self, caller: bytes, request_id: int) -> bool:
        return (caller, request_id) in self._waiting

    def expire(self, now_s: float) -> list[Effect]:
        """End the calls whose time is over."""
        over: dict[GroupKey, Group] = {}
        while self._due and self._due[0][0] <= now_s:
            waiting = self._waiting.get(heapq.heappop(self._due)[1])
            if waiting is not None and waiting.deadline_s <= now_s:
                over[waiting.service.group.key] = waiting.service.group
        if len(self._due) > 2 * len(self._waiting) + ENDED_MAX:
            self._due = [(waiting.deadline_s, key) for key, waiting in self._waiting.items()]
            heapq.heapify(self._due)
        effects: list[Effect] = []
        for group in over.values():
            error = DeadlineExceeded(
                f"model {group.model.name!r} was not resident within the call's time", waited_for="load"
            )
            effects += self.fail(group, error, lambda w: w.deadline_s <= now_s)
        return effects

    def _take(self, group: Group, which: Callable[[WaitingCall], bool]) -> list[WaitingCall]:
        taken = [waiting for waiting in group.waiting if which(waiting)]
        if not taken:
            return taken
        kept = [waiting for waiting in group.waiting if not which(waiting)]
        group.waiting.clear()
        group.waiting.extend(kept)
        for waiting in taken:
            del self._waiting[waiting.caller, waiting.request_id]
            self._nbytes -= waiting.nbytes
            waiting.service.in_flight -= 1
        if not kept:
            self._lines.pop(group.key, None)
        return taken
