"""Kernels that register, fall silent, come back, and what they run."""

import pytest
from tests.connector.harness import (
    Harness,
    created,
    forwarded,
    refused,
    report,
)

from huterox_connector.core import effects as asked
from huterox_connector.core import events as happened
from huterox_wire.ids import text_of
from huterox_wire.kinds import Kind
from huterox_wire.nodes import Capacity, RegisteredMeta, RegisterMeta


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
    assert command.meta == RegisteredMeta(1, harness.config.heartbeat_s, again=True, store="store1", mark=1)


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


def _registration(name: str, boot: str) -> RegisterMeta:
    return RegisterMeta(name, boot, 2, "host", Capacity(1, 1))
