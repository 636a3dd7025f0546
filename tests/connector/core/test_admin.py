"""The operator's verbs: changes are on disk before they count."""

import pytest
from tests.connector.harness import (
    CALLER,
    OPERATOR,
    Harness,
    closed,
    created,
    journalled,
    refused,
)

from huterox_connector.core import effects as asked
from huterox_connector.core import events as happened
from huterox_connector.core.desired import Desired, StoredModel, StoredService, decode, model_key, put
from huterox_connector.core.measured import Measured
from huterox_wire.errors import Conflict, Fault, InvalidInput, NotFound
from huterox_wire.ids import text_of
from huterox_wire.kinds import Kind
from huterox_wire.meta import AdminMeta, AdminReplyMeta, OpenedMeta, OpenMeta
from huterox_wire.nodes import ModelSpec


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
    other.board.restore(decode(records), Measured(), [])
    assert other.ask("models") == [row for row in harness.ask("models") if row["name"] == "m"]
    assert other.ask("services") == harness.ask("services")


def test_store_with_an_orphaned_service_is_refused(harness: Harness) -> None:
    orphan = StoredService(1, "s", "t", "shared", "no such model", 0.0)
    with pytest.raises(Fault, match="no such model"):
        harness.board.restore(Desired([], [orphan]), Measured(), [])


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
    harness.node()
    harness.service("bert")
    container = created(harness.call("bert", 1))[0].container
    effects = harness.admin("delete", name="bert")
    assert [r.error.code for r in refused(effects)] == ["NotFound"]
    assert [c.container for c in closed(effects)] == [container]


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
    assert ("reclaim", "idle for 61 s") in journalled(effects)


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
        assert isinstance(ask.meta, AdminMeta)
        assert (ask.kernel, ask.kind, ask.meta.verb, ask.meta.args["container"]) == (
            node,
            Kind.ADMIN,
            "logs",
            container,
        )
        assert harness.board.answered_by_kernel(node, ask.route, ask.request_id, 0.0)
        assert not harness.board.answered_by_kernel(node, ask.route, ask.request_id, 0.0)


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
    assert harness.ask("events", after=answer["next"]) == {"events": [], "next": answer["next"], "more": False}
    harness.ask("delete", name="bert")
    assert [e["kind"] for e in harness.ask("events", after=answer["next"])["events"]] == ["delete", "reclaim"]


def test_events_are_paged_forwards_and_backwards(harness: Harness) -> None:
    for index in range(10):
        harness.service(f"m{index}")
    everything = harness.ask("events")
    assert everything["more"] is False
    first = harness.ask("events", after=1, limit=4)
    assert [e["seq"] for e in first["events"]] == [2, 3, 4, 5]
    assert first["more"] is True
    last = harness.ask("events", limit=4)
    assert last["events"] == everything["events"][-4:]
    assert last["more"] is True
    before = harness.ask("events", before=last["events"][0]["seq"], limit=4)
    assert before["events"] == everything["events"][-8:-4]


def test_stopping_switchboard_takes_no_new_calls(harness: Harness) -> None:
    harness.node()
    harness.service("bert")
    harness.board.stopping = True
    assert refused(harness.call("bert", 1))[0].error.code == "Unavailable"


def test_stored_model_keeps_every_field() -> None:
    spec = ModelSpec(name="m", entry="e", params={"a": [1, "x"]}, idempotent=True)
    write = put(model_key("m"), StoredModel(spec, 5.0))
    assert write.value is not None
    assert decode({write.key: write.value}).models == [StoredModel(spec, 5.0)]


def _admin(verb: str, **args: object) -> AdminMeta:
    return AdminMeta(verb, args)


def test_pending_lists_what_a_caller_waits_for_and_nothing_else(harness: Harness) -> None:
    """By kind: a call that waits for its container, one in flight, a lease, a log, a change written and one in line."""
    node = harness.node(slots=2)
    harness.service("bert")
    harness.load(node, "bert", 1)
    harness.service("cold")
    assert pending(harness) == []
    harness.call("cold", 11)  # waits for a container
    harness.hit("bert", 12)
    harness.lease("bert", 13)
    harness.on(happened.AdminRequested(CALLER, 14, _admin("logs", name="bert")))
    assert refused(harness.on(happened.AdminRequested(CALLER, 15, _admin("delete", name="none of it"))))  # at once
    (commit,) = harness.on(
        happened.AdminRequested(CALLER, 16, _admin("deploy", model={"name": "m", "entry": "m.py:M"}))
    )
    harness.on(happened.AdminRequested(CALLER, 17, _admin("create", name="s", model="m")))
    for request_id, caller in ((21, b"other"), (12, b"other")):
        harness.hit("bert", request_id, caller=caller)
    harness.call("cold", 22, caller=b"other")
    harness.on(happened.AdminRequested(OPERATOR, 23, _admin("create", name="t", model="m")))
    assert pending(harness) == [11, 12, 13, 14, 16, 17]
    assert pending(harness, b"other") == [12, 21, 22]
    assert pending(harness, OPERATOR) == [23]
    assert pending(harness, b"nobody") == []
    assert isinstance(commit, asked.Commit)
    (second,) = [e for e in harness.on(happened.Committed(commit.ticket)) if isinstance(e, asked.Commit)]
    assert pending(harness) == [11, 12, 13, 14, 17]
    harness.on(happened.CommitFailed(second.ticket, "disk full"))
    assert pending(harness) == [11, 12, 13, 14]


def test_pending_lists_nothing_that_has_ended(harness: Harness) -> None:
    node = harness.node(slots=2)
    harness.service("bert")
    harness.load(node, "bert", 1)
    harness.service("cold")
    for request_id in range(11, 17):
        harness.hit("bert", request_id)
    harness.call("cold", 17)
    harness.call("cold", 18, budget_s=0.5)
    harness.lease("bert", 19, budget_s=0.5)
    assert pending(harness) == [*range(11, 20)]
    harness.answer(node, 11)
    harness.answer(node, 12, Kind.ERROR)
    harness.answer(node, 13, Kind.PART)  # there is more to come
    harness.on(happened.CallCancelled(CALLER, 14))
    harness.on(happened.CallCancelled(CALLER, 17))
    harness.on(happened.CallerStalled(CALLER, 15))
    assert pending(harness) == [13, 14, 16, 18, 19]
    harness.answer(node, 14, Kind.ERROR)  # its container has given it up
    assert pending(harness) == [13, 16, 18, 19]
    harness.tick(1.0)  # the time of two is over
    assert pending(harness, now_s=1.0) == [13, 16]
    harness.hand_back(node, 16, 1.0)  # begun by nobody: it waits for its turn again, or has been sent anew
    assert pending(harness, now_s=1.0) == [13, 16]
    harness.on(happened.CallersGone(frozenset({CALLER})), 1.0)
    assert pending(harness, now_s=1.0) == []


def pending(harness: Harness, caller: bytes = CALLER, now_s: float = 0.0) -> list[int]:
    """What a caller is told; the question itself is not listed."""
    (answer,) = harness.on(happened.AdminRequested(caller, 99, _admin("pending")), now_s)
    assert isinstance(answer, asked.Answer) and isinstance(answer.meta, AdminReplyMeta)
    assert (answer.caller, answer.request_id) == (caller, 99)
    request_ids: list[int] = answer.meta.result["request_ids"]
    return request_ids
