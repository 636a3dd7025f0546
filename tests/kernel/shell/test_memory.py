"""What workers hold, and when it has come back."""

import asyncio
import logging
import os
import threading
from typing import Any

import pytest

from huterox_kernel.shell import memory
from huterox_kernel.shell.devices import DriverError, Reading
from huterox_kernel.shell.memory import Memory
from huterox_kernel.shell.processes import identity_of
from huterox_kernel.shell.resident import Tree
from huterox_wire.nodes import Device, DeviceFree

GIB = 1024**3
GPU = "GPU-1"
A = 1 << 32 | 1
PID = os.getpid()
DEAD = 2**22 + 1  # beyond all pids


class Driver:
    """Gives one reading after the other; the last one stays. An error is raised."""

    def __init__(self, *readings: Reading | DriverError) -> None:
        self.readings = list(readings)
        self.asked = 0
        self.closed = threading.Event()

    def devices(self) -> list[Device]:
        return [Device(GPU, 80 * GIB)]

    def read(self, device: str) -> Reading:
        self.asked += 1
        reading = self.readings.pop(0) if len(self.readings) > 1 else self.readings[0]
        if isinstance(reading, DriverError):
            raise reading
        return reading

    def close(self) -> None:
        self.closed.set()


def reading(free_gib: float, **held_gib: float | None) -> Reading:
    """Of 80 GiB. `held_gib`: by process, p17=3."""
    held = {int(name[1:]): None if gib is None else int(gib * GIB) for name, gib in held_gib.items()}
    return Reading(80 * GIB, int(free_gib * GIB), held)


def run(driver: Any, steps: Any) -> Any:
    async def main() -> Any:
        held = Memory(asyncio.get_running_loop(), driver, [GPU] if driver is not None else [])
        try:
            return await steps(held)
        finally:
            held.close()

    return asyncio.run(main())


def measured(driver: Any, device: str = GPU) -> memory.Held:
    async def steps(held: Memory) -> memory.Held:
        if device:
            held.watch(A, device)
            await held.look_before(A)
        return await held.measure(Tree(A, identity_of(PID)))

    result = run(driver, steps)
    assert isinstance(result, memory.Held)
    return result


def returned(driver: Driver, timeout_s: float = 10.0, *, is_measured: bool = True) -> bool:
    """Watch a container, measure it while it lives, then wait for its memory."""

    async def steps(held: Memory) -> bool:
        held.watch(A, GPU)
        await held.look_before(A)
        if is_measured:
            await held.measure(Tree(A, identity_of(PID)))
        return await held.await_return(A, PID, timeout_s)

    return bool(run(driver, steps))


# While it lives.


def test_a_worker_holds_what_the_driver_says_of_its_process() -> None:
    held = measured(Driver(reading(80), reading(76, **{f"p{PID}": 3, "p17": 1})))
    assert held.device_bytes == 3 * GIB
    assert held.host_bytes > 0


@pytest.mark.parametrize("seen", [reading(76), reading(76, **{f"p{PID}": None})])
def test_what_the_driver_does_not_tell_is_not_known(seen: Reading) -> None:
    assert measured(Driver(seen)).device_bytes == 0


def test_a_worker_without_a_device_holds_nothing_there_and_the_driver_is_not_asked() -> None:
    driver = Driver(DriverError("asked"))
    assert measured(driver, device="").device_bytes == 0
    assert driver.asked == 0


def test_free_memory_is_the_drivers_word() -> None:
    assert run(Driver(reading(70)), lambda held: held.free()) == [DeviceFree(GPU, 70 * GIB)]


def test_a_machine_without_devices_has_nothing_free() -> None:
    assert run(None, lambda held: held.free()) == []


def test_a_driver_that_fails_is_told_of_once_and_again_when_it_is_well(caplog: pytest.LogCaptureFixture) -> None:
    async def steps(held: Memory) -> list[list[DeviceFree]]:
        return [await held.free() for _ in range(3)]

    with caplog.at_level(logging.INFO):
        lost = DriverError("GPU is lost")
        assert run(Driver(lost, lost, reading(80)), steps) == [[], [], [DeviceFree(GPU, 80 * GIB)]]
    assert [record.message for record in caplog.records] == [
        "device GPU-1: GPU is lost",
        "device GPU-1: the driver tells again",
    ]


def test_a_driver_that_hangs_is_not_asked_again_until_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "ANSWER_S", 0.05)
    go_on = threading.Event()

    class Hangs(Driver):
        def read(self, device: str) -> Reading:
            result = super().read(device)
            assert go_on.wait(30)
            return result

    driver = Hangs(reading(80))

    async def steps(held: Memory) -> list[DeviceFree]:
        try:
            assert [await held.free() for _ in range(3)] == [[], [], []]
            assert driver.asked == 1
        finally:
            go_on.set()
        while not (free := await held.free()):
            await asyncio.sleep(0.001)
        return list(free)

    assert run(driver, steps) == [DeviceFree(GPU, 80 * GIB)]


def test_the_driver_is_closed_in_its_own_thread() -> None:
    driver = Driver(reading(80))

    async def nothing(held: Memory) -> None:
        await held.free()

    run(driver, nothing)
    assert driver.closed.wait(10)


# After its end.


def test_memory_is_back_when_the_process_is_not_listed_and_all_is_accounted_for() -> None:
    alive = reading(76, **{f"p{PID}": 3})
    driver = Driver(reading(79), alive, alive, reading(76), reading(78), reading(79))
    assert returned(driver)
    assert driver.asked == 6


def test_what_others_take_meanwhile_is_no_obstacle() -> None:
    alive = reading(76, **{f"p{PID}": 3})
    assert returned(Driver(reading(79), alive, reading(10, p17=69)))


def test_a_process_that_stays_listed_holds_its_memory() -> None:
    assert not returned(Driver(reading(79), reading(76, **{f"p{PID}": 3})), timeout_s=0.2)


def test_memory_that_nobody_accounts_for_is_not_back() -> None:
    assert not returned(Driver(reading(79), reading(76, **{f"p{PID}": 3}), reading(76)), timeout_s=0.2)


def test_a_worker_that_the_driver_does_not_show_is_measured_by_what_was_there_before_it() -> None:
    assert not returned(Driver(reading(79), reading(76)), timeout_s=0.2)
    assert returned(Driver(reading(79), reading(76), reading(76), reading(79)))


def test_a_driver_that_fails_while_memory_returns_is_asked_again() -> None:
    alive = reading(76, **{f"p{PID}": 3})
    assert returned(Driver(reading(79), alive, DriverError("busy"), reading(79)))


def test_a_container_that_is_gone_before_it_was_looked_at_is_not_watched() -> None:
    driver = Driver(reading(79))

    async def steps(held: Memory) -> bool:
        held.watch(A, GPU)
        held.forget(A)
        await held.look_before(A)
        return await held.await_return(A, PID, 10.0)

    assert run(driver, steps)
    assert driver.asked == 0


def test_nothing_is_learnt_from_a_device_that_owes_memory() -> None:
    """Measuring one worker while another's memory is on its way back must not take that for what is always missing."""
    owing = reading(70, **{f"p{PID}": 3})

    async def steps(held: Memory) -> bool:
        held.watch(A, GPU)
        await held.look_before(A)
        other = asyncio.ensure_future(held.await_return(A, DEAD, 60.0))
        await asyncio.sleep(0)
        await held.measure(Tree(A, identity_of(PID)))
        other.cancel()
        await asyncio.wait([other])
        return await held.await_return(A, PID, 0.2)

    assert not run(Driver(reading(79), owing, owing, owing, reading(73)), steps)
