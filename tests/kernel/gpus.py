"""A machine with GPUs, as the double of the driver's library shows it (`driver/pynvml.py`)."""

import json
import os
from pathlib import Path
from typing import Any, Final

import pytest

GIB: Final = 1024**3
GPU: Final = "GPU-8f6e2c1a-0000-4000-8000-000000000001"
OTHER: Final = "GPU-8f6e2c1a-0000-4000-8000-000000000002"
DRIVER: Final = Path(__file__).with_name("driver")


class Gpus:
    """Two devices of 80 GiB, and what is on them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._state: dict[str, Any] = {
            "devices": [
                {"uuid": uuid, "name": "Double 80GB", "total": 80 * GIB, "free": 80 * GIB, "processes": []}
                for uuid in (GPU, OTHER)
            ]
        }
        self._write()

    def hold(self, pid: int, nbytes: int | None, free: int, uuid: str = GPU) -> None:
        """A process appears on a device."""
        device = self._of(uuid)
        device["processes"].append([pid, nbytes])
        device["free"] = free
        self._write()

    def set(self, uuid: str = GPU, **values: Any) -> None:
        self._of(uuid).update(values)
        self._write()

    def fail(self, error: str) -> None:
        """The driver answers everything with this; "" ends it."""
        self._state["error"] = error
        self._write()

    def _of(self, uuid: str) -> dict[str, Any]:
        return next(device for device in self._state["devices"] if device["uuid"] == uuid)

    def _write(self) -> None:
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps(self._state))
        new.replace(self._path)


def plug_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Gpus:
    """Give them to this process and to those that it starts."""
    path = folder / "nvml.json"
    gpus = Gpus(path)
    monkeypatch.setenv("HUTEROX_TEST_NVML", str(path))
    search = [str(DRIVER), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(search))
    return gpus
