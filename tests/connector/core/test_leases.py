"""Who gets a lane: LEASE is checked here, granted by the container's kernel, and changes nothing else."""

from typing import Any

import pytest
from tests.connector.harness import CALLER, HOST_ID, Harness, asks, closed, created, journalled, refused, report

from huterox_connector.core import effects as asked
from huterox_connector.core import events as happened
from huterox_connector.core.nodes import BREAKS_TOLD_S
from huterox_wire.ids import text_of
from huterox_wire.kinds import Kind
from huterox_wire.leases import DrainMeta, LeaseOrderMeta
from huterox_wire.nodes import ContainerEvent
from huterox_wire.route import CALLER as CALLER_IN_ROUTE
from huterox_wire.route import CONTAINER, pack_route


def reason_of(effects: list[asked.Effect]) -> tuple[str, Any, bool]:
    """Code, reason and retryable of the one refusal, which is all that came."""
    (refusal,) = refused(effects)
    assert effects == [refusal]
    return refusal.error.code, refusal.error.details.get("reason"), refusal.error.retryable


def test_lease_is_passed_on_to_the_kernel_and_its_answer_to_the_caller(harness: Harness) -> None:
    node = harness.node()
    handle = harness.service("bert", tenant="acme")
    container = harness.load(node, "bert", 1)
    (ask,) = harness.lease("bert", 2, budget_s=1.0, half_mb=64, ring_entries=256)
    assert isinstance(ask, asked.AskKernel)
    assert (ask.kernel, ask.kind, ask.request_id) == (node, Kind.LEASE, 2)
    assert (ask.route[CONTAINER], ask.route[CALLER_IN_ROUTE]) == (container.to_bytes(8, "little"), CALLER)
    assert (ask.handle, ask.budget_us) == (handle, 1_000_000)
    assert ask.meta == LeaseOrderMeta(1, container, handle, "acme/bert", 64, 256, 4711)
    assert harness.board.answered_by_kernel(node, ask.route, 2, 0.5)
    assert not harness.board.answered_by_kernel(node, ask.route, 2, 0.5)


def test_lease_is_no_use_of_the_service(harness: Harness) -> None:
    node = harness.node()
    harness.service("bert")
    harness.load(node, "bert", 1, now_s=1.0)
    before = harness.ask("services"), harness.ask("ps")
    harness.lease("bert", 2, now_s=5.0)
    services, (container,) = harness.ask("services"), harness.ask("ps")
    assert container["lanes"] == 1  # as good as there: its kernel will tell
    assert (services, [{**container, "lanes": 0}]) == before


def test_lease_of_what_is_not_resident_is_no_fault(harness: Harness) -> None:
    node = harness.node()
    harness.service("bert")
    assert reason_of(harness.lease("bert", 1)) == ("Unavailable", "absent", True)
    (create,) = created(harness.call("bert", 2))
    assert reason_of(harness.lease("bert", 3)) == ("Unavailable", "absent", True)
    harness.ready(node, create.container)
    assert len(asks(harness.lease("bert", 4))) == 1


def test_lease_of_a_container_that_leaves_is_refused(harness: Harness) -> None:
    node = harness.node()
    harness.service("bert")
    container = harness.load(node, "bert", 1)
    harness.drains_at_once = False
    harness.admin("evict", container=text_of("c", container))
    assert reason_of(harness.lease("bert", 2)) == ("Unavailable", "draining", True)
    assert len(closed(harness.drained(node, container))) == 1
    assert reason_of(harness.lease("bert", 3)) == ("Unavailable", "draining", True)
    harness.gone(node, container)
    assert reason_of(harness.lease("bert", 4)) == ("Unavailable", "absent", True)


def test_lease_while_the_next_container_is_on_its_way_hears_that_it_is_not_there_yet(harness: Harness) -> None:
    node = harness.node()
    harness.service("bert")
    container = harness.load(node, "bert", 1)
    harness.drains_at_once = False
    harness.admin("evict", container=text_of("c", container))
    harness.call("bert", 2)
    assert reason_of(harness.lease("bert", 3)) == ("Unavailable", "absent", True)


@pytest.mark.parametrize(("node_host", "caller_host"), [(HOST_ID, "boot-id-2"), (HOST_ID, ""), ("", ""), ("", HOST_ID)])
def test_lease_over_hosts_is_refused_for_good(harness: Harness, node_host: str, caller_host: str) -> None:
    node = harness.node(host_id=node_host)
    harness.service("bert")
    harness.load(node, "bert", 1)
    assert reason_of(harness.lease("bert", 2, host_id=caller_host)) == ("Unavailable", "other_host", False)


def test_lease_follows_the_host_that_the_kernel_registered_last(harness: Harness) -> None:
    node = harness.node(host_id="")
    harness.service("bert")
    container = harness.load(node, "bert", 1)
    harness.node(host_id=HOST_ID, containers=[report(container, "bert")])
    assert len(asks(harness.lease("bert", 2))) == 1


def test_lease_of_an_unknown_handle_is_refused(harness: Harness) -> None:
    (refusal,) = refused(harness.lease(999, 1))
    assert (refusal.error.code, refusal.error.details) == ("NotFound", {"stale_handle": True})


def test_lease_of_a_deleted_service_is_refused(harness: Harness) -> None:
    node = harness.node()
    harness.service("bert")
    harness.load(node, "bert", 1)
    harness.ask("delete", name="bert")
    assert refused(harness.lease("bert", 2))[0].error.code == "NotFound"


def test_lease_under_the_number_of_a_call_or_another_lease_is_refused(harness: Harness) -> None:
    node = harness.node()
    harness.service("bert")
    harness.service("waiting")
    harness.load(node, "bert", 1)
    harness.hit("bert", 2)
    harness.call("waiting", 3)
    (ask,) = asks(harness.lease("bert", 4))
    for request_id in (2, 3, 4):
        assert refused(harness.lease("bert", request_id))[0].error.code == "Conflict"
    assert harness.board.answered_by_kernel(node, ask.route, 4, 0.1)


def test_lease_that_is_not_granted_in_time_ends_then_and_a_late_grant_is_dropped(harness: Harness) -> None:
    node = harness.node()
    harness.service("bert")
    harness.load(node, "bert", 1)
    (ask,) = asks(harness.lease("bert", 2, budget_s=1.0))
    assert harness.on(happened.Ticked(), 0.9) == []
    assert not harness.board.answered_by_kernel(node, ask.route, 2, 1.0)
    (refusal,) = refused(harness.on(happened.Ticked(), 1.04))
    assert (refusal.request_id, refusal.error.code) == (2, "DeadlineExceeded")
    assert not harness.board.answered_by_kernel(node, ask.route, 2, 1.05)


def test_lease_without_a_budget_waits_as_long_as_other_questions() -> None:
    harness = Harness(ask_timeout_s=2.0)
    node = harness.node()
    harness.service("bert")
    harness.load(node, "bert", 1)
    assert [ask.budget_us for ask in asks(harness.lease("bert", 2, budget_s=0.0))] == [2_000_000]
    assert [ask.budget_us for ask in asks(harness.lease("bert", 3, budget_s=60.0))] == [2_000_000]


def test_lease_ends_with_the_kernel_that_was_asked(harness: Harness) -> None:
    node = harness.node()
    harness.service("bert")
    harness.load(node, "bert", 1)
    harness.lease("bert", 2, budget_s=9.0)
    refusals = refused(harness.on(happened.KernelUnreachable(node), 0.1))
    assert [(r.request_id, r.error.code, r.error.retryable) for r in refusals] == [(2, "Unavailable", True)]


def test_lease_granted_by_a_kernel_that_was_not_asked_is_dropped(harness: Harness) -> None:
    node = harness.node("n1")
    other = harness.node("n2", slots=1)
    harness.service("bert")
    container = harness.load(node, "bert", 1)
    (ask,) = asks(harness.lease("bert", 2))
    assert not harness.board.answered_by_kernel(other, ask.route, 2, 0.1)
    assert not harness.board.answered_by_kernel(node, pack_route(container, 1, b"somebody else"), 2, 0.1)
    assert not harness.board.answered_by_kernel(node, pack_route(container, 1, CALLER), 2, 0.1)
    assert harness.board.answered_by_kernel(node, ask.route, 2, 0.1)


def test_late_grant_is_not_taken_for_the_answer_to_a_later_question_of_the_same_number(harness: Harness) -> None:
    node = harness.node()
    harness.service("bert")
    harness.load(node, "bert", 1)
    (first,) = asks(harness.lease("bert", 2, budget_s=1.0))
    harness.tick(1.1)
    (second,) = asks(harness.lease("bert", 2, now_s=1.2))
    assert not harness.board.answered_by_kernel(node, first.route, 2, 1.3)
    assert harness.board.answered_by_kernel(node, second.route, 2, 1.3)


def test_questions_to_kernels_are_bounded() -> None:
    harness = Harness(asks_max=2)
    node = harness.node()
    harness.service("bert")
    harness.load(node, "bert", 1)
    ask, _ = [asks(harness.lease("bert", request_id))[0] for request_id in (2, 3)]
    (refusal,) = refused(harness.lease("bert", 4))
    assert (refusal.error.code, refusal.error.details) == ("Busy", {"retry_after_s": 0.1})
    assert harness.board.answered_by_kernel(node, ask.route, 2, 0.1)
    assert len(asks(harness.lease("bert", 4))) == 1


def test_broken_lane_is_journalled(harness: Harness) -> None:
    node = harness.node()
    harness.service("bert")
    container = harness.load(node, "bert", 1)
    event = ContainerEvent(container, "lane_broken", reason="default/bert: an entry of kind 77")
    effects = harness.on(happened.ContainerReported(node, event))
    assert journalled(effects) == [("lane.broken", "default/bert: an entry of kind 77")]
    assert harness.hit("bert", 2) is not None


def test_a_caller_that_breaks_lanes_again_and_again_does_not_fill_the_journal(harness: Harness) -> None:
    node = harness.node()
    harness.service("bert")
    container = harness.load(node, "bert", 1)
    event = happened.ContainerReported(node, ContainerEvent(container, "lane_broken", reason="nonsense"))
    assert journalled(harness.on(event)) == [("lane.broken", "nonsense")]
    for _ in range(100):
        assert journalled(harness.on(event)) == []
    (told,) = [e for e in harness.on(event, BREAKS_TOLD_S) if isinstance(e, asked.Journalled)]
    assert told.details["untold_before"] == 100
    assert journalled(harness.on(event, BREAKS_TOLD_S * 1.9)) == []


def test_deleting_a_service_ends_its_lanes_and_leaves_the_container_alone(harness: Harness) -> None:
    node = harness.node()
    handle = harness.service("bert")
    harness.service("ernie", model="bert")
    container = harness.load(node, "bert", 1)
    effects = harness.admin("delete", name="bert")
    (drain,) = [e.meta for e in effects if isinstance(e, asked.Command) and e.kind is Kind.DRAIN]
    assert drain == DrainMeta(1, container, "service default/bert was deleted", handle)
    (row,) = harness.ask("ps")
    assert row["state"] == "ready"
