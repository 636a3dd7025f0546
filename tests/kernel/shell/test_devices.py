"""What the driver's library shows, and what becomes of it where there is none."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from huterox_kernel.shell.devices import DriverError, Nvml, limited, open_driver
from huterox_wire.nodes import Device

from ..gpus import DRIVER, GIB, GPU, OTHER, Gpus, plug_in


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpus]:
    monkeypatch.syspath_prepend(str(DRIVER))
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    yield plug_in(tmp_path, monkeypatch)
    sys.modules.pop("pynvml", None)


def test_devices_go_by_the_ids_that_the_driver_gives_them(gpus: Gpus) -> None:
    assert Nvml().devices() == [Device(GPU, 80 * GIB, "Double 80GB"), Device(OTHER, 80 * GIB, "Double 80GB")]


@pytest.mark.parametrize(
    ("device_mb", "gib"),
    [(0, [80, 80]), (20 * 1024, [20, 20]), (100 * 1024, [80, 80]), ({OTHER: 1024}, [80, 1]), ({GPU: 0}, [80, 80])],
)
def test_the_configuration_limits_what_containers_may_have(
    gpus: Gpus, device_mb: int | dict[str, int], gib: list[int]
) -> None:
    assert [device.nbytes // GIB for device in limited(Nvml().devices(), device_mb)] == gib


def test_a_device_that_is_split_is_left_out(gpus: Gpus) -> None:
    gpus.set(GPU, mig=1)
    gpus.set(OTHER, mig=0)
    assert [device.id for device in Nvml().devices()] == [OTHER]


def test_a_device_that_does_not_answer_is_left_out_and_told(gpus: Gpus, caplog: pytest.LogCaptureFixture) -> None:
    gpus.set(GPU, lost=True)
    assert [device.id for device in Nvml().devices()] == [OTHER]
    assert "device number 0 is left out: GPU is lost" in caplog.text


def test_memory_is_told_by_process(gpus: Gpus) -> None:
    gpus.hold(17, 3 * GIB, free=76 * GIB)
    reading = Nvml().read(GPU)
    assert (reading.total, reading.free, reading.held) == (80 * GIB, 76 * GIB, {17: 3 * GIB})


def test_a_process_in_several_contexts_holds_what_they_hold_together(gpus: Gpus) -> None:
    gpus.set(processes=[[17, GIB], [17, 2 * GIB], [18, None], [19, GIB], [19, None]])
    assert Nvml().read(GPU).held == {17: 3 * GIB, 18: None, 19: None}


def test_a_device_that_has_gone_is_an_error_until_it_is_back(gpus: Gpus) -> None:
    driver = Nvml()
    driver.read(GPU)
    gpus.fail("GPU is lost")
    with pytest.raises(DriverError, match="GPU is lost"):
        driver.read(GPU)
    gpus.fail("")
    assert driver.read(GPU).free == 80 * GIB


def test_a_machine_without_a_driver_has_no_devices_and_says_so_once(
    gpus: Gpus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("HUTEROX_TEST_NVML")
    with caplog.at_level(logging.INFO):
        assert open_driver("all") == (None, [])
    assert [record.message for record in caplog.records] == ["no devices: no NVML: NVML Shared Library Not Found"]


def test_a_machine_without_the_library_has_no_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert open_driver("all") == (None, [])


def test_the_configuration_names_the_devices_that_containers_may_have(
    gpus: Gpus, caplog: pytest.LogCaptureFixture
) -> None:
    _, devices = open_driver([OTHER, "GPU-absent"])
    assert [device.id for device in devices] == [OTHER]
    assert "device GPU-absent, which the configuration names, is not here" in caplog.text


def test_where_no_device_is_wanted_the_driver_is_not_asked(gpus: Gpus) -> None:
    gpus.fail("asked")
    assert open_driver([]) == (None, [])
    assert "pynvml" not in sys.modules
