"""The double of NVIDIA's management library: what it shows stands in a JSON file, named by HUTEROX_TEST_NVML.

{"error": "", "devices": [{"uuid", "name", "total", "free", "mig", "lost", "processes": [[pid, bytes or null], ...]}]}

What processes hold by `cuda.hold` counts on the first device too, for LATE_S after their end without being listed.
"""

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

LATE_S = 0.5


class NVMLError(Exception):
    """As there: the root of all that it raises."""


def _devices() -> list[dict[str, Any]]:
    path = os.environ.get("HUTEROX_TEST_NVML")
    if not path:
        raise NVMLError("NVML Shared Library Not Found")
    state = json.loads(Path(path).read_text())
    if state.get("error"):
        raise NVMLError(state["error"])
    devices: list[dict[str, Any]] = state["devices"]
    if devices:
        _add_held(Path(path + ".held"), devices[0])
    return devices


def _add_held(folder: Path, device: dict[str, Any]) -> None:
    for file in folder.glob("[0-9]*"):
        try:
            nbytes, ended_s = int(file.read_text()), time.time() - file.stat().st_mtime
            if not file.suffix and _lives(file.name):
                device["processes"] = [*device.get("processes", []), [int(file.name), nbytes]]
            elif not file.suffix:
                file.touch()
                file.rename(file.with_suffix(".late"))
            elif ended_s > LATE_S:
                file.unlink()
                continue
        except FileNotFoundError:  # another process has looked at the same time
            continue
        device["free"] -= nbytes


def _lives(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def nvmlInit() -> None:
    _devices()


def nvmlShutdown() -> None:
    pass


def nvmlDeviceGetCount() -> int:
    return len(_devices())


def nvmlDeviceGetHandleByIndex(index: int) -> str:
    device = _devices()[index]
    if device.get("lost"):
        raise NVMLError("GPU is lost")
    return str(device["uuid"])


def nvmlDeviceGetHandleByUUID(uuid: str) -> str:
    _find(uuid)
    return uuid


def nvmlDeviceGetUUID(handle: str) -> str:
    return handle


def nvmlDeviceGetName(handle: str) -> str:
    return str(_find(handle)["name"])


def nvmlDeviceGetMigMode(handle: str) -> list[int]:
    mode = _find(handle).get("mig")
    if mode is None:
        raise NVMLError("Not Supported")
    return [mode, mode]


def nvmlDeviceGetMemoryInfo(handle: str) -> SimpleNamespace:
    device = _find(handle)
    return SimpleNamespace(total=device["total"], free=device["free"], used=device["total"] - device["free"])


def nvmlDeviceGetComputeRunningProcesses(handle: str) -> list[SimpleNamespace]:
    return [SimpleNamespace(pid=pid, usedGpuMemory=nbytes) for pid, nbytes in _find(handle).get("processes", [])]


def _find(uuid: str) -> dict[str, Any]:
    for device in _devices():
        if device["uuid"] == uuid:
            return device
    raise NVMLError("Not Found")
