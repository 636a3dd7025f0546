"""Every call ends: by its answer, its deadline, its caller, or the end of its container."""

import pytest
from tests.connector.harness import (
    CALLER,
    Harness,
    call_header,
    closed,
    created,
    forwarded,
    journalled,
    refused,
)

from huterox_connector.core import effects as asked
from huterox_connector.core import events as happened
from huterox_wire.header import pack_header
from huterox_wire.ids import text_of
from huterox_wire.kinds import Flag, Kind


def undeliverable(*calls: tuple[bytes, int, list[bytes], int], kernel_gone: bool) -> happened.CallsUndeliverable:
    return happened.CallsUndeliverable(tuple(happened.Undelivered(*call) for call in calls), kernel_gone)


def test_waiting_call_ends_at_its_deadline(harness: Harness) -> None:
    harness.node()
    harness.service("bert")
    harness.call("bert", 1, budget_s=2.0)
    assert refused(harness.on(happened.Ticked(), 1.9)) == []
    (refusal,) = refused(harness.on(happened.Ticked(), 2.0))
    assert (refusal.request_id, refusal.error.code) == (1, "DeadlineExceeded")


def test_call_in_flight_ends_at_its_deadline_and_is_cancelled_at_its_kernel(harness: Harness) -> None:
    node = harness.node()
    harness.service("bert")
    harness.load(node, "bert", 1)
    harness.hit("bert", 2)
    harness.beat(node, 10.0)
    effects = harness.on(happened.Ticked(), 10.0)
    assert [(r.request_id, r.error.code) for r in refused(effects)] == [(2, "DeadlineExceeded")]
    assert [e.request_id for e in effects if isinstance(e, asked.CancelCall)] == [2]
    assert harness.answer(node, 2) is None  # it comes too late


def test_answer_from_a_kernel_that_does_not_have_the_call_is_dropped(harness: Harness) -> None:
    node = harness.node()
    harness.service("bert")
    harness.load(node, "bert", 1)
    other = harness.node("n2")
    harness.hit("bert", 2)
    (container,) = harness.board.registry.containers.values()
    wrong = other if container.node.identity == node else node
    assert harness.answer(wrong, 2) is None
    assert len(harness.board.calls) == 1


def test_parts_leave_the_call_open(harness: Harness) -> None:
    node = harness.node()
    harness.service("bert")
    harness.load(node, "bert", 1)
    harness.hit("bert", 2)
    assert harness.answer(node, 2, Kind.PART) is not None
    assert len(harness.board.calls) == 1
    assert harness.answer(node, 2) is not None
    assert len(harness.board.calls) == 0


def test_cancelling_a_waiting_call_ends_it_at_once(harness: Harness) -> None:
    harness.node()
    harness.service("bert")
    harness.call("bert", 1)
    (refusal,) = refused(harness.on(happened.CallCancelled(CALLER, 1)))
    assert refusal.error.code == "Cancelled"
    assert harness.on(happened.CallCancelled(CALLER, 1)) == []


def test_cancelling_a_call_in_flight_asks_its_kernel(harness: Harness) -> None:
    node = harness.node()
    harness.service("bert")
    harness.load(node, "bert", 1)
    container = harness.hit("bert", 2)
    assert container is not None
    assert harness.on(happened.CallCancelled(CALLER, 2)) == [asked.CancelCall(node, harness.route_of(2), 2)]


def test_nobody_can_cancel_anothers_call(harness: Harness) -> None:
    harness.node()
    harness.service("bert")
    harness.call("bert", 1)
    assert harness.on(happened.CallCancelled(b"somebody else", 1)) == []


def test_container_that_dies_leaves_its_calls_to_its_kernel_and_the_next_call_loads_a_fresh_one(
    harness: Harness,
) -> None:
    node = harness.node()
    harness.service("bert")
    container = harness.load(node, "bert", 1)
    harness.hit("bert", 2)
    effects = harness.gone(node, container, cause="crashed", reason="killed by SIGKILL")
    assert refused(effects) == []  # it may have crossed the news, and not been started
    assert ("crash", "killed by SIGKILL") in journalled(effects)
    assert harness.hit("bert", 3) is None
    assert created(harness.call("bert", 3))[0].container != container


def test_call_that_crossed_the_news_of_its_containers_end_waits_for_a_fresh_one(harness: Harness) -> None:
    node = harness.node()
    harness.service("bert")
    container = harness.load(node, "bert", 1)
    harness.hit("bert", 2)
    harness.gone(node, container, cause="crashed", reason="killed by SIGKILL")
    effects = harness.hand_back(node, 2, 3.0)
    assert len(created(effects)) == 1
    assert refused(effects) == []


def test_call_to_a_container_that_has_gone_ends_with_its_node(harness: Harness) -> None:
    node = harness.node()
    harness.service("bert")
    container = harness.load(node, "bert", 1)
    harness.hit("bert", 2)
    harness.gone(node, container, cause="crashed", reason="killed by SIGKILL")
    (refusal,) = refused(harness.on(happened.KernelUnreachable(node)))
    assert (refusal.request_id, refusal.error.code) == (2, "WorkerLost")


def test_call_that_is_handed_back_waits_for_a_fresh_container(harness: Harness) -> None:
    node = harness.node()
    harness.service("bert")
    old = harness.load(node, "bert", 1)
    harness.hit("bert", 2, now_s=1.0)
    effects = harness.hand_back(node, 2, 3.0)
    (create,) = created(effects)
    assert refused(effects) == []
    assert [c.container for c in closed(effects)] == [old]
    effects = harness.gone(node, old, now_s=3.1, cause="crashed", reason="killed by SIGKILL")
    assert ("crash", "killed by SIGKILL") in journalled(effects)
    (forward,) = forwarded(harness.ready(node, create.container, now_s=4.0))
    assert (forward.frames, forward.budget_us) == ([b"frame2"], 7_000_000)


def test_call_that_is_handed_back_by_a_stranger_stays_where_it_is(harness: Harness) -> None:
    node = harness.node()
    harness.service("bert")
    harness.load(node, "bert", 1)
    harness.hit("bert", 2)
    assert harness.hand_back(b"stranger", 2) == []
    assert harness.answer(node, 2) is not None


def test_call_that_cannot_be_sent_waits_for_another_container_when_its_kernel_has_gone(harness: Harness) -> None:
    node = harness.node("n1", slots=4)
    harness.service("bert")
    old = harness.load(node, "bert", 1)
    other = harness.node("n2", slots=2)
    harness.hit("bert", 2, now_s=1.0)
    harness.hit("bert", 3, now_s=1.0)
    effects = harness.on(undeliverable((CALLER, 3, [b"frame3"], 6), kernel_gone=True), 1.0)
    assert [(r.request_id, r.error.details["executed"]) for r in refused(effects)] == [(2, "maybe")]
    (create,) = created(effects)
    assert create.container != old
    (forward,) = forwarded(harness.ready(other, create.container, now_s=3.0))
    assert (forward.kernel, forward.frames, forward.budget_us) == (other, [b"frame3"], 8_000_000)
    assert harness.on(happened.KernelUnreachable(node), 3.0) == []


def test_calls_that_one_event_has_sent_in_vain_all_wait_for_another_container(harness: Harness) -> None:
    node = harness.node("n1", slots=4)
    harness.service("bert")
    harness.load(node, "bert", 1)
    other = harness.node("n2", slots=2)
    harness.hit("bert", 2, now_s=1.0)
    harness.hit("bert", 3, now_s=1.0)
    both = [(CALLER, 2, [b"frame2"], 6), (CALLER, 3, [b"frame3"], 6)]
    effects = harness.on(undeliverable(*both, kernel_gone=True), 1.0)
    assert refused(effects) == []
    (create,) = created(effects)
    sent = forwarded(harness.ready(other, create.container, now_s=3.0))
    assert [forward.frames for forward in sent] == [[b"frame2"], [b"frame3"]]


def test_call_that_a_kernel_has_no_room_for_ends_unexecuted(harness: Harness) -> None:
    node = harness.node()
    harness.service("bert")
    harness.load(node, "bert", 1)
    harness.hit("bert", 2)
    (refusal,) = refused(harness.on(undeliverable((CALLER, 2, [b"frame2"], 6), kernel_gone=False)))
    assert (refusal.error.code, refusal.error.details["executed"]) == ("WorkerLost", "no")
    assert harness.hit("bert", 3) is not None


def test_calls_of_callers_that_have_gone_are_given_up(harness: Harness) -> None:
    node = harness.node(slots=1)
    harness.service("bert")
    harness.load(node, "bert", 1)
    harness.hit("bert", 2)
    harness.hit("bert", 3, caller=b"other")
    route = harness.route_of(2)
    harness.service("waited-for")
    harness.call("waited-for", 4)
    harness.lease("bert", 5)
    effects = harness.on(happened.CallersGone(frozenset({CALLER, b"stranger"})))
    assert effects == [asked.CancelCall(node, route, 2)]  # nobody is told
    status = harness.ask("status")
    assert (status["calls_in_flight"], status["calls_waiting"]) == (1, 0)
    assert harness.board.waited_for(2**63) == {b"other"}
    assert harness.answer(node, 2) is None
    assert harness.answer(node, 3, caller=b"other") is not None


def test_draining_container_is_closed_when_its_last_caller_has_gone(harness: Harness) -> None:
    node = harness.node()
    harness.service("bert")
    container = harness.load(node, "bert", 1)
    harness.hit("bert", 2)
    assert closed(harness.admin("evict", container=text_of("c", container))) == []
    assert [c.container for c in closed(harness.on(happened.CallersGone(frozenset({CALLER}))))] == [container]


def test_stream_whose_caller_does_not_read_ends_and_is_cancelled(harness: Harness) -> None:
    node = harness.node()
    harness.service("bert")
    harness.load(node, "bert", 1)
    harness.hit("bert", 2)
    route = harness.route_of(2)
    refusal, cancel = harness.on(happened.CallerStalled(CALLER, 2))
    assert isinstance(refusal, asked.Refuse)
    assert (refusal.request_id, refusal.error.code) == (2, "Busy")
    assert cancel == asked.CancelCall(node, route, 2)
    assert harness.on(happened.CallerStalled(CALLER, 2)) == []


@pytest.mark.parametrize("kind", [Kind.REPLY, Kind.ERROR, Kind.PART])
def test_late_answer_is_not_given_to_a_later_call_of_the_same_request_id(harness: Harness, kind: Kind) -> None:
    node = harness.node()
    harness.service("bert")
    container = harness.load(node, "bert", 1)
    calls = harness.board.calls
    first = calls.hit(CALLER, call_header(harness.handles["bert"], 2, 1_000_000), 0, 0.0)
    assert first is not None
    assert [refusal.error.code for refusal in refused(harness.tick(1.1))] == ["DeadlineExceeded"]
    second = calls.hit(CALLER, call_header(harness.handles["bert"], 2), 0, 1.2)
    assert second is not None
    assert second.container.id == container
    late = pack_header(kind, Flag.PACKED, 0, 2)
    assert calls.answered(node, first.route, late) is None
    assert harness.on(happened.CallReturned(node, first.route, 2, [b"frame2"], 6)) == []
    assert calls.answered(node, second.route, pack_header(Kind.REPLY, Flag.PACKED, 0, 2)) is second


@pytest.mark.parametrize("end", ["deadline", "left", "stalled"])
@pytest.mark.parametrize("sign", ["beat", "registered", "lost"])
def test_bytes_of_a_call_that_was_given_up_count_until_its_kernel_is_heard(end: str, sign: str) -> None:
    """It may be stopped, and they wait for it in this process."""
    harness = Harness(calls_nbytes_max=1000, node_timeout_s=30.0)
    node = harness.node()
    harness.service("bert")
    harness.load(node, "bert", 1)
    handle = harness.handles["bert"]
    assert harness.board.calls.hit(CALLER, call_header(handle, 2, budget_us=500_000), 900, 0.0)
    if end == "left":
        harness.on(happened.CallersGone(frozenset({CALLER})), 1.0)
    elif end == "stalled":
        harness.on(happened.CallerStalled(CALLER, 2), 1.0)
    else:
        harness.tick(1.0)
    assert len(harness.board.calls) == 0
    assert harness.board.calls.hit(b"next", call_header(handle, 3), 200, 1.0) is None
    (refusal,) = refused(harness.on(happened.CallMissed(b"next", 3, handle, 10**6, [b""], 200), 1.0))
    assert refusal.error.code == "Busy"
    if sign == "beat":
        harness.beat(node, 2.0)
    elif sign == "registered":
        harness.node(now_s=2.0)
    else:
        harness.pass_time(1.0, 40.0)
    assert harness.board.calls._nbytes == 0
    if sign == "beat":
        assert harness.board.calls.hit(b"next", call_header(handle, 3), 200, 2.0)
