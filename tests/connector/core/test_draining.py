"""Leaving: no new calls, DRAIN for the lanes, and CLOSE when both have ended."""

from collections.abc import Callable

import pytest
from tests.connector.harness import Harness, closed, created, drained, forwarded, report

from huterox_connector.core import effects as asked
from huterox_connector.core import events as happened
from huterox_wire.ids import text_of
from huterox_wire.kinds import Kind
from huterox_wire.leases import DrainMeta
from huterox_wire.nodes import ContainerEvent


@pytest.fixture
def harness() -> Harness:
    harness = Harness()
    harness.drains_at_once = False
    return harness


def loaded(harness: Harness, **node: int) -> tuple[bytes, int]:
    kernel = harness.node(**node)  # type: ignore[arg-type]
    harness.service("bert")
    return kernel, harness.load(kernel, "bert", 1)


def evict(harness: Harness, container: int, now_s: float = 0.0) -> list[asked.Effect]:
    return harness.admin("evict", now_s, container=text_of("c", container))


def test_lanes_are_drained_before_the_container_is_closed(harness: Harness) -> None:
    node, container = loaded(harness)
    effects = evict(harness, container)
    assert drained(effects) == [DrainMeta(1, container, "an operator asked for it")]
    assert closed(effects) == []
    assert [e.kernel for e in effects if isinstance(e, asked.Command) and e.kind is Kind.DRAIN] == [node]
    assert harness.hit("bert", 2) is None
    assert [c.container for c in closed(harness.drained(node, container))] == [container]


def test_calls_and_lanes_end_in_either_order(harness: Harness) -> None:
    node, container = loaded(harness)
    harness.hit("bert", 2)
    evict(harness, container)
    assert closed(harness.drained(node, container)) == []
    assert harness.answer(node, 2) is not None
    assert [c.container for c in closed(harness.on(happened.ContainerDrained(container)))] == [container]

    harness.gone(node, container)
    container = harness.load(node, "bert", 3)
    harness.hit("bert", 4)
    evict(harness, container)
    assert harness.answer(node, 4) is not None
    assert closed(harness.on(happened.ContainerDrained(container))) == []
    assert [c.container for c in closed(harness.drained(node, container))] == [container]


def test_container_is_closed_once_however_often_its_lanes_end(harness: Harness) -> None:
    node, container = loaded(harness)
    evict(harness, container)
    assert len(closed(harness.drained(node, container))) == 1
    assert harness.drained(node, container) == []


def test_room_is_not_given_away_before_the_lanes_have_ended(harness: Harness) -> None:
    node, container = loaded(harness, slots=1)
    harness.service("next")
    effects = harness.call("next", 2)
    assert [d.container for d in drained(effects)] == [container]
    assert (closed(effects), created(effects)) == ([], [])
    assert created(harness.drained(node, container)) == []
    assert [c.model.name for c in created(harness.gone(node, container))] == ["next"]


def test_kernel_that_does_not_answer_is_told_again(harness: Harness) -> None:
    node, container = loaded(harness)
    evict(harness, container, now_s=1.0)
    still = report(container, "bert", "draining", lanes=1)
    assert drained(harness.beat(node, 10.9, still)) == []
    assert [d.container for d in drained(harness.beat(node, 11.1, still))] == [container]
    assert drained(harness.beat(node, 11.6, still)) == []
    assert [c.container for c in closed(harness.drained(node, container, 12.0))] == [container]
    assert [c.container for c in closed(harness.beat(node, 22.1))] == [container]
    harness.gone(node, container, now_s=23.0)
    effects = harness.beat(node, 40.0)
    assert [*drained(effects), *closed(effects)] == []


def test_kernel_that_only_waits_for_our_calls_is_not_told_again(harness: Harness) -> None:
    node, container = loaded(harness)
    harness.hit("bert", 2)
    evict(harness, container)
    harness.drained(node, container)
    assert drained(harness.beat(node, 20.0, report(container, "bert", "draining"))) == []


def test_container_that_ends_while_it_drains_is_gone(harness: Harness) -> None:
    node, container = loaded(harness)
    evict(harness, container)
    assert closed(harness.gone(node, container, cause="crashed", reason="killed by SIGKILL")) == []
    assert harness.ask("ps") == []
    assert harness.drained(node, container) == []


def test_node_that_is_lost_ends_the_draining(harness: Harness) -> None:
    node, container = loaded(harness)
    evict(harness, container)
    harness.on(happened.KernelUnreachable(node), 1.0)
    assert harness.ask("ps") == []


def test_load_that_is_broken_off_is_closed_at_once(harness: Harness) -> None:
    harness.node()
    harness.service("bert")
    (create,) = created(harness.call("bert", 1))
    effects = evict(harness, create.container)
    assert drained(effects) == []
    assert [c.container for c in closed(effects)] == [create.container]


def test_container_whose_kernel_hands_calls_back_is_drained(harness: Harness) -> None:
    node, container = loaded(harness)
    harness.hit("bert", 2)
    effects = harness.hand_back(node, 2)
    assert [d.container for d in drained(effects)] == [container]
    assert closed(effects) == []
    (fresh,) = created(effects)
    harness.gone(node, container, reason="it is not here")
    assert list(harness.board.registry.containers) == [fresh.container]


def test_container_that_its_kernel_has_drained_unasked_is_evicted(harness: Harness) -> None:
    """An older switchboard's order: this one would lease lanes of it in vain."""
    harness.service("bert")
    node = harness.node(containers=[report(77, "bert")])
    effects = harness.drained(node, 77)
    assert [d.container for d in drained(effects)] == [77]
    assert harness.hit("bert", 1) is None
    assert [c.container for c in closed(harness.drained(node, 77))] == [77]


@pytest.mark.parametrize("state", ["ready", "draining"])
def test_stray_container_is_drained_before_it_is_closed(harness: Harness, state: str) -> None:
    node = harness.node(slots=1, containers=[report(77, "unknown", state, lanes=1)])
    (row,) = harness.ask("ps")
    assert row["state"] == "draining"
    harness.service("bert")
    assert created(harness.call("bert", 1)) == []
    assert [c.container for c in closed(harness.drained(node, 77))] == [77]
    assert [c.model.name for c in created(harness.gone(node, 77))] == ["bert"]


def test_stray_container_that_loads_is_closed_at_once(harness: Harness) -> None:
    effects: list[asked.Effect] = []
    on = harness.on

    def keep(event: happened.Event, now_s: float = 0.0) -> list[asked.Effect]:
        effects.extend(on(event, now_s))
        return effects

    harness.on = keep  # type: ignore[method-assign]
    harness.node(containers=[report(77, "unknown", "creating")])
    assert drained(effects) == []
    assert [c.container for c in closed(effects)] == [77]


@pytest.mark.parametrize(
    "leave",
    [
        lambda harness: harness.admin("evict", 1.0, container=text_of("c", 1 << 32 | 2)),
        lambda harness: harness.deploy("bert", host_mb=300),
        lambda harness: harness.admin("undeploy", 1.0, name="bert", force=True),
    ],
    ids=["evict", "deploy-anew", "undeploy"],
)
def test_every_way_to_leave_drains_first(harness: Harness, leave: Callable[[Harness], object]) -> None:
    node, container = loaded(harness)
    leave(harness)
    assert harness.board.registry.containers[container].state == "draining"
    assert [c.container for c in closed(harness.drained(node, container, 1.0))] == [container]


def test_container_that_has_not_loaded_has_no_lanes_to_end(harness: Harness) -> None:
    node = harness.node()
    harness.service("bert")
    (create,) = created(harness.call("bert", 1))
    assert harness.drained(node, create.container) == []
    assert len(forwarded(harness.ready(node, create.container))) == 1
    effects = evict(harness, create.container)
    harness.answer(node, 1)
    assert closed([*effects, *harness.on(happened.ContainerDrained(create.container))]) == []


def test_news_of_lanes_of_a_stranger_are_dropped(harness: Harness) -> None:
    node, _ = loaded(harness)
    for event in (ContainerEvent(999, "drained"), ContainerEvent(999, "lane_broken", reason="x")):
        assert harness.on(happened.ContainerReported(node, event)) == []
        assert harness.on(happened.ContainerReported(b"stranger", event)) == []
