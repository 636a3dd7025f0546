"""Memory of a device is back before its container is said to be gone."""

from typing import Any

import pytest

from huterox_kernel.core.effects import AwaitMemory, Discard, Effect, Exit, FailCalls, Report, StartWorker
from huterox_kernel.core.events import (
    CloseOrdered,
    CreateOrdered,
    DrainOrdered,
    Event,
    FootprintMeasured,
    MemoryReturned,
    ShutdownOrdered,
    StartFailed,
    Ticked,
    WorkerBroken,
    WorkerEnded,
    WorkerFailed,
    WorkerForked,
    WorkerProgressed,
    WorkerReady,
)
from huterox_kernel.core.supervisor import Supervisor
from huterox_wire.leases import DrainMeta
from huterox_wire.nodes import Capacity, CloseMeta, ContainerEvent, CreateMeta, Device, ModelSpec

MIB = 1024 * 1024
A, B = 1 << 32 | 1, 1 << 32 | 2
GPU = "GPU-1"
SPEC = ModelSpec(name="yolo", entry="yolo.py:Yolo", device="cuda")
DRAINED = Report(ContainerEvent(container=A, what="drained"))


def supervisor(slots: int = 4) -> Supervisor:
    capacity = Capacity(slots, 1000 * MIB, [Device(GPU, 1000 * MIB)])
    return Supervisor(capacity, close_grace_s=3.0, heartbeat_s=1.0, return_timeout_s=5.0)


def ready(core: Supervisor, container: int = A, device: str = GPU) -> None:
    core.on(CreateOrdered(CreateMeta(1, container, SPEC, device)), 0.0)
    core.on(WorkerForked(container, 42, 777), 0.0)
    core.on(WorkerReady(container, {}, MIB, 64 * MIB), 0.0)


def returning(core: Supervisor) -> None:
    ready(core)
    core.on(CloseOrdered(CloseMeta(1, A, "evicted")), 1.0)
    core.on(WorkerEnded(A, "exited with code 0"), 2.0)


def gone(effects: list[Effect]) -> ContainerEvent:
    (report,) = [effect for effect in effects if isinstance(effect, Report)]
    assert report.event.what == "gone"
    return report.event


def test_a_container_on_a_device_is_gone_when_its_memory_is_back() -> None:
    core = supervisor()
    ready(core)
    core.on(CloseOrdered(CloseMeta(1, A, "evicted")), 1.0)
    effects = core.on(WorkerEnded(A, "exited with code 0"), 2.0)
    assert effects == [Discard(A), DRAINED, FailCalls(A, "evicted"), AwaitMemory(A, GPU, 42)]
    assert [(report.container, report.state, report.device) for report in core.reports()] == [(A, "draining", GPU)]
    event = gone(core.on(MemoryReturned(A), 2.7))
    assert (event.cause, event.reason, event.pid, event.pid_started) == ("closed", "evicted", 42, 777)
    assert core.reports() == []


def test_who_called_a_container_that_crashed_on_its_device_need_not_wait_for_its_memory() -> None:
    core = supervisor()
    ready(core)
    effects = core.on(WorkerEnded(A, "killed by SIGKILL"), 1.0)
    assert effects.index(DRAINED) < effects.index(FailCalls(A, "killed by SIGKILL"))
    assert gone(core.on(MemoryReturned(A), 1.5)).cause == "crashed"


def test_memory_that_does_not_come_back_is_waited_for_with_a_bound_and_told() -> None:
    core = supervisor()
    returning(core)
    assert core.next_deadline_s() == 7.0
    assert core.on(Ticked(), 6.9) == []
    event = gone(core.on(Ticked(), 7.0))
    assert event.reason == "evicted (the memory of its device was not back after 5 s)"
    assert core.on(MemoryReturned(A), 7.1) == []


def test_without_a_device_the_end_of_the_process_is_enough() -> None:
    core = supervisor()
    ready(core, device="")
    effects = core.on(WorkerEnded(A, "killed by SIGKILL"), 1.0)
    assert gone(effects).cause == "crashed"
    assert not [effect for effect in effects if isinstance(effect, AwaitMemory)]


def test_a_start_that_failed_has_no_memory_to_wait_for() -> None:
    core = supervisor()
    core.on(CreateOrdered(CreateMeta(1, A, SPEC, GPU)), 0.0)
    assert gone(core.on(StartFailed(A, "no process"), 1.0)).cause == "refused"


def test_a_load_that_crashes_waits_for_its_memory_too() -> None:
    core = supervisor()
    core.on(CreateOrdered(CreateMeta(1, A, SPEC, GPU)), 0.0)
    core.on(WorkerForked(A, 42, 777), 0.0)
    assert AwaitMemory(A, GPU, 42) in core.on(WorkerEnded(A, "killed by SIGKILL"), 1.0)
    event = gone(core.on(MemoryReturned(A), 2.0))
    assert (event.cause, event.reason) == ("crashed", "killed by SIGKILL in stage import")


def test_a_container_whose_memory_is_not_back_holds_its_slot() -> None:
    core = supervisor(slots=1)
    returning(core)
    (refused,) = core.on(CreateOrdered(CreateMeta(1, B, SPEC)), 3.0)
    assert isinstance(refused, Report)
    assert refused.event.cause == "refused"
    core.on(MemoryReturned(A), 3.5)
    assert isinstance(core.on(CreateOrdered(CreateMeta(1, B, SPEC)), 4.0)[0], StartWorker)


@pytest.mark.parametrize(
    "event",
    [
        WorkerForked(A, 1, 1),
        StartFailed(A, "no"),
        WorkerProgressed(A, "load"),
        WorkerReady(A, {}, 1),
        WorkerFailed(A, "no", ""),
        WorkerBroken(A, "no"),
        WorkerEnded(A, "killed by SIGKILL"),
        FootprintMeasured(A, 1),
    ],
)
def test_late_news_of_a_process_that_has_ended_means_nothing(event: Event) -> None:
    core = supervisor()
    returning(core)
    assert core.on(event, 2.5) == []
    assert [report.host_bytes for report in core.reports()] == [MIB]


def test_memory_that_returns_before_the_process_has_ended_means_nothing() -> None:
    core = supervisor()
    ready(core)
    assert core.on(MemoryReturned(A), 1.0) == []
    assert [report.state for report in core.reports()] == ["ready"]


@pytest.mark.parametrize(("service", "answer"), [(0, [DRAINED]), (9, [])])
def test_orders_that_cross_the_end_of_the_process_do_no_harm(service: int, answer: list[Any]) -> None:
    core = supervisor()
    returning(core)
    assert core.on(CloseOrdered(CloseMeta(1, A, "again", 0.0)), 2.1) == []
    assert core.on(DrainOrdered(DrainMeta(1, A, "again", service)), 2.1) == answer
    assert core.next_deadline_s() == 7.0


def test_shutdown_waits_for_the_memory_and_a_second_one_does_not() -> None:
    core = supervisor()
    returning(core)
    assert core.on(ShutdownOrdered("SIGTERM"), 3.0) == []
    effects = core.on(ShutdownOrdered("SIGTERM"), 4.0)
    assert gone(effects).reason == "evicted"
    assert effects[-1] == Exit()
