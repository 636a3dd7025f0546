"""Counts the calls that pass by lanes. The switchboard does not see them: kernels report totals, this the difference.

A total is counted once, whatever becomes of reports: what has been counted is remembered for each container and
service, also for a container that is gone or whose node is lost, since a report may come twice, and a kernel may come
back. The totals of a container that is met for the first time count in full.

What has been counted is written to the store together with the counters of the service, so that a new switchboard goes
on where the old one was.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from huterox_connector.core.accesses import Accesses
from huterox_connector.core.ids import ContainerId, ServiceId
from huterox_connector.core.measured import Totals
from huterox_connector.core.records import Container, Service
from huterox_wire.nodes import LaneUsage

REMEMBERED_MAX: Final = 4096
"""Containers that are gone and whose totals are still remembered."""

GONE_WRITTEN_MAX: Final = 16
"""Of these, how many of one service are written to the store."""

_NONE: Final[Totals] = (0, 0, 0)


@dataclass(slots=True)
class Fresh:
    """What a report told that was not counted yet. `last_s` is when the last of these calls was; 0: there was none."""

    calls: int = 0
    errors: int = 0
    last_s: float = 0.0


class LaneUse:
    """Moves the counters of services; those of containers are its asker's."""

    def __init__(
        self, services: dict[ServiceId, Service], containers: dict[ContainerId, Container], accesses: Accesses
    ) -> None:
        """
        Args:
            services, containers: the registry's, read only.
        """
        self._services = services
        self._containers = containers
        self._accesses = accesses
        self._counted: OrderedDict[ContainerId, dict[ServiceId, Totals]] = OrderedDict()
        self._containers_of: dict[ServiceId, dict[ContainerId, None]] = {}  # the same, seen from services; newest last

    def count(self, container: ContainerId, usage: Iterable[LaneUsage], now_s: float) -> Fresh:
        """Count what is new in a container's totals. A service that was deleted meanwhile counts for the container."""
        fresh = Fresh()
        for reported in usage:
            calls, errors, busy_us = self._new_in(container, reported)
            if not (calls or errors or busy_us):
                continue
            last_s = now_s - max(reported.idle_us, 0) * 1e-6
            fresh.calls += calls
            fresh.errors += errors
            fresh.last_s = max(fresh.last_s, last_s)
            if (service := self._services.get(reported.service)) is not None:
                service.hits += calls
                service.errors += errors
                service.busy_s += busy_us * 1e-6
                service.last_hit_s = max(service.last_hit_s, last_s)
                if calls and not service.accessed:
                    self._accesses.note(service)
        return fresh

    def counted_of(self, service: Service) -> dict[ContainerId, Totals]:
        """What has been counted of a service's lanes, for each container that runs, and for the last that have gone.

        One that has gone with its node may come back with it, and tell its totals anew.
        """
        found: dict[ContainerId, Totals] = {}
        gone = 0
        for container_id in reversed(self._containers_of.get(service.id, {})):
            gone += container_id not in self._containers
            if gone <= GONE_WRITTEN_MAX or container_id in self._containers:
                found[container_id] = self._counted[container_id][service.id]
        return found

    def restore(self, service_id: ServiceId, counted: dict[ContainerId, Totals]) -> None:
        """An earlier switchboard has counted this."""
        for container_id, totals in counted.items():
            self._set(self._counted.setdefault(container_id, {}), container_id, service_id, totals)

    def _set(
        self, counted: dict[ServiceId, Totals], container: ContainerId, service: ServiceId, totals: Totals
    ) -> None:
        if service not in counted:
            self._containers_of.setdefault(service, {})[container] = None
        counted[service] = totals

    def _new_in(self, container: ContainerId, reported: LaneUsage) -> Totals:
        """The difference to what was counted. A total that has become smaller is none: nothing is taken back."""
        counted = self._counted.get(container)
        if counted is None:
            counted = self._remember(container)
        calls, errors, busy_us = known = counted.get(reported.service, _NONE)
        totals = (max(calls, reported.calls), max(errors, reported.errors), max(busy_us, reported.busy_us))
        if totals == known:
            return _NONE
        self._set(counted, container, reported.service, totals)
        return totals[0] - calls, totals[1] - errors, totals[2] - busy_us

    def _remember(self, container: ContainerId) -> dict[ServiceId, Totals]:
        counted = self._counted[container] = {}
        if len(self._counted) > REMEMBERED_MAX + len(self._containers):
            self._forget(next(cid for cid in self._counted if cid not in self._containers and cid != container))
        return counted

    def _forget(self, container: ContainerId) -> None:
        for service in self._counted.pop(container):
            of_service = self._containers_of[service]
            del of_service[container]
            if not of_service:
                del self._containers_of[service]
