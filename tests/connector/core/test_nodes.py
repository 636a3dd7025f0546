"""Kernels that register, fall silent, come back, and what they run."""

import pytest
from tests.connector.harness import (
    HOST_ID,
    MIB,
    Harness,
    created,
    forwarded,
    journalled,
    refused,
    report,
)

from huterox_connector.core import effects as asked
from huterox_connector.core import events as happened
from huterox_wire.ids import text_of
from huterox_wire.kinds import Kind
from huterox_wire.nodes import Capacity, HeartbeatMeta, RegisteredMeta, RegisterMeta
from huterox_wire.route import NUMBER


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
    effects = harness.pass_time(0.0, 3.5)
    assert refused(effects)[0].error.code == "WorkerLost"
    assert harness.ask("nodes") == []
    assert harness.ask("ps") == []


def test_switchboard_that_was_stopped_itself_does_not_blame_the_kernels(harness: Harness) -> None:
    """What they have sent meanwhile is still to be read."""
    node = harness.node()
    harness.service("bert")
    container = harness.load(node, "bert", 1)
    harness.hit("bert", 2, now_s=0.5)
    harness.pass_time(0.0, 1.0)
    assert journalled(harness.tick(61.0)) == []
    assert [row["id"] for row in harness.ask("ps")] == [text_of("c", container)]
    effects = harness.pass_time(61.0, 64.5)
    assert ("node.lost", "no heartbeat for 3.5 s") in journalled(effects)


def test_kernel_that_registers_again_keeps_what_is_ordered_in_the_same_moment(harness: Harness) -> None:
    """The room of a container that it has no more went to another, which was then missed in the same registration."""
    node = harness.node(slots=1)
    harness.service("old")
    harness.load(node, "old", 1)
    harness.service("new")
    harness.hit("old", 2)
    assert created(harness.call("new", 3, now_s=0.5)) == []  # its plan waits for the room
    meta = RegisterMeta("n1", "b1", 1, "host", Capacity(1, 1000 * MIB), host_id=HOST_ID)
    (create,) = created(harness.on(happened.KernelRegistered(node, meta), 1.0))
    assert create.model.name == "new"
    assert [row["model"] for row in harness.ask("ps")] == ["new"]


def test_calls_that_a_broken_connection_lost_end_once_the_kernel_has_told_which_it_has(harness: Harness) -> None:
    node = harness.node()
    harness.service("bert")
    container = harness.load(node, "bert", 1)
    for request_id in (2, 3, 4):
        harness.hit("bert", request_id)
    meta = RegisterMeta("n1", "b1", 1, "host", Capacity(2, 1000 * MIB), [report(container, "bert")], host_id=HOST_ID)
    assert refused(harness.on(happened.KernelRegistered(node, meta), 1.0)) == []
    harness.hit("bert", 5, now_s=1.0)  # on its way when the kernel tells
    assert harness.answer(node, 4) is not None
    held = [int.from_bytes(harness.route_of(3)[NUMBER], "little")]
    (refusal,) = refused(harness.beat(node, 1.1, calls=held))
    assert (refusal.request_id, refusal.error.code, refusal.error.details["executed"]) == (2, "WorkerLost", "maybe")
    assert refused(harness.beat(node, 1.2, calls=[])) == []  # it was not asked again
    assert harness.answer(node, 3) is not None
    assert harness.answer(node, 5) is not None


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
    assert command.meta == RegisteredMeta(1, harness.config.heartbeat_s, again=True, store="store1", mark=1)


def test_second_kernel_of_the_same_name_waits_until_the_first_is_lost(harness: Harness) -> None:
    first = harness.node("n1")
    meta = happened.KernelRegistered(b"n1:b2", _registration("n1", "b2"))
    effects = harness.on(meta, 0.5)
    assert [(e.kernel, e.kind) for e in effects if isinstance(e, asked.Command)] == [
        (b"n1:b2", Kind.ERROR),
        (first, Kind.HEARTBEAT),
    ]
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


def _registration(name: str, boot: str) -> RegisterMeta:
    return RegisterMeta(name, boot, 2, "host", Capacity(1, 1))


def twins_told(effects: list[asked.Effect]) -> int:
    return sum(isinstance(effect, asked.Journalled) and effect.kind == "node.twin" for effect in effects)


def test_second_kernel_of_a_name_is_told_of_once_and_again_in_growing_pauses(harness: Harness) -> None:
    first, second = harness.node("n1"), b"n1:b2"
    told = []
    now_s = 0.0
    while now_s < 1000.0:
        harness.beat(first, now_s)
        effects = harness.on(happened.KernelRegistered(second, _registration("n1", "b2")), now_s)
        effects += harness.on(happened.KernelBeat(second, HeartbeatMeta("n1", "b2")), now_s)
        told += [now_s] * twins_told(effects)
        refusals = [e for e in effects if isinstance(e, asked.Command) and e.kind == Kind.ERROR]
        assert [refusal.kernel for refusal in refusals] == [second, second]
        assert not [e for e in effects if isinstance(e, asked.Command) and e.kind == Kind.REGISTER], (
            "it is not asked to"
        )
        now_s += 0.5
    assert told == [0.0, 60.0, 180.0, 420.0, 900.0]


def test_second_kernel_is_asked_to_register_as_soon_as_the_first_is_lost(harness: Harness) -> None:
    first, second = harness.node("n1"), b"n1:b2"
    harness.on(happened.KernelRegistered(second, _registration("n1", "b2")), 0.1)
    harness.on(happened.KernelUnreachable(first), 0.2)
    (command,) = harness.on(happened.KernelBeat(second, HeartbeatMeta("n1", "b2")), 0.3)
    assert isinstance(command, asked.Command) and command.kind == Kind.REGISTER
    harness.on(happened.KernelRegistered(second, _registration("n1", "b2")), 0.4)
    assert list(harness.board.registry.nodes) == [second]
    third = harness.on(happened.KernelRegistered(b"n1:b3", _registration("n1", "b3")), 0.5)
    assert twins_told(third) == 1, "which is news"


def test_kernel_that_registers_in_a_loop_is_told_of_once_in_a_while(harness: Harness) -> None:
    told = []
    for number in range(200):
        effects = harness.on(happened.KernelRegistered(b"n1:b1", _registration("n1", "b1")), number * 0.05)
        told += [e for e in effects if isinstance(e, asked.Journalled) and e.kind == "node.registered"]
    assert len(told) == 2
    assert told[1].details["untold_before"] == 99
