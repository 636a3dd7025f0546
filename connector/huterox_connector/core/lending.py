"""Dedicated containers that are lent while they are idle.

A service with containers of its own may allow that others of its model use them: then a fault of these is answered
without a load. The owner gets its container back within a bound: one borrowed call runs in it at a time, only calls of
models that were seen to take less than `lend_call_s_max` are let in, no lane leads there but the owner's, and once the
owner calls, nothing more is borrowed until it has been idle for `lend_idle_s` again.
"""

from collections.abc import Iterator

from huterox_connector.core.config import CoreConfig
from huterox_connector.core.effects import Effect
from huterox_connector.core.faults import Faults
from huterox_connector.core.journal import Journal
from huterox_connector.core.records import Container, Group, Service


class Lending:
    """Serves the lines of groups without a container from those of lenders."""

    def __init__(self, faults: Faults, journal: Journal, config: CoreConfig) -> None:
        self._faults = faults
        self._journal = journal
        self._config = config

    def serve(self, group: Group, now_s: float) -> list[Effect]:
        """Forward what waits for `group` to containers that may be borrowed now."""
        effects: list[Effect] = []
        while group.waiting and not group.ready and (container := self._borrowable(group, now_s)) is not None:
            if not container.lent_told:
                container.lent_told = True
                effects.append(self._tell(container, group, now_s))
            effects.append(self._faults.lend(group, container, now_s))
        return effects

    def serve_all(self, now_s: float) -> list[Effect]:
        """Lenders may have become idle."""
        effects: list[Effect] = []
        for group in self._faults.groups():
            if group.model.lenders:
                effects += self.serve(group, now_s)
        return effects

    def serves(self, group: Group, now_s: float) -> bool:
        """Whether there are containers to borrow, though they may be at a call now, which is short."""
        return next(self._lent_to(group, now_s), None) is not None

    def _borrowable(self, group: Group, now_s: float) -> Container | None:
        return next((container for container in self._lent_to(group, now_s) if not container.calls_now), None)

    def _lent_to(self, group: Group, now_s: float) -> Iterator[Container]:
        for owner in group.model.lenders.values():
            if owner.group is not group and self._may_lend(owner, now_s):
                yield from (container for container in owner.group.ready if container.spec == group.model.spec)

    def _may_lend(self, owner: Service, now_s: float) -> bool:
        """Whether it has been idle for long enough, and calls are known to be short enough."""
        if not owner.hits or owner.busy_s / owner.hits > self._config.lend_call_s_max:
            return False
        return now_s - owner.last_hit_s >= self._config.lend_idle_s

    def _tell(self, container: Container, group: Group, now_s: float) -> Effect:
        owner = next(iter(container.group.services.values()))
        reason = f"{owner.title} is idle and lends it: calls of other services of {group.model.name} need no load"
        return self._journal.record("lend", f"{container.spec.name} {container.title}", reason, now_s)
