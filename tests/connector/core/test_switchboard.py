"""The core as a whole: events in, effects out."""

import pytest
from tests.connector.harness import (
    CALLER,
    OPERATOR,
    Harness,
    call_header,
    closed,
    created,
    forwarded,
    journalled,
    refused,
    report,
)

from huterox_connector.core import effects as asked
from huterox_connector.core import events as happened
from huterox_connector.core.desired import Desired, StoredModel, StoredService, decode, model_key, put
from huterox_connector.core.ids import id_of, text_of
from huterox_wire.errors import Conflict, Fault, InvalidInput, NotFound
from huterox_wire.kinds import Kind
from huterox_wire.meta import AdminMeta, OpenedMeta, OpenMeta
from huterox_wire.nodes import Capacity, ModelSpec, RegisteredMeta, RegisterMeta


@pytest.fixture
def harness() -> Harness:
    return Harness()


# Faults.


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
    assert first.route[8:] == CALLER
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


@pytest.mark.parametrize("limit", ["calls_max", "calls_per_caller_max", "calls_per_container_max"])
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


# Ends.


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
    assert harness.on(happened.CallCancelled(CALLER, 2)) == [asked.CancelCall(node, container.route_prefix + CALLER, 2)]


def test_nobody_can_cancel_anothers_call(harness: Harness) -> None:
    harness.node()
    harness.service("bert")
    harness.call("bert", 1)
    assert harness.on(happened.CallCancelled(b"somebody else", 1)) == []


def test_container_that_dies_ends_its_calls_and_the_next_call_loads_a_fresh_one(harness: Harness) -> None:
    node = harness.node()
    harness.service("bert")
    container = harness.load(node, "bert", 1)
    harness.hit("bert", 2)
    effects = harness.gone(node, container, cause="crashed", reason="killed by SIGKILL")
    (refusal,) = refused(effects)
    assert (refusal.request_id, refusal.error.code) == (2, "WorkerLost")
    assert "SIGKILL" in refusal.error.message
    assert ("crash", "killed by SIGKILL") in journalled(effects)
    assert harness.hit("bert", 3) is None
    assert created(harness.call("bert", 3))[0].container != container


def test_call_that_is_handed_back_waits_for_a_fresh_container(harness: Harness) -> None:
    node = harness.node()
    harness.service("bert")
    old = harness.load(node, "bert", 1)
    harness.hit("bert", 2, now_s=1.0)
    effects = harness.on(happened.CallReturned(node, CALLER, 2, [b"frame2"], 6), 3.0)
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
    assert harness.on(happened.CallReturned(b"stranger", CALLER, 2, [b"x"], 1)) == []
    assert harness.answer(node, 2) is not None


# Making room.


def test_least_recently_used_leaves_and_the_load_waits_for_its_memory(harness: Harness) -> None:
    node = harness.node(slots=2)
    for name in ("a", "b", "c"):
        harness.service(name)
    first, second = harness.load(node, "a", 1, now_s=1.0), harness.load(node, "b", 2, now_s=2.0)
    harness.hit("a", 3, now_s=3.0)
    harness.answer(node, 3)
    effects = harness.call("c", 4, now_s=4.0)
    assert [c.container for c in closed(effects)] == [second]
    assert created(effects) == []  # b's memory is not back yet
    ((_, reason),) = [entry for entry in journalled(effects) if entry[0] == "evict"]
    assert reason.startswith("room for c: lru victim of those that may leave, last used 2.0 s ago")
    assert harness.hit("b", 5, now_s=4.0) is None
    (load,) = [e for e in effects if isinstance(e, asked.Journalled) and e.kind == "load"]
    assert load.details["makes_leave"] == [text_of("c", second)]
    assert load.details["stays"] == {text_of("c", first): "the policy keeps it"}
    effects = harness.gone(node, second, now_s=4.5)
    assert created(effects)[0].model.name == "c"
    assert harness.hit("a", 6, now_s=5.0) is not None
    assert first in harness.board.registry.containers


def test_busy_victim_finishes_its_calls_first(harness: Harness) -> None:
    node = harness.node(slots=1)
    for name in ("a", "b"):
        harness.service(name)
    container = harness.load(node, "a", 1)
    harness.hit("a", 2)
    assert closed(harness.call("b", 3)) == []
    assert harness.hit("a", 4) is None  # draining: no new calls
    assert harness.answer(node, 2) is not None
    assert [c.container for c in closed(harness.on(happened.ContainerDrained(container)))] == [container]


def test_no_more_leave_than_are_needed(harness: Harness) -> None:
    node = harness.node(slots=8, host_mb=1000)
    for number in range(8):
        harness.deploy(f"small{number}", host_mb=100)
        harness.service(f"small{number}", f"small{number}")
        harness.load(node, f"small{number}", number + 1, now_s=float(number))
    harness.deploy("big", host_mb=400)
    harness.service("big", "big")
    effects = harness.call("big", 50, now_s=10.0)
    assert len(closed(effects)) == 2  # 200 MiB are free, 200 more are needed


def test_earlier_victim_is_spared_when_a_later_one_frees_enough(harness: Harness) -> None:
    node = harness.node(slots=8, host_mb=1000)
    for name, host_mb in (("small", 100), ("large", 800)):
        harness.deploy(name, host_mb=host_mb)
        harness.service(name, name)
    harness.load(node, "small", 1, now_s=1.0)
    large = harness.load(node, "large", 2, now_s=2.0)
    harness.deploy("big", host_mb=700)
    harness.service("big", "big")
    assert [c.container for c in closed(harness.call("big", 3, now_s=10.0))] == [large]


def test_freshly_loaded_container_is_protected_for_its_load_time() -> None:
    harness = Harness(residency_load_factor=2.0)
    node = harness.node(slots=1)
    harness.service("a")
    harness.service("b")
    container = created(harness.call("a", 1, now_s=0.0))[0].container
    harness.ready(node, container, now_s=3.0)
    harness.answer(node, 1)
    assert harness.call("b", 2, now_s=4.0) == []
    harness.beat(node, 8.9)
    assert closed(harness.on(happened.Ticked(), 8.9)) == []
    assert [c.container for c in closed(harness.on(happened.Ticked(), 9.1))] == [container]


def test_pinned_and_dedicated_containers_never_leave_for_others(harness: Harness) -> None:
    node = harness.node(slots=2)
    harness.service("pinned", tier="pinned")
    harness.service("own", tier="dedicated")
    harness.load(node, "pinned", 1)
    harness.load(node, "own", 2)
    harness.service("other")
    effects = harness.call("other", 3, now_s=100.0)
    (refusal,) = refused(effects)
    assert refusal.error.code == "ResourceInterrupt"
    held = refusal.error.details["nodes"][0]["held_by"]
    assert {h["model"]: h["stays_because"] for h in held} == {"pinned": "pinned", "own": "dedicated"}


def test_model_larger_than_every_node_is_interrupted_at_once_with_the_numbers(harness: Harness) -> None:
    harness.node(host_mb=1000)
    harness.deploy("huge", host_mb=5000)
    harness.service("huge", "huge")
    (refusal,) = refused(harness.call("huge", 1))
    assert refusal.error.code == "ResourceInterrupt"
    assert not refusal.error.retryable
    assert refusal.error.details["needed"] == {"slots": 1, "host_mb": 5000}
    assert refusal.error.details["nodes"][0]["free"] == {"slots": 2, "host_mb": 1000}


def test_fault_loses_patience_when_no_room_comes() -> None:
    harness = Harness(residency_min_s=50.0, residency_max_s=50.0, room_patience_s=5.0)
    node = harness.node(slots=1)
    harness.service("a")
    harness.service("b")
    harness.load(node, "a", 1)
    assert harness.call("b", 2, now_s=1.0) == []
    harness.beat(node, 6.0)
    assert refused(harness.on(happened.Ticked(), 5.9)) == []
    (refusal,) = refused(harness.on(happened.Ticked(), 6.1))
    assert refusal.error.code == "ResourceInterrupt"
    assert "protected" in refusal.error.details["nodes"][0]["held_by"][0]["stays_because"]


def test_two_faults_do_not_count_on_the_same_room(harness: Harness) -> None:
    node = harness.node(slots=2)
    for name in ("a", "b", "c", "d"):
        harness.service(name)
    first, second = harness.load(node, "a", 1), harness.load(node, "b", 2)
    assert [c.container for c in closed(harness.call("c", 3))] == [first]
    assert [c.container for c in closed(harness.call("d", 4))] == [second]
    assert created(harness.gone(node, second))[0].model.name == "c"
    assert created(harness.gone(node, first))[0].model.name == "d"


# Nodes.


def test_containers_are_spread_over_nodes(harness: Harness) -> None:
    harness.node("n1", slots=2)
    harness.node("n2", slots=2)
    for name in ("a", "b"):
        harness.service(name)
        harness.call(name, len(harness.handles))
    assert {c.node.name for c in harness.board.registry.containers.values()} == {"n1", "n2"}


def test_fault_waits_for_a_kernel_and_then_ends(harness: Harness) -> None:
    harness.service("bert")
    assert harness.call("bert", 1) == []
    assert refused(harness.on(happened.Ticked(), 4.9)) == []
    assert refused(harness.on(happened.Ticked(), 5.1))[0].error.code == "Unavailable"


def test_fault_is_served_when_a_kernel_registers(harness: Harness) -> None:
    harness.service("bert")
    harness.call("bert", 1)
    harness.node(now_s=1.0)
    assert [c.model.name for c in harness.board.registry.containers.values()] == ["bert"]


def test_silent_kernel_is_lost_and_its_calls_end(harness: Harness) -> None:
    node = harness.node()
    harness.service("bert")
    harness.load(node, "bert", 1)
    harness.hit("bert", 2)
    effects = harness.on(happened.Ticked(), 3.5)
    assert refused(effects)[0].error.code == "WorkerLost"
    assert harness.ask("nodes") == []
    assert harness.ask("ps") == []


def test_load_on_a_lost_node_is_done_elsewhere(harness: Harness) -> None:
    first = harness.node("n1", slots=4)
    harness.service("bert")
    assert len(created(harness.call("bert", 1))) == 1
    harness.node("n2", slots=2, now_s=0.0)
    effects = harness.on(happened.KernelUnreachable(first), 1.0)
    assert refused(effects) == []
    assert [e.kernel for e in effects if isinstance(e, asked.Command)] == [b"n2:b1"]


def test_unknown_kernel_is_asked_to_register(harness: Harness) -> None:
    (command,) = harness.beat(b"n9:b1", 0.0)
    assert isinstance(command, asked.Command)
    assert command.meta == RegisteredMeta(1, harness.config.heartbeat_s, again=True)


def test_second_kernel_of_the_same_name_waits_until_the_first_is_lost(harness: Harness) -> None:
    first = harness.node("n1")
    meta = happened.KernelRegistered(b"n1:b2", _registration("n1", "b2"))
    effects = harness.on(meta, 0.5)
    assert [(e.kernel, e.kind) for e in effects if isinstance(e, asked.Command)] == [(first, Kind.HEARTBEAT)]
    assert list(harness.board.registry.nodes) == [first]
    harness.on(happened.KernelUnreachable(first), 0.6)
    harness.on(meta, 1.0)
    assert list(harness.board.registry.nodes) == [b"n1:b2"]


def test_running_container_is_adopted_after_a_restart(harness: Harness) -> None:
    harness.service("bert")
    harness.node(containers=[report(77, "bert")], now_s=1.0)
    assert harness.hit("bert", 1) is not None
    (row,) = harness.ask("ps")
    assert (row["id"], row["state"], row["pid"]) == (text_of("c", 77), "ready", 9)


def test_adopted_container_that_was_loading_serves_who_waits(harness: Harness) -> None:
    harness.service("bert")
    harness.call("bert", 1)
    node = harness.node(containers=[report(77, "bert", "creating")], now_s=1.0)
    assert len(harness.board.registry.containers) == 1
    assert len(forwarded(harness.ready(node, 77, now_s=2.0))) == 1


@pytest.mark.parametrize(
    "stray", [report(77, "unknown"), report(77, "bert", version="0"), report(77, "bert", "draining")]
)
def test_container_that_nobody_wants_is_closed_and_counts_until_it_is_gone(harness: Harness, stray: object) -> None:
    harness.service("bert")
    node = harness.node(slots=1, containers=[stray])
    (row,) = harness.ask("ps")
    assert row["state"] == "draining"
    assert created(harness.call("bert", 1)) == []
    assert len(created(harness.gone(node, 77))) == 1


def test_container_that_a_kernel_no_longer_has_is_dropped(harness: Harness) -> None:
    node = harness.node()
    harness.service("bert")
    harness.load(node, "bert", 1)
    harness.node()
    assert harness.ask("ps") == []


# The operator.


def test_change_is_written_before_it_is_applied_or_acknowledged(harness: Harness) -> None:
    verb = happened.AdminRequested(OPERATOR, 1, _admin("deploy", model={"name": "m", "entry": "m.py:M"}))
    (commit,) = harness.on(verb)
    assert isinstance(commit, asked.Commit)
    assert harness.board.registry.models == {}
    effects = harness.on(happened.Committed(commit.ticket))
    assert isinstance(effects[0], asked.Answer)
    assert "m" in harness.board.registry.models


def test_change_that_cannot_be_written_changes_nothing(harness: Harness) -> None:
    verb = happened.AdminRequested(OPERATOR, 1, _admin("deploy", model={"name": "m", "entry": "m.py:M"}))
    (commit,) = harness.on(verb)
    assert isinstance(commit, asked.Commit)
    (refusal,) = refused(harness.on(happened.CommitFailed(commit.ticket, "disk full")))
    assert refusal.error.code == "Unavailable"
    assert "disk full" in refusal.error.message
    assert harness.board.registry.models == {}


def test_changes_are_checked_one_after_another(harness: Harness) -> None:
    harness.deploy("m")
    first = harness.on(happened.AdminRequested(OPERATOR, 1, _admin("create", name="s", model="m")))
    assert harness.on(happened.AdminRequested(OPERATOR, 2, _admin("create", name="s", model="m"))) == []
    assert isinstance(first[0], asked.Commit)
    effects = harness.on(happened.Committed(first[0].ticket))
    assert [(r.request_id, r.error.code) for r in refused(effects)] == [(2, "Conflict")]


def test_what_was_written_restores_the_same_board(harness: Harness) -> None:
    records: dict[str, bytes] = {}
    for verb, args in (
        ("deploy", {"model": {"name": "m", "entry": "m.py:M"}}),
        ("deploy", {"model": {"name": "gone", "entry": "m.py:M"}}),
        ("create", {"name": "s", "model": "m", "tenant": "t", "tier": "pinned"}),
        ("undeploy", {"name": "gone"}),
    ):
        for effect in harness.admin(verb, **args):
            if isinstance(effect, asked.Commit):
                for write in effect.writes:
                    records.pop(write.key, None)
                    if write.value is not None:
                        records[write.key] = write.value
    other = Harness()
    other.board.restore(decode(records), [])
    assert other.ask("models") == [row for row in harness.ask("models") if row["name"] == "m"]
    assert other.ask("services") == harness.ask("services")


def test_store_with_an_orphaned_service_is_refused(harness: Harness) -> None:
    orphan = StoredService(1, "s", "t", "shared", "no such model", 0.0)
    with pytest.raises(Fault, match="no such model"):
        harness.board.restore(Desired([], [orphan]), [])


def test_store_with_an_unreadable_record_is_refused_by_its_key() -> None:
    with pytest.raises(Fault, match="model/m"):
        decode({"model/m": b"garbage"})


def test_deploying_anew_replaces_the_running_container(harness: Harness) -> None:
    node = harness.node()
    harness.service("bert")
    old = harness.load(node, "bert", 1)
    effects = harness.admin("deploy", model={"name": "bert", "entry": "other.py:M", "version": "2"})
    assert [c.container for c in closed(effects)] == [old]
    harness.call("bert", 2)
    effects = harness.gone(node, old)
    versions = [c.spec.version for c in harness.board.registry.containers.values()]
    assert versions == ["2"]


def test_deploying_the_same_again_changes_nothing_that_runs(harness: Harness) -> None:
    node = harness.node()
    harness.service("bert")
    harness.load(node, "bert", 1)
    harness.deploy("bert")
    assert harness.hit("bert", 2) is not None


def test_model_with_services_is_not_undeployed_unless_forced(harness: Harness) -> None:
    node = harness.node()
    harness.service("bert")
    container = harness.load(node, "bert", 1)
    with pytest.raises(Conflict, match="default/bert"):
        harness.ask("undeploy", name="bert")
    effects = harness.admin("undeploy", name="bert", force=True)
    assert [c.container for c in closed(effects)] == [container]
    assert harness.ask("services") == []
    with pytest.raises(NotFound):
        harness.ask("undeploy", name="bert")


def test_deleting_a_service_ends_its_waiting_calls_and_frees_its_container(harness: Harness) -> None:
    node = harness.node()
    harness.service("bert")
    container = created(harness.call("bert", 1))[0].container
    effects = harness.admin("delete", name="bert")
    assert [r.error.code for r in refused(effects)] == ["NotFound"]
    harness.ready(node, container, now_s=1.0)
    harness.beat(node, 2.0)
    assert [c.container for c in closed(harness.on(happened.Ticked(), 2.0))] == [container]


def test_idle_container_is_reclaimed_after_its_time(harness: Harness) -> None:
    node = harness.node()
    harness.deploy("bert", idle_timeout_s=60.0)
    harness.service("bert", "bert")
    container = harness.load(node, "bert", 1)
    harness.beat(node, 59.0)
    assert closed(harness.on(happened.Ticked(), 59.0)) == []
    harness.beat(node, 61.0)
    effects = harness.on(happened.Ticked(), 61.0)
    assert [c.container for c in closed(effects)] == [container]
    assert ("evict", "idle for 61 s") in journalled(effects)


def test_operator_evicts_by_id(harness: Harness) -> None:
    node = harness.node()
    harness.service("bert")
    container = harness.load(node, "bert", 1)
    assert closed(harness.admin("evict", container=text_of("c", container)))[0].container == container
    for bad, error in (("c9.9", NotFound), ("nonsense", InvalidInput)):
        with pytest.raises(error):
            harness.ask("evict", container=bad)


def test_unknown_verbs_and_arguments_are_refused_by_name(harness: Harness) -> None:
    with pytest.raises(InvalidInput, match=r"known are .*deploy"):
        harness.ask("destroy")
    with pytest.raises(InvalidInput, match="containr"):
        harness.ask("evict", containr="c1.1")
    with pytest.raises(InvalidInput, match="host_md"):
        harness.ask("deploy", model={"name": "m", "entry": "e", "resources": {"host_md": 1}})
    with pytest.raises(InvalidInput, match=r"enum"):
        harness.ask("create", name="s", model="m", tier="golden")


def test_same_name_serves_two_tenants_and_no_tenant_twice(harness: Harness) -> None:
    harness.deploy("m")
    harness.service("s", "m", tenant="t1")
    harness.service("s", "m", tenant="t2")
    with pytest.raises(Conflict):
        harness.ask("create", name="s", model="m", tenant="t2")
    assert [row["tenant"] for row in harness.ask("services", tenant="t1")] == ["t1"]


def test_open_gives_the_handle_of_the_callers_tenant(harness: Harness) -> None:
    harness.deploy("m")
    handle = harness.service("s", "m", tenant="t1")
    (answer,) = harness.on(happened.OpenRequested(CALLER, 1, OpenMeta("s", "t1")))
    assert answer == asked.Answer(CALLER, 1, OpenedMeta(handle, "s", "t1", "m", "shared"), handle)
    (refusal,) = refused(harness.on(happened.OpenRequested(CALLER, 1, OpenMeta("s", "t2"))))
    assert refusal.error.code == "NotFound"


def test_logs_are_asked_of_the_node_and_answered_once(harness: Harness) -> None:
    node = harness.node()
    harness.service("bert")
    container = harness.load(node, "bert", 1)
    for name in ("bert", text_of("c", container)):
        (ask,) = harness.admin("logs", name=name)
        assert isinstance(ask, asked.AskKernel)
        assert (ask.kernel, ask.args["container"]) == (node, container)
        assert harness.board.answered_by_kernel(node, OPERATOR, ask.request_id)
        assert not harness.board.answered_by_kernel(node, OPERATOR, ask.request_id)


def test_question_that_a_kernel_does_not_answer_ends(harness: Harness) -> None:
    node = harness.node()
    harness.service("bert")
    harness.load(node, "bert", 1)
    harness.admin("logs", name="bert")
    harness.beat(node, 11.0)
    assert [r.error.code for r in refused(harness.on(happened.Ticked(), 11.0))] == ["Unavailable"]


def test_events_tell_what_happened_oldest_first_and_can_be_followed(harness: Harness) -> None:
    node = harness.node()
    harness.service("bert")
    harness.load(node, "bert", 1)
    answer = harness.ask("events")
    assert [e["kind"] for e in answer["events"]] == ["node.registered", "deploy", "create", "load", "ready"]
    assert harness.ask("events", after=answer["next"]) == {"events": [], "next": answer["next"]}
    harness.ask("delete", name="bert")
    assert [e["kind"] for e in harness.ask("events", after=answer["next"])["events"]] == ["delete"]


def test_stopping_switchboard_takes_no_new_calls(harness: Harness) -> None:
    harness.node()
    harness.service("bert")
    harness.board.stopping = True
    assert refused(harness.call("bert", 1))[0].error.code == "Unavailable"


def test_ids_read_back_as_they_are_shown() -> None:
    assert id_of("c", text_of("c", (7 << 32) | 12)) == (7 << 32) | 12
    for text in ("", "c", "c1", "s1.2", "c-1.2", "c1.x"):
        with pytest.raises(InvalidInput):
            id_of("c", text)


def test_stored_model_keeps_every_field() -> None:
    spec = ModelSpec(name="m", entry="e", params={"a": [1, "x"]}, idempotent=True)
    write = put(model_key("m"), StoredModel(spec, 5.0))
    assert write.value is not None
    assert decode({write.key: write.value}).models == [StoredModel(spec, 5.0)]


def _registration(name: str, boot: str) -> RegisterMeta:
    return RegisterMeta(name, boot, 2, "host", Capacity(1, 1))


def _admin(verb: str, **args: object) -> AdminMeta:
    return AdminMeta(verb, args)
