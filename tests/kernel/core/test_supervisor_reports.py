"""What CREATE named is kept and told back, and a worker's process can be told from any other."""

from typing import Any

import pytest

from huterox_kernel.core.effects import Effect, Report, StartWorker
from huterox_kernel.core.events import CreateOrdered, Ticked, WorkerEnded, WorkerForked, WorkerReady
from huterox_kernel.core.supervisor import Supervisor
from huterox_wire.nodes import Capacity, ContainerEvent, CreateMeta, Device, ModelSpec

MIB = 1024 * 1024
A = 1 << 32 | 1
SERVICE = 1 << 32 | 9
GPU = "GPU-1"


@pytest.fixture
def core() -> Supervisor:
    return Supervisor(Capacity(4, 1000 * MIB, [Device(GPU, 1000 * MIB)]), close_grace_s=3.0, heartbeat_s=1.0)


def create(core: Supervisor, **values: Any) -> list[Effect]:
    spec = ModelSpec(name="vad", entry="vad.py:Vad", load_timeout_s=10.0)
    return core.on(CreateOrdered(CreateMeta(1, A, spec, **values)), 0.0)


def events(effects: list[Effect]) -> list[ContainerEvent]:
    return [effect.event for effect in effects if isinstance(effect, Report)]


def test_every_event_of_a_process_names_when_it_started(core: Supervisor) -> None:
    create(core)
    told = events(core.on(WorkerForked(A, 42, 777), 0.0))
    told += events(core.on(WorkerReady(A, {}, MIB), 1.0))
    assert [report.pid_started for report in core.reports()] == [777]
    told += events(core.on(WorkerEnded(A, "killed by SIGKILL"), 2.0))
    assert [(event.what, event.pid, event.pid_started) for event in told] == [
        ("loading", 42, 777),
        ("ready", 42, 777),
        ("gone", 42, 777),
    ]


def test_whose_a_container_is_and_its_device_are_told_back(core: Supervisor) -> None:
    (start,) = create(core, service=SERVICE, device=GPU)
    assert isinstance(start, StartWorker)
    assert start.device == GPU
    assert [(report.service, report.device) for report in core.reports()] == [(SERVICE, GPU)]


def test_a_load_has_the_time_that_create_gives_it_and_its_end_names_that_time(core: Supervisor) -> None:
    create(core, load_timeout_s=45.0)
    core.on(WorkerForked(A, 42, 777), 0.0)
    assert core.on(Ticked(), 44.9) == []
    core.on(Ticked(), 45.0)
    (gone,) = events(core.on(WorkerEnded(A, "killed by SIGKILL"), 45.1))
    assert (gone.cause, gone.reason) == (
        "load_timeout",
        "not ready after 45 s (10 s by its file, the rest for its size), in stage import",
    )


def test_a_load_without_a_time_of_its_own_has_the_models(core: Supervisor) -> None:
    create(core)
    assert core.next_deadline_s() == 10.0


def test_memory_on_a_device_is_told_when_ready_and_in_reports(core: Supervisor) -> None:
    create(core, device=GPU)
    core.on(WorkerForked(A, 42, 777), 0.0)
    (ready,) = events(core.on(WorkerReady(A, {}, MIB, 64 * MIB), 1.0))
    assert (ready.host_bytes, ready.device_bytes) == (MIB, 64 * MIB)
    assert [(report.host_bytes, report.device_bytes) for report in core.reports()] == [(MIB, 64 * MIB)]


def test_a_container_on_a_device_that_is_not_here_is_refused(core: Supervisor) -> None:
    (refused,) = events(create(core, device="GPU-2"))
    assert (refused.what, refused.cause) == ("gone", "refused")
    assert refused.reason == "there is no device GPU-2 here; there are GPU-1"
    assert core.reports() == []
