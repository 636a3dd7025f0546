"""Calls whose model is not resident: they wait, bounded and with their deadline, while room is made.

All calls of one group wait in one line and share one load. A line ends in one of three ways: its container became ready
and the calls are forwarded in order; the load failed and all get its error; or one call's own time is over.
"""

from collections.abc import Callable

from huterox_connector.core.calls import Call, Calls
from huterox_connector.core.config import CoreConfig
from huterox_connector.core.effects import Effect, Forward, Refuse
from huterox_connector.core.events import CallMissed
from huterox_connector.core.records import Container, Group, Service, WaitingCall
from huterox_wire.errors import Busy, DeadlineExceeded, HuteroxError
from huterox_wire.limits import PACKED_NBYTES_MAX


class Faults:
    """The waiting lines of all groups."""

    def __init__(self, calls: Calls, config: CoreConfig) -> None:
        self._calls = calls
        self._config = config
        self._lines: dict[tuple[str, int], Group] = {}  # the groups that have a line
        self._count = 0
        self._nbytes = 0

    def __len__(self) -> int:
        return self._count

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
        if not self._calls.room_for(event.caller, self._count, event.nbytes):
            raise self._busy("too many calls are in flight")
        deadline_s = now_s + (event.budget_us * 1e-6 if event.budget_us else config.call_timeout_s)
        group.waiting.append(
            WaitingCall(event.caller, event.request_id, service, deadline_s, now_s, event.frames, event.nbytes)
        )
        self._lines[group.key] = group
        self._count += 1
        self._nbytes += event.nbytes

    def _busy(self, why: str) -> Busy:
        return Busy(why, retry_after_s=self._config.busy_retry_after_s)

    def release(self, container: Container, now_s: float) -> list[Effect]:
        """The group's container is ready: forward its line, in order."""
        effects: list[Effect] = []
        for waiting in self._take(container.group, lambda _: True):
            # A packed call is small; only larger ones count against the bytes in flight, as on the way of a hit.
            nbytes = waiting.nbytes if waiting.nbytes > PACKED_NBYTES_MAX else 0
            call = Call(waiting.caller, waiting.request_id, waiting.service, container, waiting.deadline_s, nbytes)
            self._calls.enter(call, now_s)
            budget_us = max(1, int((waiting.deadline_s - now_s) * 1e6))
            route = container.route_prefix + waiting.caller
            effects.append(Forward(container.node.identity, route, waiting.frames, budget_us))
        return effects

    def fail(
        self, group: Group, error: HuteroxError, which: Callable[[WaitingCall], bool] = lambda _: True
    ) -> list[Effect]:
        """End those of a line that `which` picks, all by default, with one error."""
        effects: list[Effect] = []
        for waiting in self._take(group, which):
            waiting.service.errors += 1
            effects.append(Refuse(waiting.caller, waiting.request_id, error))
        return effects

    def cancel(self, caller: bytes, request_id: int, error: HuteroxError) -> list[Effect]:
        """End one waiting call; nothing where it does not wait."""
        effects: list[Effect] = []
        for group in self.groups():
            effects += self.fail(group, error, lambda w: w.caller == caller and w.request_id == request_id)
        return effects

    def holds(self, caller: bytes, request_id: int) -> bool:
        return any(
            waiting.caller == caller and waiting.request_id == request_id
            for group in self._lines.values()
            for waiting in group.waiting
        )

    def expire(self, now_s: float) -> list[Effect]:
        """End the calls whose time is over."""
        effects: list[Effect] = []
        for group in self.groups():
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
        self._count -= len(taken)
        self._nbytes -= sum(waiting.nbytes for waiting in taken)
        if not kept:
            self._lines.pop(group.key, None)
        return taken
