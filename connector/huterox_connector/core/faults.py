"""Calls that no container can take yet: they wait, bounded and with their deadline.

All calls of one group wait in one line (`line.py`). Where its model is not resident they share one load, and where its
containers have enough to do they wait for their turn. A line ends in one of three ways: a container can take the calls,
which are forwarded in fair turns; the load failed and all get its error; or one call's own time is over.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Set
from typing import Any, Final

from huterox_connector.core.calls import CallKey, Calls, shortest_queue
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
        self._nbytes_of: Counter[bytes] = Counter()  # by caller: nobody may have more than is left for others
        self._due: list[tuple[float, CallKey]] = []  # when each is over; those that have ended before are passed over

    def __len__(self) -> int:
        return len(self._waiting)

    def groups(self) -> list[Group]:
        """The groups that calls wait for."""
        return list(self._lines.values())

    def wait(self, event: CallMissed, service: Service, now_s: float) -> list[Effect]:
        """Put a call into its group's line. Where that is full, whoever has most in it loses a call, or this one does.

        Raises:
            Busy: this call has no place in the line, or all lines together are full.
        """
        if why := self._no_room(service, event.caller, event.nbytes):
            raise self._busy(why)
        budget_s = event.budget_us * 1e-6 or self._config.call_timeout_s
        waiting = WaitingCall(
            event.caller, event.request_id, service, now_s + budget_s, now_s, event.frames, event.nbytes
        )
        loser = self._who_must_go(waiting)
        if loser is waiting:
            raise self._is_full(service.group)
        return self._enter(waiting, loser)

    def join(self, caller: bytes, frames: list[Any], nbytes: int, now_s: float) -> list[Effect] | None:
        """Hot path while callers take turns. `wait`, and `admit`, for a call to a model that is resident.

        None: it is no such call, or has no place; nothing was changed.
        """
        addressed = self._calls.addressed(frames[0])
        if addressed is None:
            return None
        service, request_id, budget_us = addressed
        key = (caller, request_id)
        if not service.group.ready or key in self._calls or key in self._waiting:
            return None
        if self._no_room(service, caller, nbytes):
            return None
        budget_s = budget_us * 1e-6 or self._config.call_timeout_s
        waiting = WaitingCall(caller, request_id, service, now_s + budget_s, now_s, frames, nbytes)
        loser = self._who_must_go(waiting)
        if loser is waiting:
            return None
        return self._enter(waiting, loser) + self.admit(service.group, now_s)

    def _no_room(self, service: Service, caller: bytes, nbytes: int) -> str:
        """Why this caller's call cannot wait, whatever its line; empty where it can."""
        if self._nbytes + self._nbytes_of[caller] + nbytes > self._config.waiting_nbytes_max:
            return f"calls that wait hold {self._nbytes} bytes, {self._nbytes_of[caller]} of them yours"
        if not self._calls.room_for(caller, len(self._waiting), nbytes):
            return "too many calls are in flight"
        if service.in_flight_max and service.in_flight >= service.in_flight_max:
            return f"{service.in_flight} calls of {service.title} are in flight, which is its quota"
        return ""

    def _who_must_go(self, newcomer: WaitingCall) -> WaitingCall | None:
        """Who has no place any more when this one comes; may be itself."""
        waiting = newcomer.service.group.waiting
        return waiting.who_must_go(newcomer) if len(waiting) >= self._config.waiting_per_group_max else None

    def _enter(self, waiting: WaitingCall, loser: WaitingCall | None) -> list[Effect]:
        """The last of its caller's in its group's line, where `loser` makes place."""
        service, caller, key = waiting.service, waiting.caller, (waiting.caller, waiting.request_id)
        group = service.group
        pushed_out = self._fail_one(loser, self._is_full(group)) if loser is not None else []
        group.waiting.append(waiting)
        self._waiting[key] = waiting
        heapq.heappush(self._due, (waiting.deadline_s, key))
        self._lines[group.key] = group
        self._nbytes += waiting.nbytes
        self._nbytes_of[caller] += waiting.nbytes
        service.in_flight += 1
        service.faults += not group.ready
        group.calls += 1
        return pushed_out

    def _is_full(self, group: Group) -> Busy:
        return self._busy(f"{len(group.waiting)} calls already wait for model {group.model.name!r}")

    def _fail_one(self, waiting: WaitingCall, error: HuteroxError) -> list[Effect]:
        waiting.service.group.waiting.remove(waiting)
        self._left(waiting)
        waiting.service.errors += 1
        return [Refuse(waiting.caller, waiting.request_id, error)]

    def _busy(self, why: str) -> Busy:
        return Busy(why, retry_after_s=self._config.busy_retry_after_s)

    def release(self, container: Container, now_s: float) -> list[Effect]:
        """The group's container is ready: forward who waits for it, as far as it takes calls.

        To the replacer the load stood for the first of these calls; the others are accesses.
        """
        effects: list[Effect] = []
        while container.group.waiting and self._calls.has_room(container, now_s):
            effects.append(self._forward(self._next_of(container.group), container, now_s))
        if len(effects) > 1:
            container.node.replacer.record_access(container.id, len(effects) - 1)
        return effects

    def admit(self, group: Group, now_s: float) -> list[Effect]:
        """Containers that were busy may take calls again: forward those whose turn it is."""
        effects: list[Effect] = []
        while group.waiting and (ready := [c for c in group.ready if self._calls.has_room(c, now_s)]):
            container = shortest_queue(ready)
            container.node.replacer.record_access(container.id)
            effects.append(self._forward(self._next_of(group), container, now_s))
        return effects

    def admit_all(self, now_s: float) -> list[Effect]:
        return [effect for group in self.groups() if group.ready for effect in self.admit(group, now_s)]

    def lend(self, group: Group, container: Container, now_s: float) -> Effect:
        """Forward the next of a line to a container that belongs to another group."""
        return self._forward(self._next_of(group), container, now_s)

    def _next_of(self, group: Group) -> WaitingCall:
        waiting = group.waiting.take_next()
        self._left(waiting)
        return waiting

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
        return self._fail_one(cancelled, error)

    def ids_of(self, caller: bytes) -> list[int]:
        return [request_id for other, request_id in self._waiting if other == caller]

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
            what = "had too much to do" if group.ready else "was not resident"
            why = f"model {group.model.name!r} {what} within the call's time"
            error = DeadlineExceeded(why, waited_for="turn" if group.ready else "load")
            effects += self.fail(group, error, lambda w: w.deadline_s <= now_s)
        return effects

    def _take(self, group: Group, which: Callable[[WaitingCall], bool]) -> list[WaitingCall]:
        taken = [waiting for waiting in group.waiting if which(waiting)]
        if not taken:
            return taken
        for waiting in taken:
            group.waiting.remove(waiting)
            self._left(waiting)
        return taken

    def _left(self, waiting: WaitingCall) -> None:
        """It is in its line no more."""
        del self._waiting[waiting.caller, waiting.request_id]
        self._nbytes -= waiting.nbytes
        self._nbytes_of[waiting.caller] -= waiting.nbytes
        if not self._nbytes_of[waiting.caller]:
            del self._nbytes_of[waiting.caller]
        waiting.service.in_flight -= 1
        group = waiting.service.group
        if not group.waiting:
            self._lines.pop(group.key, None)
