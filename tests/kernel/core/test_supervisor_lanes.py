"""The kernel's core and the lanes of callers: drained, promised, broken."""

from huterox_kernel.core.effects import (
    AdmitCalls,
    AskToClose,
    DrainLanes,
    Note,
    PromiseLane,
    RefuseCalls,
    RefuseLane,
    Report,
)
from huterox_kernel.core.events import (
    Asked,
    DrainOrdered,
    LaneBroke,
    LanesDrained,
    LeaseOrdered,
    WorkerEnded,
    WorkerReady,
)
from huterox_wire.leases import DrainMeta, LeaseOrderMeta
from huterox_wire.nodes import ContainerEvent

from .test_supervisor import TIMINGS, A, B, close, gone, loading, ready, supervisor

ASKED = Asked(b"route", 5, 77)


def drain(container: int = A, epoch: int = 1) -> DrainOrdered:
    return DrainOrdered(DrainMeta(epoch, container, "evicted"))


def lease(container: int = A, epoch: int = 1) -> LeaseOrdered:
    return LeaseOrdered(LeaseOrderMeta(epoch, container, 7, "acme/vad"), ASKED)


def test_a_drain_ends_lanes_and_is_reported_when_they_have_ended() -> None:
    core = supervisor()
    ready(core)
    assert core.on(drain(), 1.0) == [DrainLanes(A)]
    assert [report.state for report in core.reports()] == ["draining"]
    assert core.on(LanesDrained(A), 2.0) == [Report(ContainerEvent(container=A, what="drained"))]
    assert core.on(drain(), 3.0) == [DrainLanes(A)]  # the report may have been lost


def test_a_drained_container_can_be_closed() -> None:
    core = supervisor()
    ready(core)
    core.on(drain(), 1.0)
    assert core.on(close(), 2.0) == [RefuseCalls(A), AskToClose(A)]
    assert gone(core.on(WorkerEnded(A, "exited with code 0"), 3.0)).cause == "closed"


def test_lanes_that_end_without_a_drain_are_no_event() -> None:
    core = supervisor()
    ready(core)
    core.on(close(), 1.0)
    assert core.on(LanesDrained(A), 1.0) == []
    assert core.on(LanesDrained(B), 1.0) == []


def test_a_container_that_is_drained_while_it_loads_admits_no_lanes_when_it_is_ready() -> None:
    core = supervisor()
    loading(core)
    assert core.on(drain(), 0.0) == [DrainLanes(A)]
    effects = core.on(WorkerReady(A, TIMINGS, 0), 1.0)
    assert [type(effect) for effect in effects] == [AdmitCalls, Report, DrainLanes]


def test_a_drain_of_what_is_not_here_is_answered_with_gone() -> None:
    (effect,) = supervisor().on(drain(), 0.0)
    assert isinstance(effect, Report)
    assert (effect.event.what, effect.event.cause) == ("gone", "closed")


def test_a_lease_is_promised() -> None:
    core = supervisor()
    ready(core)
    event = lease()
    assert core.on(event, 1.0) == [PromiseLane(event.meta, ASKED)]


def test_orders_about_lanes_carry_the_epoch_too() -> None:
    core = supervisor()
    ready(core)
    core.on(lease(epoch=4), 1.0)
    assert core.epoch == 4
    assert [type(effect) for effect in core.on(drain(epoch=3), 1.0)] == [Note]
    (refusal,) = core.on(lease(epoch=3), 1.0)
    assert isinstance(refusal, RefuseLane)
    assert (refusal.asked, refusal.error.details["reason"]) == (ASKED, "absent")
    core.on(drain(epoch=6), 1.0)
    assert core.epoch == 6


def test_a_broken_lane_is_reported_and_nothing_else_happens() -> None:
    core = supervisor()
    ready(core)
    event = ContainerEvent(container=A, what="lane_broken", reason="acme/vad: nonsense")
    assert core.on(LaneBroke(A, "acme/vad: nonsense"), 1.0) == [Report(event)]
    assert core.on(LaneBroke(B, "late"), 1.0) == []
    assert [report.state for report in core.reports()] == ["ready"]
