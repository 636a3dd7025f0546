"""A real kernel on a machine with GPUs, which the double of their driver's library shows it."""

from pathlib import Path

import psutil
import pytest

from huterox_wire.nodes import Device, DeviceFree

from .conftest import Switchboard
from .gpus import GIB, GPU, OTHER, Gpus, plug_in

pytestmark = [pytest.mark.system, pytest.mark.timeout(90)]

A, B = 1 << 32 | 1, 1 << 32 | 2
ON_GPU = {"device": GPU, "device_bytes": 4 * GIB}


@pytest.fixture
def gpus(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Gpus:
    return plug_in(folder, monkeypatch)


def on_gpu(switchboard: Switchboard, container: int = A) -> int:
    """A ready container on the first device; returns its pid."""
    switchboard.create(container, "plain.py:Sees", given=ON_GPU, device="cuda")
    return switchboard.event(container, "ready").pid


def test_devices_are_registered_and_their_free_memory_is_told_then_and_in_heartbeats(
    gpus: Gpus, switchboard: Switchboard
) -> None:
    gpus.set(OTHER, free=9 * GIB)
    switchboard.start()
    registration = switchboard.registrations[0]
    assert registration.capacity.devices == [
        Device(GPU, 80 * GIB, "Double 80GB"),
        Device(OTHER, 80 * GIB, "Double 80GB"),
    ]
    assert registration.devices == [DeviceFree(GPU, 80 * GIB), DeviceFree(OTHER, 9 * GIB)]
    assert registration.host_bytes_free > 0
    gpus.set(OTHER, free=7 * GIB)
    want = [DeviceFree(GPU, 80 * GIB), DeviceFree(OTHER, 7 * GIB)]
    switchboard.until(lambda: [beat for beat in switchboard.heartbeats if beat.devices == want])


def test_the_configuration_restricts_the_devices(gpus: Gpus, switchboard: Switchboard) -> None:
    switchboard.start(devices=[OTHER])
    assert [device.id for device in switchboard.registrations[0].capacity.devices] == [OTHER]
    switchboard.create(A, given=ON_GPU)
    assert switchboard.event(A, "gone").reason == f"there is no device {GPU} here; there are {OTHER}"


def test_a_machine_without_a_driver_is_a_node_without_devices(switchboard: Switchboard) -> None:
    switchboard.start()
    assert switchboard.registrations[0].capacity.devices == []
    switchboard.until(lambda: len(switchboard.heartbeats) >= 2)
    assert switchboard.heartbeats[-1].devices == []
    assert switchboard.log().count("no devices: no NVML") == 1


def test_a_worker_sees_its_own_device_and_no_other_before_its_model_is_imported(
    gpus: Gpus, switchboard: Switchboard
) -> None:
    switchboard.start()
    on_gpu(switchboard)
    assert switchboard.result(A) == {"result": ["cuda", GPU, GPU]}


def test_a_worker_without_a_device_sees_none(gpus: Gpus, switchboard: Switchboard) -> None:
    switchboard.start()
    switchboard.created(A, "plain.py:Sees", device="any")
    assert switchboard.result(A) == {"result": ["cpu", "", ""]}
    switchboard.create(B, "plain.py:Sees", device="cuda")
    assert switchboard.event(B, "gone").reason == "the model needs a CUDA device, and its container was given none"


def test_what_a_worker_holds_on_its_device_is_measured(gpus: Gpus, switchboard: Switchboard) -> None:
    switchboard.start(footprint_period_s=0.05)
    pid = on_gpu(switchboard)
    gpus.hold(pid, 3 * GIB, free=76 * GIB)
    report = switchboard.heartbeat_of(A, lambda report: report.device_bytes)
    assert (report.device, report.device_bytes) == (GPU, 3 * GIB)
    assert report.host_bytes > 0


def test_a_container_is_gone_only_when_its_devices_memory_is_back(gpus: Gpus, switchboard: Switchboard) -> None:
    switchboard.start(footprint_period_s=0.05, memory_return_timeout_s=60.0)
    pid = on_gpu(switchboard)
    gpus.hold(pid, 3 * GIB, free=76 * GIB)
    switchboard.heartbeat_of(A, lambda report: report.device_bytes)
    switchboard.tell_close(A)
    switchboard.event(A, "drained")
    switchboard.until(lambda: not psutil.pid_exists(pid))
    gpus.set(processes=[])
    switchboard.heartbeat_of(A, lambda report: report.state == "draining")
    assert [event.what for event in switchboard.events] == ["loading", "ready", "drained"]
    gpus.set(free=79 * GIB)
    assert switchboard.event(A, "gone").reason == "evicted"


def test_memory_that_does_not_come_back_is_told_in_the_reason(gpus: Gpus, switchboard: Switchboard) -> None:
    switchboard.start(memory_return_timeout_s=0.3)
    gpus.hold(on_gpu(switchboard), 3 * GIB, free=76 * GIB)
    switchboard.tell_close(A)
    reason = switchboard.event(A, "gone").reason
    assert reason == "evicted (the memory of its device was not back after 0.3 s)"


def test_a_driver_that_fails_later_ends_nothing(gpus: Gpus, switchboard: Switchboard) -> None:
    switchboard.start()
    on_gpu(switchboard)
    gpus.fail("GPU has fallen off the bus")
    switchboard.heartbeats.clear()
    switchboard.until(lambda: any(not beat.devices for beat in switchboard.heartbeats))
    assert switchboard.result(A)["result"][0] == "cuda"
    gpus.fail("")
    switchboard.heartbeats.clear()
    switchboard.until(lambda: any(len(beat.devices) == 2 for beat in switchboard.heartbeats))
    assert switchboard.log().count("GPU has fallen off the bus") == 2  # once for each device
