"""What workers hold, on the host and on their devices, and whether it has come back after their end.

Asking takes milliseconds, for a driver at times much longer, so all of it is done in threads. The driver has one of its
own: what it does not answer in time is not known, and nobody asks again until it has.

A driver gives an ended process's memory back late, a second is usual. Whether it has is seen by what nobody accounts
for: memory that is neither free nor held by a process that the driver lists. That rises when a process leaves the
list before its memory is free, and falls back when it is. Where the driver does not show the worker at all (another
pid namespace) its own memory is among it, so the measure is what nobody accounted for before the worker began.
"""

import asyncio
import logging
from asyncio import AbstractEventLoop
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, NamedTuple, TypeVar

from huterox_kernel.shell import processes
from huterox_kernel.shell.devices import Driver, DriverError, Reading
from huterox_kernel.shell.resident import HostMemory, Tree
from huterox_wire.nodes import DeviceFree

_log: Final = logging.getLogger("huterox.kernel")
_T = TypeVar("_T")

ANSWER_S: Final = 1.0
"""How long anybody waits for the driver."""

LOOK_S: Final = 0.05
"""How often a device is asked for an ended worker's memory."""

SLACK_NBYTES: Final = 64 * 1024 * 1024
"""What may be missing all the same: drivers keep small pools, and the least that a process holds is far more."""


class Held(NamedTuple):
    """What a worker holds; 0 where that is not known."""

    host_bytes: int
    device_bytes: int


NOTHING: Final = Held(0, 0)


class _Watched:
    """A worker's device, and how much of it nobody accounts for while the worker is well."""

    __slots__ = ("device", "unaccounted")

    def __init__(self, device: str) -> None:
        self.device = device
        self.unaccounted: int | None = None


class Memory:
    """Asks the system and the driver. Owns the driver.

    Args:
        devices: the ids of those that containers may have.
    """

    def __init__(self, loop: AbstractEventLoop, driver: Driver | None, devices: list[str]) -> None:
        self._loop = loop
        self._driver = driver
        self._devices = devices
        self._thread = ThreadPoolExecutor(1, "driver") if driver is not None else None
        self._host = HostMemory()
        self._looking = asyncio.Lock()  # one round at a time
        self._hung: Future[Any] | None = None  # a question that was not answered in time
        self._trouble: dict[str, str] = {}  # by device: what the driver says
        self._watched: dict[int, _Watched] = {}
        self._returning: list[str] = []  # devices that owe memory, once for each worker

    def close(self) -> None:
        if self._driver is not None and self._thread is not None:
            self._thread.submit(self._driver.close)
            self._thread.shutdown(wait=False)

    # While a worker lives.

    def watch(self, container: int, device: str) -> None:
        """A container is about to begin on this device; `look_before` follows at once."""
        self._watched[container] = _Watched(device)

    async def look_before(self, container: int) -> None:
        """What nobody accounts for before it has begun."""
        if (watched := self._watched.get(container)) is None:
            return
        reading = await self._read(watched.device)
        if reading is not None and watched.unaccounted is None:
            watched.unaccounted = _unaccounted(reading)

    def forget(self, container: int) -> None:
        """It is gone."""
        self._watched.pop(container, None)

    @property
    def base_bytes(self) -> int:
        """Host memory that is no single container's, as it was measured last: zygotes, and what workers share."""
        return self._host.base_bytes

    @property
    def zygotes(self) -> dict[int, int]:
        """What each zygote had in memory then, by pid."""
        return self._host.zygotes

    async def measure(self, tree: Tree) -> Held:
        """What a container holds now."""
        host_bytes = await self._loop.run_in_executor(None, self._host.measure, tree)
        return Held(host_bytes, await self._held_on_device(tree))

    async def measure_all(self, zygotes: Sequence[int], trees: Sequence[Tree]) -> dict[int, Held]:
        """What each container holds now, and the base; those that have ended meanwhile are left out."""
        async with self._looking:
            host = await self._loop.run_in_executor(None, self._host.measure_all, zygotes, trees)
        return {
            tree.container: Held(host[tree.container], await self._held_on_device(tree))
            for tree in trees
            if tree.container in host
        }

    async def _held_on_device(self, tree: Tree) -> int:
        watched = self._watched.get(tree.container)
        reading = await self._read(watched.device) if watched is not None else None
        if watched is None or reading is None:
            return 0
        pids = [tree.worker.pid]
        if len(reading.held) > 1:
            pids += processes.descendants(tree.worker.pid)
        held = [nbytes for pid in pids if (nbytes := reading.held.get(pid)) is not None]
        if not held:
            return 0
        if watched.device not in self._returning:
            watched.unaccounted = _unaccounted(reading)
        return sum(held)

    async def free(self) -> list[DeviceFree]:
        """What the driver says is free, of every device that it tells of."""
        readings = [(device, await self._read(device)) for device in self._devices]
        return [DeviceFree(device, reading.free) for device, reading in readings if reading is not None]

    # After its end.

    async def await_return(self, container: int, pid: int, timeout_s: float) -> bool:
        """Wait until nothing of an ended worker is left on its device. False: not within this time."""
        watched = self._watched.get(container)
        if watched is None:
            return True
        until_s = self._loop.time() + timeout_s
        self._returning.append(watched.device)
        try:
            while self._loop.time() < until_s:
                reading = await self._read(watched.device)
                if reading is not None and _is_back(reading, pid, watched.unaccounted):
                    return True
                await asyncio.sleep(LOOK_S)
        finally:
            self._returning.remove(watched.device)
        return False

    # The driver.

    async def _read(self, device: str) -> Reading | None:
        """None: the driver does not tell, which the log does, once."""
        if (driver := self._driver) is None:
            return None
        try:
            reading = await self._ask(lambda: driver.read(device))
        except DriverError as exc:
            if self._trouble.get(device) != str(exc):
                _log.warning("device %s: %s", device, exc)
            self._trouble[device] = str(exc)
            return None
        if self._trouble.pop(device, None) is not None:
            _log.info("device %s: the driver tells again", device)
        return reading

    async def _ask(self, question: Callable[[], _T]) -> _T:
        """Raises DriverError, also where no answer comes in time."""
        assert self._thread is not None
        if self._hung is not None and not self._hung.done():
            raise DriverError("the driver does not answer")
        asked = self._thread.submit(question)
        answer = asyncio.wrap_future(asked)
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())  # it may come when nobody waits
        await asyncio.wait([answer], timeout=ANSWER_S)
        if answer.done():
            return answer.result()
        if not asked.cancel():  # it has begun
            self._hung = asked
        raise DriverError("the driver does not answer")


def _unaccounted(reading: Reading) -> int:
    return reading.total - reading.free - sum(nbytes or 0 for nbytes in reading.held.values())


def _is_back(reading: Reading, pid: int, unaccounted: int | None) -> bool:
    if pid in reading.held:
        return False
    return unaccounted is None or _unaccounted(reading) <= unaccounted + SLACK_NBYTES
