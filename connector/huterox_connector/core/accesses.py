"""The accessed bits of the page table: which services use their containers, and whom the memory is charged to.

A bit is set by a call and cleared by the sweep, as the reference bits of pages are; a service counts as using its
containers in the window of its last call and in the one after. What containers hold is charged, window by window, to
the services that used them last, in equal parts.
"""

from typing import Final

from huterox_connector.core.config import CoreConfig
from huterox_connector.core.ids import ServiceId
from huterox_connector.core.records import Container, Group, GroupKey, Service

SWEPT_MAX: Final = 64
"""Groups that one look sweeps: all at once would hold up everything else. Where there are more, windows take longer."""


class Accesses:
    """Sets bits, sweeps them, and charges memory to who used it."""

    def __init__(self, config: CoreConfig, now_s: float) -> None:
        self._window_s = config.accessed_window_s
        self._touched: dict[GroupKey, Group] = {}
        self._unswept: list[Group] = []
        self._changed: dict[ServiceId, Service] = {}
        self._sweep_at_s = now_s + self._window_s

    def note(self, service: Service) -> None:
        """The first call of a service in this window."""
        group = service.group
        service.accessed = True
        group.accessed[service.id] = service
        group.users += service.id not in group.recent
        self._touched[group.key] = group

    def hold(self, container: Container, now_s: float) -> None:
        """Count what `container` has held since it was last counted."""
        elapsed_s = now_s - container.counted_s
        container.counted_s = now_s
        group = container.group
        group.host_byte_s += container.charge.host_bytes * elapsed_s
        group.device_byte_s += container.charge.device_bytes * elapsed_s
        self._touched[group.key] = group

    def sweep(self, now_s: float) -> bool:
        """At the end of a window: clear the bits, charge the memory; of many groups a part. Whether any was swept."""
        if not self._unswept and now_s >= self._sweep_at_s:
            self._sweep_at_s = now_s + self._window_s
            self._unswept, self._touched = list(self._touched.values()), {}
        swept = self._unswept[-SWEPT_MAX:]
        del self._unswept[-SWEPT_MAX:]
        for group in swept:
            self._changed |= group.accessed
            self._sweep_group(group)
            if group.recent:
                self._touched[group.key] = group
        return bool(swept)

    def is_sweeping(self) -> bool:
        """Is a part of the last window's groups still to be swept?"""
        return bool(self._unswept)

    def swept(self) -> list[Service]:
        """The services whose usage was swept since this was last asked."""
        changed, self._changed = self._changed, {}
        return list(changed.values())

    def changed(self) -> list[Service]:
        """The same, and those that have been called since."""
        for group in (*self._unswept, *self._touched.values()):
            self._changed |= group.accessed
        return self.swept()

    def _sweep_group(self, group: Group) -> None:
        for service in group.accessed.values():
            service.accessed = False
        group.recent, group.accessed = group.accessed, {}
        group.users = len(group.recent)
        if group.recent:
            group.holders = list(group.recent)
        payers = [group.services[handle] for handle in group.holders if handle in group.services]
        payers = payers or list(group.services.values())
        for service in payers:
            self._changed[service.id] = service
            service.host_byte_s += group.host_byte_s / len(payers)
            service.device_byte_s += group.device_byte_s / len(payers)
        if payers:
            group.host_byte_s = group.device_byte_s = 0.0


def is_accessed(service: Service) -> bool:
    """The bit, as people see it: used in this window or in the last one."""
    return service.accessed or service.id in service.group.recent
