"""Starts through the whole chain: a caller's call finds no container, the kernel's zygote forks one."""

import time
from collections.abc import Mapping
from typing import Any

import huterox
from huterox_bench.cold.rows import Start
from huterox_bench.errors import BenchError
from huterox_kernel.shell.processes import identity_of, pss_bytes

GONE_TIMEOUT_S = 30.0
LEARN_TIMEOUT_S = 60.0
DEAR_S = 0.03
"""Imports that take longer are learned by the kernel (`huterox_kernel.worker.imports`)."""

_TICK_S = 0.01
_LEARN_LOOK_S = 1.0


class WarmStarts:
    """A service of one model; each start begins and ends without a container."""

    def __init__(self, client: huterox.Client, name: str, inputs: Mapping[str, Any]) -> None:
        self._client = client
        self._inputs = dict(inputs)
        self.name = name
        self._service = client.service(name)

    def start(self) -> Start:
        """Call: the container that comes of it stays."""
        known = max((event["seq"] for event in self._client.events(limit=1)), default=0)
        begun_s = time.monotonic()
        self._service.call(**self._inputs)
        call_s = time.monotonic() - begun_s
        told = {event["kind"]: event for event in self._client.events(after=known)}
        if not {"load", "ready"} <= set(told):
            raise BenchError(f"a call to {self.name} has started nothing: was its container not gone?")
        total_s = told["ready"]["at"] - told["load"]["at"]
        return Start(total_s, told["ready"]["details"]["timings_s"], pss_of(self.pid()), call_s)

    def pid(self) -> int:
        """Of its container's process."""
        return int(self._container()["pid"])

    def _container(self) -> dict[str, Any]:
        wanted = {row["name"]: row["container"] for row in self._client.services()}[self.name]
        for row in self._client.containers():
            if row["id"] == wanted:
                return dict(row)
        raise BenchError(f"{self.name} has no container")

    def end(self) -> None:
        """Evict the container, and wait until it is gone. Raises BenchError: it stays."""
        container = self._container()["id"]
        self._client.evict(container)
        until_s = time.monotonic() + GONE_TIMEOUT_S
        while any(row["id"] == container for row in self._client.containers()):
            if time.monotonic() > until_s:
                raise BenchError(f"{container} of {self.name} is not gone after {GONE_TIMEOUT_S:g} s")
            time.sleep(_TICK_S)

    def teach(self) -> None:
        """Start it until the kernel has learned what it imports, or will not: until its imports are no longer dear."""
        until_s = time.monotonic() + LEARN_TIMEOUT_S
        while True:
            imported_s = self.start().timings_s["import"]
            self.end()
            if imported_s < DEAR_S or time.monotonic() > until_s:
                return
            time.sleep(_LEARN_LOOK_S)


def pss_of(pid: int) -> int:
    """Proportional set size in bytes; 0 where there is no such process any more."""
    try:
        return pss_bytes(identity_of(pid))
    except ProcessLookupError:
        return 0


def parent_of(pid: int) -> int:
    """The pid of a process's parent: of a worker, its zygote."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:  # noqa: PTH123 - one line
        return int(file.read().rpartition(")")[2].split()[1])


def memory_of(pids: list[int]) -> int:
    """What these workers and their zygotes hold together."""
    return sum(pss_of(pid) for pid in {*pids, *(parent_of(pid) for pid in pids)})
