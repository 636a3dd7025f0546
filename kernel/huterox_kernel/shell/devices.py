"""The GPUs of this node, as their driver shows them: which there are, what is free, which process holds how much.

A device goes by the id that the driver gives it (UUID): orders differ from library to library, and CUDA takes the id
in CUDA_VISIBLE_DEVICES. No driver, no library for it, no device: all the same to the rest, a list without entries.
"""

import importlib
import logging
from typing import Any, Final, NamedTuple, Protocol

from huterox_kernel.config import ALL_DEVICES, MIB
from huterox_wire.nodes import Device

_log: Final = logging.getLogger("huterox.kernel")


class DriverError(Exception):
    """The driver does not tell, now or at all; the message is one line for people."""


class Reading(NamedTuple):
    """A device's memory at one moment. `held`: by process; None where the driver does not tell how much."""

    total: int
    free: int
    held: dict[int, int | None]


class Driver(Protocol):
    """What the kernel asks of a driver. Any call may take long, so none is made in the kernel's loop."""

    def devices(self) -> list[Device]:
        """All that can be given to containers, and their memory in all. Raises DriverError."""

    def read(self, device: str) -> Reading:
        """A device's memory now. Raises DriverError."""

    def close(self) -> None:
        """Let go of the driver."""


class Nvml:
    """NVIDIA's management library."""

    def __init__(self) -> None:
        """Raises DriverError: there is no such library here, or no driver behind it."""
        try:
            self._nvml: Any = importlib.import_module("pynvml")
            self._nvml.nvmlInit()
        except ImportError as exc:
            raise DriverError(f"no NVML: {exc}") from exc
        except self._nvml.NVMLError as exc:
            raise DriverError(f"no NVML: {exc}") from exc
        self._handles: dict[str, Any] = {}

    def devices(self) -> list[Device]:
        try:
            count = self._nvml.nvmlDeviceGetCount()
        except self._nvml.NVMLError as exc:
            raise DriverError(f"NVML: {exc}") from exc
        return [device for index in range(count) if (device := self._device(index)) is not None]

    def _device(self, index: int) -> Device | None:
        """None: no container can have it, which the log tells."""
        nvml = self._nvml
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            if not self._is_split(handle):
                return self._describe(handle)
            _log.warning("device number %d is left out: it is split into MIG devices", index)
        except nvml.NVMLError as exc:
            _log.warning("device number %d is left out: %s", index, exc)
        return None

    def _describe(self, handle: Any) -> Device:
        nvml = self._nvml
        total = int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
        return Device(str(nvml.nvmlDeviceGetUUID(handle)), total, str(nvml.nvmlDeviceGetName(handle)))

    def _is_split(self, handle: Any) -> bool:
        """A device in MIG mode: CUDA takes the ids of its parts, and not its own."""
        try:
            mode, _ = self._nvml.nvmlDeviceGetMigMode(handle)
        except self._nvml.NVMLError:  # it has no such mode
            return False
        return bool(mode)

    def read(self, device: str) -> Reading:
        nvml = self._nvml
        try:
            handle = self._handles.get(device)
            if handle is None:
                handle = self._handles[device] = nvml.nvmlDeviceGetHandleByUUID(device)
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            processes = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        except nvml.NVMLError as exc:
            self._handles.pop(device, None)  # a device that comes back has a new one
            raise DriverError(f"NVML, {device}: {exc}") from exc
        held: dict[int, int | None] = {}
        for process in processes:  # one in several contexts may be listed several times
            before = held.get(process.pid, 0)
            known = process.usedGpuMemory is not None and before is not None
            held[int(process.pid)] = before + int(process.usedGpuMemory) if known and before is not None else None
        return Reading(int(memory.total), int(memory.free), held)

    def close(self) -> None:
        try:
            self._nvml.nvmlShutdown()
        except self._nvml.NVMLError:  # it has gone by itself
            return


def limited(devices: list[Device], device_mb: int | dict[str, int]) -> list[Device]:
    """The same, each with no more memory than the configuration gives to containers."""
    kept = []
    for device in devices:
        limit_mb = device_mb if isinstance(device_mb, int) else device_mb.get(device.id, 0)
        nbytes = min(device.nbytes, limit_mb * MIB) if limit_mb else device.nbytes
        kept.append(Device(device.id, nbytes, device.name))
    return kept


def open_driver(wanted: str | list[str]) -> tuple[Driver | None, list[Device]]:
    """The driver of this machine's GPUs, and those of them that the configuration lets containers have.

    No driver and no devices where there are none, or none is wanted; the log tells.
    """
    if not wanted:
        return None, []
    try:
        driver = Nvml()
        devices = driver.devices()
    except DriverError as exc:
        _log.info("no devices: %s", exc)
        return None, []
    if wanted != ALL_DEVICES:
        for name in set(wanted) - {device.id for device in devices}:
            _log.warning("device %s, which the configuration names, is not here", name)
        devices = [device for device in devices if device.id in wanted]
    _log.info("devices: %s", ", ".join(f"{device.id} ({device.name})" for device in devices) or "none")
    return driver, devices
