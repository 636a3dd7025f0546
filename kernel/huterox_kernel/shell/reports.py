"""What the kernel tells the switchboard: that it is there, how it is, and what has become of each container."""

import logging
import os
import time
from collections.abc import Callable
from typing import Final

from huterox_kernel.core.records import text_of
from huterox_kernel.core.supervisor import Supervisor
from huterox_kernel.shell import probes, processes
from huterox_kernel.shell.lanes import Lanes
from huterox_kernel.shell.leases import Leases
from huterox_kernel.shell.link import Link
from huterox_kernel.shell.memory import Memory
from huterox_wire.kinds import Kind
from huterox_wire.message import encode
from huterox_wire.meta import encode_meta
from huterox_wire.nodes import Capacity, ContainerEvent, ContainerReport, HeartbeatMeta, RegisterMeta

_log: Final = logging.getLogger("huterox.kernel")


class Reports:
    """Puts the core's reports together with what lanes count and what devices have free, and sends them.

    Args:
        base: host memory that is charged to the node itself.
    """

    def __init__(
        self,
        node: str,
        boot: str,
        capacity: Capacity,
        supervisor: Supervisor,
        link: Link,
        lanes: Lanes,
        leases: Leases,
        memory: Memory,
        base: Callable[[], int],
    ) -> None:
        self._node = node
        self._boot = boot
        self._capacity = capacity
        self._supervisor = supervisor
        self._link = link
        self._lanes = lanes
        self._leases = leases
        self._memory = memory
        self._base = base
        self._started_s: dict[int, float] = {}
        self._ended: dict[int, ContainerReport] = {}  # what those counted in all that have ended and are not gone yet

    def begin(self, container: int) -> None:
        """A worker is ordered."""
        self._started_s[container] = time.time()

    def end(self, container: int) -> None:
        """Its process has ended: what its lanes counted is read for the last time, before they go."""
        counted = ContainerReport(container, "", "", "gone")
        self._count(counted)
        self._ended[container] = counted

    async def register(self) -> None:
        """Tell of this node and all its containers."""
        devices = await self._memory.free()
        meta = RegisterMeta(
            node=self._node,
            boot=self._boot,
            pid=os.getpid(),
            host=os.uname().nodename,
            capacity=self._capacity,
            containers=self._containers(),
            version=kernel_version(),
            host_id=processes.boot_id(),
            host_bytes_free=probes.host_bytes_free(),
            devices=devices,
            epoch_seen=self._supervisor.epoch,
            store_seen=self._supervisor.store,
            mark_seen=self._supervisor.mark,
            base_bytes=self._base(),
        )
        self._link.send_control(encode(Kind.REGISTER, 0, 0, 0, encode_meta(meta)))

    async def beat(self, *, with_calls: bool = False) -> None:
        """Tell how all is; `with_calls`, also which calls are here: of what was sent before, some may be lost."""
        devices = await self._memory.free()
        meta = HeartbeatMeta(
            node=self._node,
            boot=self._boot,
            host_bytes_free=probes.host_bytes_free(),
            containers=self._containers(),
            devices=devices,
            calls=self._lanes.numbers() if with_calls else None,
            base_bytes=self._base(),
        )
        self._link.send_control(encode(Kind.HEARTBEAT, 0, 0, 0, encode_meta(meta)), keep=with_calls)

    def tell(self, event: ContainerEvent) -> None:
        """Tell what has become of a container; of one that is gone, what it counted."""
        if event.what == "gone":
            self._started_s.pop(event.container, None)
            if (counted := self._ended.pop(event.container, None)) is not None:
                event.requests, event.lane_usage = counted.requests, counted.lane_usage
        _log.info("%s %s %s %s", text_of(event.container), event.what, event.cause, event.reason)
        self._link.send_control(encode(Kind.EVENT, 0, 0, 0, encode_meta(event)))

    def _containers(self) -> list[ContainerReport]:
        reports = self._supervisor.reports()
        for report in reports:
            report.started_s = self._started_s.get(report.container, 0.0)
            self._count(report)
        return reports

    def _count(self, report: ContainerReport) -> None:
        """Fill in what the container's lanes count: the kernel's, and those of callers."""
        if (counted := self._ended.get(report.container)) is not None:
            report.requests, report.lane_usage = counted.requests, counted.lane_usage
            report.errors, report.busy_us = counted.errors, counted.busy_us
            return
        own = self._lanes.counters(report.container)
        lanes = self._leases.report(report.container)
        report.lanes, report.lane_calls, report.lane_usage, report.lane_services = lanes
        report.requests = sum(usage.calls for usage in report.lane_usage)
        report.errors = sum(usage.errors for usage in report.lane_usage)
        report.busy_us = sum(usage.busy_us for usage in report.lane_usage)
        if own is not None:
            report.requests += own.calls_taken
            report.errors += own.errors
            report.busy_us += own.busy_us


def kernel_version() -> str:
    """The version of the installed distribution."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("huterox")
    except PackageNotFoundError:
        return ""
