"""A store that is lost, restored from a copy or put in another's place: epochs go beyond what kernels have seen."""

from typing import Any

import pytest
from tests.connector.harness import Harness, created, drained, events_of, refused, report

from huterox_connector.core import effects as asked
from huterox_connector.core import events as happened
from huterox_connector.core.term import TICKET, TRY_AGAIN_S
from huterox_connector.core.vectors import MIB
from huterox_wire.kinds import Kind
from huterox_wire.nodes import EPOCH_MAX, Capacity, CreateMeta, RegisteredMeta, RegisterMeta

KERNEL = b"n1:b1"


@pytest.fixture
def harness() -> Harness:
    return Harness(order_again_s=1.0)


def registers(harness: Harness, now_s: float = 0.0, **seen: Any) -> list[asked.Effect]:
    meta = RegisterMeta("n1", "b1", 1, "host", Capacity(4, 1000 * MIB), **seen)
    return harness.on(happened.KernelRegistered(KERNEL, meta), now_s)


def told(effects: list[asked.Effect]) -> list[RegisteredMeta]:
    return [e.meta for e in effects if isinstance(e, asked.Command) and isinstance(e.meta, RegisteredMeta)]


def test_switchboard_steps_beyond_what_a_kernel_has_seen_before_it_commands(harness: Harness) -> None:
    effects = registers(harness, epoch_seen=3, store_seen="lost", mark_seen=9)
    (commit,) = [effect for effect in effects if isinstance(effect, asked.Commit)]
    assert (commit.ticket, commit.writes) == (TICKET, (asked.Write("epoch", b"4"),))
    assert not told(effects)
    assert KERNEL not in harness.board.registry.nodes, "it must not be commanded in an epoch that is not on disk"
    assert told(harness.beat(KERNEL, 0.1)) == [RegisteredMeta(1, 0.5, again=True, store="store1", mark=1)]
    assert not [e for e in registers(harness, 0.1, epoch_seen=3, store_seen="lost") if isinstance(e, asked.Commit)]

    harness.on(happened.Committed(TICKET), 0.2)
    assert told(harness.beat(KERNEL, 0.3)) == [RegisteredMeta(4, 0.5, again=True, store="store1", mark=1)]
    assert told(registers(harness, 0.3, epoch_seen=4, store_seen="store1", mark_seen=1)) == [
        RegisteredMeta(4, 0.5, store="store1", mark=1)
    ]
    service = harness.service("s")
    assert created(harness.call(service, 1))[0].epoch == 4
    assert harness.ask("status")["epoch"] == 4


@pytest.mark.parametrize(
    ("seen", "kind", "words"),
    [
        ({"epoch_seen": 3, "store_seen": "lost"}, "store.younger", "lost or replaced"),
        ({"epoch_seen": 3, "store_seen": "store1"}, "store.younger", "older copy"),
        ({"epoch_seen": 1, "store_seen": "store1", "mark_seen": 77}, "store.younger", "older copy"),
        ({"epoch_seen": 1, "store_seen": "lost", "mark_seen": 77}, "store.younger", "lost or replaced"),
        ({"epoch_seen": 0, "store_seen": "lost"}, "store.other", "another store"),
    ],
)
def test_younger_store_is_told_once_and_stands_in_the_list_of_nodes(
    harness: Harness, seen: dict[str, Any], kind: str, words: str
) -> None:
    (event,) = events_of(registers(harness, **seen), kind)
    assert words in event.reason
    assert event.details == {"epoch": 1, "store": "store1"}
    again = [event for event in registers(harness, 0.5, **seen) if isinstance(event, asked.Journalled)]
    assert kind not in [event.kind for event in again]
    harness.on(happened.Committed(TICKET), 0.6)
    registers(harness, 0.7, epoch_seen=harness.board._term.epoch, store_seen="store1", mark_seen=1)
    (row,) = harness.ask("nodes", 0.7)
    assert words in row["note"]


@pytest.mark.parametrize("seen", [{}, {"epoch_seen": 1, "store_seen": "store1", "mark_seen": 1}, {"epoch_seen": 1}])
def test_kernel_that_has_seen_nothing_newer_is_taken_in_at_once(harness: Harness, seen: dict[str, Any]) -> None:
    effects = registers(harness, **seen)
    assert len(told(effects)) == 1
    assert not [effect for effect in effects if isinstance(effect, asked.Commit)]
    assert harness.ask("nodes")[0]["note"] is None


def test_epoch_that_cannot_be_written_is_tried_again_after_a_while(harness: Harness) -> None:
    registers(harness, epoch_seen=3)
    harness.on(happened.CommitFailed(TICKET, "disk full"), 0.1)
    assert registers(harness, 0.2, epoch_seen=3) == []
    (commit,) = registers(harness, 0.1 + TRY_AGAIN_S, epoch_seen=3)
    assert isinstance(commit, asked.Commit)


def test_epoch_beyond_which_there_is_none_is_not_stepped_beyond(harness: Harness) -> None:
    effects = registers(harness, epoch_seen=EPOCH_MAX)
    assert [type(effect) for effect in effects] == [asked.Journalled]
    assert not harness.board.registry.nodes


# What runs.


def order_of(harness: Harness, service: int, request_id: int) -> CreateMeta:
    (order,) = created(harness.call(service, request_id))
    return order


@pytest.mark.parametrize("revision", ["of another store", "of another deployment"])
def test_container_of_an_equal_name_and_version_that_is_not_the_deployed_one_is_ended(
    harness: Harness, revision: str
) -> None:
    harness.service("s")
    harness.node("n1", containers=[report(77, "s", revision=revision)])
    container = harness.board.registry.containers[77]
    assert container.state in ("draining", "closing")
    assert not harness.board.registry.groups["s", 0].resident


def test_container_of_the_deployed_revision_is_adopted(harness: Harness) -> None:
    harness.service("s")
    revision = harness.board._term.revision_of(harness.board.registry.models["s"].spec)
    harness.node("n1", containers=[report(77, "s", revision=revision)])
    assert harness.board.registry.containers[77].state == "ready"


def test_order_names_the_revision_which_another_store_or_specification_changes(harness: Harness) -> None:
    harness.node("n1")
    first = order_of(harness, harness.service("s"), 1)
    term, spec = harness.board._term, harness.board.registry.models["s"].spec
    assert first.revision == term.revision_of(spec)
    harness.deploy("s", host_mb=101)
    assert term.revision_of(harness.board.registry.models["s"].spec) != first.revision
    term.store = "store2"
    assert term.revision_of(spec) != first.revision


# Lanes.


def test_lanes_of_services_that_are_not_known_are_ended_until_they_are(harness: Harness) -> None:
    kernel = harness.node("n1")
    known = harness.service("s")
    container = harness.load(kernel, "s", 1)
    stranger = 99 << 32 | 1
    seen = report(container, "s", lanes=2, lane_services=[known, stranger])
    (drain,) = drained(harness.beat(kernel, 0.5, seen))
    assert (drain.container, drain.service) == (container, stranger)
    assert not drained(harness.beat(kernel, 1.0, seen)), "it has a moment to carry it out"
    assert [drain.service for drain in drained(harness.beat(kernel, 2.0, seen))] == [stranger]
    assert not drained(harness.beat(kernel, 4.0, report(container, "s", lanes=1, lane_services=[known])))


def test_lanes_of_a_service_that_was_deleted_end_though_the_order_was_lost(harness: Harness) -> None:
    kernel = harness.node("n1")
    first, second = harness.service("s"), harness.service("t", model="s")
    container = harness.load(kernel, "s", 1)
    harness.admin("delete", 1.0, name="t")
    seen = report(container, "s", lanes=2, lane_services=[first, second])
    assert [drain.service for drain in drained(harness.beat(kernel, 1.5, seen))] == [second]


def test_lanes_of_strangers_to_an_adopted_container_are_ended_at_once(harness: Harness) -> None:
    known = harness.service("s")
    harness.node("n0", host_mb=1)
    effects = harness.on(
        happened.KernelRegistered(
            KERNEL,
            RegisterMeta(
                "n1",
                "b1",
                1,
                "host",
                Capacity(4, 1000 * MIB),
                containers=[report(77, "s", lanes=2, lane_services=[known, 5])],
            ),
        )
    )
    assert [(e.kind, e.meta.service) for e in effects if isinstance(e, asked.Command) and e.kind is Kind.DRAIN] == [
        (Kind.DRAIN, 5)
    ]


def test_handle_of_another_start_is_not_found(harness: Harness) -> None:
    harness.service("s")
    (refusal,) = refused(harness.call(2 << 32 | 1, 1))
    assert (refusal.error.code, refusal.error.details) == ("NotFound", {"stale_handle": True})
