"""Calls whose model is not resident, and the bounds of waiting and of flying."""

import pytest
from tests.connector.harness import (
    CALLER,
    Harness,
    call_header,
    created,
    forwarded,
    journalled,
    refused,
    report,
)

from huterox_connector.core import effects as asked
from huterox_connector.core import events as happened
from huterox_connector.core.faults import ENDED_MAX
from huterox_wire.route import CALLER as CALLER_IN_ROUTE


def test_call_to_an_absent_model_starts_a_load(harness: Harness) -> None:
    node = harness.node()
    harness.service("bert")
    effects = harness.call("bert", 1)
    (create,) = created(effects)
    assert create.model.name == "bert"
    assert create.epoch == 1
    assert [e.kernel for e in effects if isinstance(e, asked.Command)] == [node]
    assert journalled(effects) == [("load", "fault by default/bert")]


def test_second_call_to_an_absent_model_joins_the_load(harness: Harness) -> None:
    harness.node()
    harness.service("bert")
    harness.call("bert", 1)
    assert harness.call("bert", 2) == []


def test_services_of_one_model_share_one_load(harness: Harness) -> None:
    node = harness.node()
    harness.deploy("m")
    harness.service("first", "m", tenant="t1")
    harness.service("second", "m", tenant="t2")
    container = created(harness.call("first", 1))[0].container
    assert harness.call("second", 2) == []
    assert len(forwarded(harness.ready(node, container))) == 2
    assert harness.hit("second", 3) is not None


def test_waiting_calls_are_forwarded_in_order_with_the_time_they_have_left(harness: Harness) -> None:
    node = harness.node()
    harness.service("bert")
    container = created(harness.call("bert", 1, now_s=0.0, budget_s=10.0))[0].container
    harness.call("bert", 2, now_s=1.0, budget_s=10.0)
    first, second = forwarded(harness.ready(node, container, now_s=4.0))
    assert (first.frames, second.frames) == ([b"frame1"], [b"frame2"])
    assert first.kernel == node
    assert first.route[CALLER_IN_ROUTE] == CALLER
    assert (first.budget_us, second.budget_us) == (6_000_000, 7_000_000)


def test_call_to_a_ready_container_is_a_hit_and_counted(harness: Harness) -> None:
    node = harness.node()
    harness.service("bert")
    harness.load(node, "bert", 1)
    container = harness.hit("bert", 2, now_s=5.0)
    assert container is not None
    assert container.in_flight == 1
    (row,) = harness.ask("services")
    assert (row["hits"], row["last_hit_at"], row["state"]) == (2, 1005.0, "ready")
    (row,) = harness.ask("ps")
    assert (row["hits"], row["state"], row["pid"]) == (2, "ready", 42)


@pytest.mark.parametrize(
    "header",
    [b"", b"short", bytes(40), call_header(77, 2), call_header(1, 2)[:39], b"XX" + call_header(1, 2)[2:]],
    ids=["empty", "short", "zeros", "unknown handle", "cut", "foreign magic"],
)
def test_malformed_or_unknown_call_is_no_hit(harness: Harness, header: bytes) -> None:
    node = harness.node()
    harness.service("bert")
    harness.load(node, "bert", 1)
    assert harness.board.calls.hit(CALLER, header, 0, 0.0) is None
    assert len(harness.board.calls) == 0


def test_call_to_an_unknown_handle_is_not_found(harness: Harness) -> None:
    (refusal,) = refused(harness.call(12345, 1))
    assert refusal.error.code == "NotFound"
    assert refusal.error.details["stale_handle"]


def test_request_id_in_use_is_a_conflict(harness: Harness) -> None:
    node = harness.node()
    harness.service("bert")
    container = created(harness.call("bert", 1))[0].container
    assert refused(harness.call("bert", 1))[0].error.code == "Conflict"
    harness.ready(node, container)
    assert harness.hit("bert", 1) is None
    assert refused(harness.call("bert", 1))[0].error.code == "Conflict"


def test_load_that_fails_answers_every_waiting_call_with_the_traceback(harness: Harness) -> None:
    node = harness.node()
    harness.service("bert")
    container = created(harness.call("bert", 1))[0].container
    harness.call("bert", 2)
    effects = harness.gone(node, container, cause="load_failed", reason="ImportError: no x", traceback="Traceback ...")
    assert [(r.request_id, r.error.code) for r in refused(effects)] == [(1, "ModelError"), (2, "ModelError")]
    assert refused(effects)[0].error.details["traceback"] == "Traceback ..."


def test_failing_load_is_not_tried_again_before_its_backoff(harness: Harness) -> None:
    node = harness.node()
    harness.service("bert")
    for failures, (wait_s, backoff_s) in enumerate([(0.0, 0.5), (0.6, 1.0), (2.0, 2.0)], start=1):
        container = created(harness.call("bert", failures, now_s=wait_s))[0].container
        harness.gone(node, container, now_s=wait_s, cause="load_failed", reason="boom")
        (refusal,) = refused(harness.call("bert", 100 + failures, now_s=wait_s + backoff_s / 2))
        assert refusal.error.code == "ModelError"
        assert refusal.error.details["failures"] == failures
        assert refusal.error.details["retry_after_s"] == pytest.approx(backoff_s / 2)


def test_deploying_anew_forgives_failures(harness: Harness) -> None:
    node = harness.node()
    harness.service("bert")
    container = created(harness.call("bert", 1))[0].container
    harness.gone(node, container, cause="load_failed", reason="boom")
    harness.deploy("bert", version="2")
    assert created(harness.call("bert", 2))[0].model.version == "2"


def test_line_of_waiting_calls_is_bounded() -> None:
    harness = Harness(waiting_per_group_max=2)
    harness.node()
    harness.service("bert")
    for request_id in (1, 2):
        harness.call("bert", request_id)
    (refusal,) = refused(harness.call("bert", 3))
    assert (refusal.error.code, refusal.error.retryable) == ("Busy", True)
    assert refusal.error.details["retry_after_s"] > 0


def test_bytes_of_waiting_calls_are_bounded() -> None:
    harness = Harness(waiting_nbytes_max=10)
    harness.node()
    harness.service("bert")
    harness.call("bert", 1)
    assert refused(harness.call("bert", 2))[0].error.code == "Busy"


def test_call_waits_for_its_turn_where_its_container_has_enough_to_do() -> None:
    harness = Harness(calls_per_container_max=3)
    node = harness.node()
    harness.service("bert")
    container = harness.load(node, "bert", 1)
    assert all(harness.hit("bert", request_id) for request_id in (2, 3, 4))
    assert harness.hit("bert", 5) is None
    assert harness.call("bert", 5) == []
    assert harness.call("bert", 6, budget_s=1.0) == []
    assert harness.answer(node, 2) is not None
    assert harness.hit("bert", 7) is None  # it does not overtake those that wait
    (forward,) = forwarded(harness.on(happened.ContainerFreed(container), 0.1))
    assert forward.frames == [b"frame5"]
    (refusal,) = refused(harness.tick(1.1))
    assert (refusal.request_id, refusal.error.details["waited_for"]) == (6, "turn")
    (row,) = harness.ask("services")
    assert row["usage"]["faults"] == 1  # the first one's; the others found a container


def test_calls_of_a_second_caller_pass_those_that_one_caller_has_in_line() -> None:
    """Whoever comes to a flooded model waits for a few calls, and not for hundreds."""
    harness = Harness(turn_calls_max=4)
    node = harness.node()
    harness.service("bert")
    harness.service("other", model="bert", tenant="t2")
    container = harness.load(node, "bert", 1)
    for request_id in range(100, 140):
        assert harness.hit("bert", request_id) is not None  # it is alone: nothing is held back
    assert harness.hit("other", 1, caller=b"polite") is None
    harness.call("other", 1, caller=b"polite")
    for request_id in range(140, 200):
        assert harness.hit("bert", request_id, now_s=0.1) is None
        harness.call("bert", request_id, now_s=0.1)
    for request_id in range(100, 137):
        assert harness.answer(node, request_id) is not None
    first, *_ = forwarded(harness.on(happened.ContainerFreed(container), 0.2))
    assert first.route[CALLER_IN_ROUTE] == b"polite"


def test_full_line_takes_a_call_of_the_caller_that_has_fewest() -> None:
    harness = Harness(waiting_per_group_max=4)
    harness.node()
    harness.service("bert")
    for request_id in range(1, 5):
        assert refused(harness.call("bert", request_id)) == []
    (loser,) = refused(harness.call("bert", 1, caller=b"polite"))
    assert (loser.caller, loser.request_id, loser.error.code) == (CALLER, 4, "Busy")
    (refusal,) = refused(harness.call("bert", 5))
    assert (refusal.caller, refusal.request_id) == (CALLER, 5)


def test_few_calls_are_given_at_once_to_a_model_whose_calls_take_long() -> None:
    harness = Harness(turn_calls_max=16, turn_s=0.002)
    node = harness.node()
    harness.service("bert")
    container = harness.load(node, "bert", 1)
    harness.beat(node, 0.1, report(container, "bert", requests=100, busy_us=100 * 400))
    for request_id in range(2, 12):
        harness.hit("bert", request_id, now_s=0.1, caller=b"%d" % (request_id % 2))
    assert harness.board.registry.containers[container].in_flight == 5
    harness.beat(node, 0.2, report(container, "bert", requests=110, busy_us=100 * 400 + 10 * 50_000))
    assert harness.board.registry.containers[container].group.depth == 2


@pytest.mark.parametrize("limit", ["calls_max", "calls_per_caller_max"])
def test_calls_in_flight_are_bounded(limit: str) -> None:
    harness = Harness(**{limit: 3})
    node = harness.node()
    harness.service("bert")
    harness.load(node, "bert", 1)
    assert all(harness.hit("bert", request_id) for request_id in (2, 3, 4))
    assert harness.hit("bert", 5) is None
    assert refused(harness.call("bert", 5))[0].error.code == "Busy"
    harness.answer(node, 2)
    assert harness.hit("bert", 5) is not None


def test_bytes_in_flight_are_bounded() -> None:
    harness = Harness(calls_nbytes_max=1000)
    node = harness.node()
    harness.service("bert")
    harness.load(node, "bert", 1)
    handle = harness.handles["bert"]
    assert harness.board.calls.hit(CALLER, call_header(handle, 2), 900, 0.0)
    assert harness.board.calls.hit(CALLER, call_header(handle, 3), 200, 0.0) is None
    harness.answer(node, 2)
    assert harness.board.calls.hit(CALLER, call_header(handle, 3), 200, 0.0)


def test_deadlines_of_calls_that_have_ended_do_not_pile_up() -> None:
    harness = Harness(room_patience_s=0.0)
    harness.node(slots=1)
    harness.service("holder", tier="pinned")
    harness.load(b"n1:b1", "holder", 1)
    harness.service("bert")
    for number in range(3 * ENDED_MAX):
        assert refused(harness.call("bert", 10 + number, budget_s=1000.0))
    harness.tick(1.0)
    assert harness.board._faults._due == []
