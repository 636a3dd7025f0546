"""The kernel's core: events in, effects out."""

import math
from typing import Any

import pytest

from huterox_kernel.core.effects import (
    AdmitCalls,
    AskToClose,
    Discard,
    Exit,
    FailCalls,
    KillWorker,
    Note,
    RefuseCalls,
    Register,
    Report,
    StartWorker,
    TellCalls,
)
from huterox_kernel.core.events import (
    CloseOrdered,
    CreateOrdered,
    Event,
    FootprintMeasured,
    LinkConnected,
    RegistrationAnswered,
    ShutdownOrdered,
    StartFailed,
    Ticked,
    WorkerBroken,
    WorkerEnded,
    WorkerFailed,
    WorkerForked,
    WorkerHung,
    WorkerProgressed,
    WorkerReady,
)
from huterox_kernel.core.supervisor import HEARTBEAT_S_MAX, HEARTBEAT_S_MIN, Supervisor
from huterox_wire.nodes import Capacity, CloseMeta, ContainerEvent, CreateMeta, ModelSpec, RegisteredMeta, Resources

MIB = 1024 * 1024
A, B, C = 1 << 32 | 1, 1 << 32 | 2, 1 << 32 | 3
TIMINGS = {"fork": 0.01, "import": 0.1, "load": 1.0, "warmup": 0.0}


def supervisor(slots: int = 4, host_mb: int = 1000) -> Supervisor:
    return Supervisor(Capacity(slots, host_mb * MIB), close_grace_s=3.0, heartbeat_s=1.0)


def model(host_mb: int = 100, **values: Any) -> ModelSpec:
    return ModelSpec(name="vad", entry="vad.py:Vad", resources=Resources(host_mb=host_mb), **values)


def create(container: int = A, epoch: int = 1, spec: ModelSpec | None = None) -> CreateOrdered:
    return CreateOrdered(CreateMeta(epoch, container, spec or model()))


def close(container: int = A, epoch: int = 1, grace_s: float = 5.0, reason: str = "evicted") -> CloseOrdered:
    return CloseOrdered(CloseMeta(epoch, container, reason, grace_s))


def loading(core: Supervisor, container: int = A, now_s: float = 0.0, **values: Any) -> None:
    core.on(create(container, spec=model(**values)), now_s)
    core.on(WorkerForked(container, 100 + (container & 0xFF)), now_s)


def ready(core: Supervisor, container: int = A, now_s: float = 0.0, **values: Any) -> None:
    loading(core, container, now_s, **values)
    core.on(WorkerReady(container, TIMINGS, 50 * MIB), now_s)


def gone(effects: list[Any]) -> ContainerEvent:
    """The event, and around it: what was held is given back before anybody hears of it, and callers hear last."""
    discard, report, fail = effects[:3]
    assert isinstance(discard, Discard)
    assert isinstance(report, Report)
    assert isinstance(fail, FailCalls)
    assert report.event.what == "gone"
    assert fail.reason == report.event.reason
    return report.event


# Creating.


def test_create_starts_a_worker() -> None:
    spec = model()
    assert supervisor().on(create(spec=spec), 0.0) == [StartWorker(A, spec)]


def test_loading_is_reported_with_the_pid_once_the_process_exists() -> None:
    core = supervisor()
    core.on(create(), 0.0)
    assert core.on(WorkerForked(A, 42), 0.0) == [Report(ContainerEvent(container=A, what="loading", pid=42))]


def test_calls_are_admitted_before_ready_is_reported() -> None:
    core = supervisor()
    loading(core)
    effects = core.on(WorkerReady(A, TIMINGS, 7 * MIB), 1.0)
    event = ContainerEvent(container=A, what="ready", pid=101, host_bytes=7 * MIB, timings_s=TIMINGS)
    assert effects == [AdmitCalls(A), Report(event)]


def test_create_of_a_container_that_is_here_changes_nothing() -> None:
    core = supervisor()
    ready(core)
    assert [type(effect) for effect in core.on(create(), 1.0)] == [Note]
    assert [report.state for report in core.reports()] == ["ready"]


def test_create_is_refused_when_all_slots_are_taken() -> None:
    core = supervisor(slots=1)
    ready(core, A)
    (effect,) = core.on(create(B), 0.0)
    assert isinstance(effect, Report)
    assert (effect.event.what, effect.event.cause, effect.event.container) == ("gone", "refused", B)
    assert "all 1 slots" in effect.event.reason


def test_create_is_refused_when_the_node_is_too_small_for_it_alone() -> None:
    core = supervisor(host_mb=90)
    (effect,) = core.on(create(A), 0.0)
    assert isinstance(effect, Report)
    assert effect.event.reason == "needs 100 MiB of host memory; this node gives 90 in all"


def test_what_runs_here_together_is_the_switchboards_sum() -> None:
    core = supervisor(host_mb=250)
    for container in (A, B, C):
        assert isinstance(core.on(create(container), 0.0)[0], StartWorker)


def test_a_closing_container_still_counts() -> None:
    core = supervisor(slots=1)
    ready(core, A)
    core.on(close(A), 0.0)
    (effect,) = core.on(create(B), 0.0)
    assert isinstance(effect, Report)
    assert effect.event.cause == "refused"


def test_the_place_of_a_container_that_is_gone_is_free() -> None:
    core = supervisor(slots=1)
    ready(core, A)
    core.on(WorkerEnded(A, "killed by SIGKILL"), 0.0)
    assert isinstance(core.on(create(B), 0.0)[0], StartWorker)


# Epochs.


def test_create_of_an_old_epoch_is_ignored() -> None:
    core = supervisor()
    core.on(RegistrationAnswered(RegisteredMeta(5, 1.0)), 0.0)
    assert [type(effect) for effect in core.on(create(epoch=4), 0.0)] == [Note]
    assert core.reports() == []


def test_close_of_an_old_epoch_is_ignored() -> None:
    core = supervisor()
    ready(core)
    core.on(RegistrationAnswered(RegisteredMeta(5, 1.0)), 0.0)
    assert [type(effect) for effect in core.on(close(epoch=4), 0.0)] == [Note]
    assert [report.state for report in core.reports()] == ["ready"]


def test_the_newest_epoch_is_learnt_from_commands_too() -> None:
    core = supervisor()
    core.on(create(epoch=7), 0.0)
    assert core.epoch == 7


def test_an_old_switchboard_that_answers_late_is_ignored() -> None:
    core = supervisor()
    core.on(RegistrationAnswered(RegisteredMeta(5, 2.0)), 0.0)
    effects = core.on(RegistrationAnswered(RegisteredMeta(4, 9.0, again=True)), 0.0)
    assert [type(effect) for effect in effects] == [Note, Register]  # it is told what was seen, but not obeyed
    assert core.heartbeat_s == 2.0
    again = core.on(RegistrationAnswered(RegisteredMeta(4, 9.0, again=True)), 1.5)
    assert again == [Register()], "the log is told once"


def test_the_same_epoch_of_another_switchboard_is_not_obeyed() -> None:
    """A store was restored from a copy: its next start takes the epoch that another start had."""
    core = supervisor()
    core.on(RegistrationAnswered(RegisteredMeta(5, 2.0, store="s", mark=7)), 0.0)
    effects = core.on(RegistrationAnswered(RegisteredMeta(5, 9.0, again=True, store="s", mark=8)), 0.0)
    assert [type(effect) for effect in effects] == [Note, Register]
    assert (core.epoch, core.store, core.mark) == (5, "s", 7)
    core.on(RegistrationAnswered(RegisteredMeta(6, 9.0, store="s", mark=8)), 0.0)
    assert (core.epoch, core.store, core.mark) == (6, "s", 8)


def test_the_kernel_registers_again_when_asked() -> None:
    assert supervisor().on(RegistrationAnswered(RegisteredMeta(1, 1.0, again=True)), 0.0) == [Register()]


def test_the_kernel_registers_once_on_each_connection_however_often_it_is_asked_meanwhile() -> None:
    core = supervisor()
    asks = RegistrationAnswered(RegisteredMeta(1, 1.0, again=True))
    core.on(RegistrationAnswered(RegisteredMeta(1, 1.0)), 0.0)
    assert core.on(LinkConnected(), 0.0) == [Register()]
    assert [core.on(asks, now_s) for now_s in (0.1, 0.2, 0.99)] == [[], [], []]
    assert core.on(asks, 1.0) == [Register()]  # there was no answer: it may be lost
    assert core.on(asks, 1.1) == []
    assert core.on(RegistrationAnswered(RegisteredMeta(1, 1.0)), 1.2) == [TellCalls()]
    assert core.on(asks, 1.3) == [Register()]  # it has been forgotten since
    assert core.on(LinkConnected(), 1.4) == [Register()]
    newer = RegistrationAnswered(RegisteredMeta(2, 1.0, again=True))
    assert core.on(newer, 1.5) == [Register()]  # another switchboard, or another epoch: it knows nothing


@pytest.mark.parametrize(
    ("asked_s", "used_s"), [(0.5, 0.5), (0.0, HEARTBEAT_S_MIN), (-1.0, HEARTBEAT_S_MIN), (math.inf, HEARTBEAT_S_MAX)]
)
def test_the_heartbeat_is_the_switchboards_within_bounds(asked_s: float, used_s: float) -> None:
    core = supervisor()
    core.on(RegistrationAnswered(RegisteredMeta(1, asked_s)), 0.0)
    assert core.heartbeat_s == used_s


# Loads that fail.


def test_a_load_that_fails_is_gone_only_when_the_process_has_ended() -> None:
    core = supervisor()
    loading(core)
    assert core.on(WorkerFailed(A, "ImportError: no", "Traceback ..."), 1.0) == [RefuseCalls(A)]
    event = gone(core.on(WorkerEnded(A, "exited with code 1"), 1.1))
    assert (event.cause, event.reason, event.traceback) == ("load_failed", "ImportError: no", "Traceback ...")


def test_a_worker_that_failed_to_load_and_does_not_end_is_killed() -> None:
    core = supervisor()
    loading(core)
    core.on(WorkerFailed(A, "no", ""), 1.0)
    assert core.next_deadline_s() == 4.0
    assert core.on(Ticked(), 4.0) == [KillWorker(A)]
    assert gone(core.on(WorkerEnded(A, "killed by SIGKILL"), 4.1)).cause == "load_failed"


@pytest.mark.parametrize(
    ("interpreter", "is_nodes_fault", "cause"),
    [("", False, "refused"), ("", True, "refused"), ("/no/python", False, "load_failed"), ("/p", True, "refused")],
)
def test_a_start_without_a_process_is_the_nodes_fault_but_for_the_models_own_interpreter(
    interpreter: str, is_nodes_fault: bool, cause: str
) -> None:
    core = supervisor()
    core.on(create(spec=model(interpreter=interpreter)), 0.0)
    event = gone(core.on(StartFailed(A, "it cannot be run", "tail", is_nodes_fault), 0.0))
    assert (event.cause, event.reason, event.traceback) == (cause, "it cannot be run", "tail")


def test_a_load_that_takes_too_long_is_killed_and_says_where_it_was() -> None:
    core = supervisor()
    loading(core, load_timeout_s=10.0)
    core.on(WorkerProgressed(A, "load"), 2.0)
    assert core.on(Ticked(), 9.9) == []
    assert core.on(Ticked(), 10.0) == [KillWorker(A)]
    event = gone(core.on(WorkerEnded(A, "killed by SIGKILL"), 10.1))
    assert (event.cause, event.reason) == ("load_timeout", "not ready after 10 s, in stage load")


def test_a_start_that_takes_too_long_is_given_up() -> None:
    core = supervisor()
    core.on(create(spec=model(load_timeout_s=10.0)), 0.0)
    assert core.on(Ticked(), 10.0) == [KillWorker(A)]
    event = gone(core.on(StartFailed(A, "given up before it had a process"), 10.0))
    assert (event.cause, event.reason) == ("load_timeout", "not ready after 10 s, in stage fork")


def test_a_process_that_comes_after_its_start_was_given_up_is_killed() -> None:
    core = supervisor()
    core.on(create(spec=model(load_timeout_s=10.0)), 0.0)
    core.on(Ticked(), 10.0)
    assert core.on(WorkerForked(A, 42), 10.1) == [KillWorker(A)]
    assert gone(core.on(WorkerEnded(A, "killed by SIGKILL"), 10.2)).cause == "load_timeout"


def test_a_worker_that_becomes_ready_while_it_is_killed_stays_closing() -> None:
    core = supervisor()
    loading(core, load_timeout_s=10.0)
    core.on(Ticked(), 10.0)
    assert core.on(WorkerReady(A, TIMINGS, 0), 10.0) == []
    assert gone(core.on(WorkerEnded(A, "killed by SIGKILL"), 10.1)).cause == "load_timeout"


def test_a_crash_while_loading_names_the_stage() -> None:
    core = supervisor()
    loading(core)
    event = gone(core.on(WorkerEnded(A, "killed by SIGSEGV"), 1.0))
    assert (event.cause, event.reason) == ("crashed", "killed by SIGSEGV in stage import")


def test_a_ready_worker_has_no_deadline() -> None:
    core = supervisor()
    ready(core)
    assert core.next_deadline_s() is None
    assert core.on(Ticked(), 1e9) == []


# Ends.


def test_a_crash_is_reported_with_how_it_ended() -> None:
    core = supervisor()
    ready(core)
    effects = core.on(WorkerEnded(A, "killed by SIGKILL"), 1.0)
    assert effects[0] == Discard(A)
    assert effects[2] == FailCalls(A, "killed by SIGKILL")
    event = gone(effects)
    assert (event.cause, event.reason, event.pid) == ("crashed", "killed by SIGKILL", 101)


def test_close_lets_a_ready_worker_finish() -> None:
    core = supervisor()
    ready(core)
    assert core.on(close(grace_s=5.0), 1.0) == [RefuseCalls(A), AskToClose(A)]
    assert [report.state for report in core.reports()] == ["draining"]
    event = gone(core.on(WorkerEnded(A, "exited with code 0"), 2.0))
    assert (event.cause, event.reason) == ("closed", "evicted")


def test_a_worker_that_does_not_end_in_its_grace_is_killed() -> None:
    core = supervisor()
    ready(core)
    core.on(close(grace_s=5.0), 1.0)
    assert core.next_deadline_s() == 6.0
    assert core.on(Ticked(), 6.0) == [KillWorker(A)]
    assert core.next_deadline_s() is None
    event = gone(core.on(WorkerEnded(A, "killed by SIGKILL"), 6.1))
    assert (event.cause, event.reason) == ("hung", "evicted (killed: it did not end within its grace)")


@pytest.mark.parametrize("grace_s", [0.0, -1.0, math.nan])
def test_close_without_grace_kills_at_once(grace_s: float) -> None:
    core = supervisor()
    ready(core)
    assert core.on(close(grace_s=grace_s), 1.0) == [RefuseCalls(A), KillWorker(A)]


def test_close_while_loading_kills_at_once() -> None:
    core = supervisor()
    loading(core)
    assert core.on(close(), 1.0) == [RefuseCalls(A), KillWorker(A)]
    event = gone(core.on(WorkerEnded(A, "killed by SIGKILL"), 1.1))
    assert (event.cause, event.reason) == ("closed", "evicted")


def test_close_before_there_is_a_process_gives_the_start_up() -> None:
    core = supervisor()
    core.on(create(), 0.0)
    assert core.on(close(), 0.0) == [RefuseCalls(A), KillWorker(A)]
    assert gone(core.on(StartFailed(A, "given up before it had a process"), 0.0)).cause == "closed"


def test_a_second_close_can_only_shorten_the_grace() -> None:
    core = supervisor()
    ready(core)
    core.on(close(grace_s=5.0), 0.0)
    assert core.on(close(grace_s=60.0), 1.0) == []
    assert core.next_deadline_s() == 5.0
    core.on(close(grace_s=1.0), 1.0)
    assert core.next_deadline_s() == 2.0


def test_a_grace_without_end_is_bounded() -> None:
    core = supervisor()
    ready(core)
    core.on(close(grace_s=math.inf), 0.0)
    assert core.next_deadline_s() == 3600.0


def test_a_crash_while_closing_is_closed_and_says_how_it_ended() -> None:
    core = supervisor()
    ready(core)
    core.on(close(), 0.0)
    event = gone(core.on(WorkerEnded(A, "killed by SIGSEGV"), 0.1))
    assert (event.cause, event.reason) == ("closed", "evicted (killed by SIGSEGV)")


def test_close_of_an_unknown_container_says_that_it_is_gone() -> None:
    (effect,) = supervisor().on(close(), 0.0)
    assert isinstance(effect, Report)
    assert (effect.event.what, effect.event.cause) == ("gone", "closed")


def test_a_worker_that_writes_nonsense_is_killed() -> None:
    core = supervisor()
    ready(core)
    assert core.on(WorkerBroken(A, "it broke its lane"), 0.0) == [RefuseCalls(A), KillWorker(A)]
    event = gone(core.on(WorkerEnded(A, "killed by SIGKILL"), 0.1))
    assert (event.cause, event.reason) == ("crashed", "it broke its lane")


def test_a_worker_that_is_ready_twice_is_killed() -> None:
    core = supervisor()
    ready(core)
    assert KillWorker(A) in core.on(WorkerReady(A, TIMINGS, 0), 1.0)


@pytest.mark.parametrize(
    "event",
    [
        WorkerForked(A, 1),
        StartFailed(A, "no"),
        WorkerProgressed(A, "load"),
        WorkerReady(A, {}, 0),
        WorkerFailed(A, "no", ""),
        WorkerBroken(A, "no"),
        WorkerEnded(A, "killed by SIGKILL"),
        FootprintMeasured(A, 1),
    ],
)
def test_late_news_of_a_container_that_is_gone_means_nothing(event: Event) -> None:
    assert supervisor().on(event, 0.0) == []


def test_containers_live_and_end_apart() -> None:
    core = supervisor()
    ready(core, A)
    ready(core, B)
    core.on(WorkerEnded(A, "killed by SIGKILL"), 1.0)
    assert [(report.container, report.state) for report in core.reports()] == [(B, "ready")]


def test_footprints_are_told_in_reports() -> None:
    core = supervisor()
    ready(core)
    core.on(FootprintMeasured(A, 77 * MIB), 1.0)
    assert [(report.host_bytes, report.pid, report.model) for report in core.reports()] == [(77 * MIB, 101, "vad")]


# The kernel's own end.


def test_shutdown_without_containers_ends_at_once() -> None:
    assert supervisor().on(ShutdownOrdered("SIGTERM"), 0.0) == [Exit()]


def test_shutdown_closes_every_container_and_ends_with_the_last() -> None:
    core = supervisor()
    ready(core, A)
    loading(core, B)
    effects = core.on(ShutdownOrdered("SIGTERM"), 1.0)
    assert effects == [RefuseCalls(A), AskToClose(A), RefuseCalls(B), KillWorker(B)]
    assert Exit() not in core.on(WorkerEnded(B, "killed by SIGKILL"), 1.1)
    assert core.on(WorkerEnded(A, "exited with code 0"), 1.2)[-1] == Exit()


def test_a_second_shutdown_kills() -> None:
    core = supervisor()
    ready(core, A)
    core.on(ShutdownOrdered("SIGINT"), 1.0)
    assert core.on(ShutdownOrdered("SIGINT"), 1.5) == [KillWorker(A)]
    assert core.on(ShutdownOrdered("SIGINT"), 1.6) == []


def test_a_shutdown_that_takes_too_long_kills() -> None:
    core = supervisor()
    ready(core, A)
    core.on(ShutdownOrdered("SIGTERM"), 1.0)
    assert core.on(Ticked(), 4.0) == [KillWorker(A)]


def test_create_is_refused_while_shutting_down() -> None:
    core = supervisor()
    ready(core, A)
    core.on(ShutdownOrdered("SIGTERM"), 1.0)
    (effect,) = core.on(create(B), 1.0)
    assert isinstance(effect, Report)
    assert effect.event.reason == "the kernel is shutting down"


def test_a_worker_that_hangs_is_killed_and_its_calls_are_failed_as_for_any_death() -> None:
    core = supervisor()
    ready(core)
    assert core.serving() == [A]
    assert core.on(WorkerHung(A, "it did not come back"), 1.0) == [RefuseCalls(A), KillWorker(A)]
    assert core.serving() == []
    assert core.on(WorkerHung(A, "seen once more"), 1.1) == []
    effects = core.on(WorkerEnded(A, "killed by SIGKILL"), 1.2)
    assert FailCalls(A, "it did not come back") in effects
    assert (gone(effects).cause, gone(effects).reason) == ("hung", "it did not come back")


def test_a_worker_that_is_killed_for_the_kernels_own_end_did_not_hang() -> None:
    core = supervisor()
    ready(core)
    core.on(ShutdownOrdered("the kernel was told to end"), 1.0)
    core.on(Ticked(), 100.0)
    assert gone(core.on(WorkerEnded(A, "killed by SIGKILL"), 100.1)).cause == "closed"
