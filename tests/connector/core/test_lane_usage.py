"""Calls that pass by lanes count like others: once each, whatever becomes of reports, kernels and services."""

from typing import Any

import pytest
from tests.connector.harness import CALLER, HOST_ID, Harness, closed, report, usage

from huterox_connector.core import events as happened
from huterox_connector.core.guards import Guard, Wish, guard_of
from huterox_connector.core.replacer import POLICIES
from huterox_connector.core.usage import GONE_WRITTEN_MAX, REMEMBERED_MAX, LaneUse
from huterox_wire.nodes import Capacity, ContainerEvent, RegisterMeta


def served(harness: Harness, *names: str, slots: int = 2) -> tuple[bytes, dict[str, int]]:
    """A node, with one ready container for each name; each has had one routed call."""
    node = harness.node(slots=slots)
    containers = {}
    for number, name in enumerate(names, 1):
        harness.service(name)
        containers[name] = harness.load(node, name, number)
    return node, containers


def service_row(harness: Harness, name: str = "bert") -> Any:
    (row,) = [row for row in harness.ask("services") if row["name"] == name]
    return row


def used(harness: Harness) -> tuple[int, int, float]:
    """Calls, errors and busy seconds of the one service."""
    row = service_row(harness)["usage"]
    return row["calls"], row["errors"], row["busy_s"]


def container_row(harness: Harness) -> Any:
    (row,) = harness.ask("ps")
    return row


def test_calls_in_lanes_count_for_service_container_and_usage(harness: Harness) -> None:
    node, containers = served(harness, "bert")
    handle = harness.handles["bert"]
    lanes = [usage(handle, calls=10, errors=2, busy_s=1.5, idle_s=0.25)]
    harness.beat(node, 2.0, report(containers["bert"], "bert", lanes=3, lane_calls=1, lane_usage=lanes))
    service, container = service_row(harness), container_row(harness)
    assert (service["hits"], used(harness)) == (11, (11, 2, 1.5))
    assert (container["hits"], container["lanes"], container["in_flight"]) == (11, 3, 1)
    assert service["last_hit_at"] == container["last_hit_at"] == 1001.75


def test_totals_count_once_however_often_they_are_told(harness: Harness) -> None:
    node, containers = served(harness, "bert")
    handle = harness.handles["bert"]
    for now_s, calls in ((1.0, 5), (2.0, 5), (3.0, 9), (4.0, 9)):
        harness.beat(node, now_s, report(containers["bert"], "bert", lane_usage=[usage(handle, calls, idle_s=0.5)]))
    assert service_row(harness)["hits"] == container_row(harness)["hits"] == 10
    assert service_row(harness)["last_hit_at"] == 1002.5  # nothing has come since


def test_lost_report_is_made_good_by_the_next_and_nothing_is_ever_taken_back(harness: Harness) -> None:
    node, containers = served(harness, "bert")
    handle = harness.handles["bert"]
    for calls in (3, 50, 20):
        lanes = [usage(handle, calls, errors=calls, busy_s=calls)]
        harness.beat(node, 1.0, report(containers["bert"], "bert", lane_usage=lanes))
    assert used(harness) == (51, 50, 50.0)


def test_services_of_one_container_are_counted_apart(harness: Harness) -> None:
    node, containers = served(harness, "bert")
    harness.service("other", "bert")
    lanes = [usage(harness.handles["bert"], 4), usage(harness.handles["other"], 7)]
    harness.beat(node, 1.0, report(containers["bert"], "bert", lane_usage=lanes))
    assert (service_row(harness, "bert")["hits"], service_row(harness, "other")["hits"]) == (5, 7)
    assert container_row(harness)["hits"] == 12


def test_calls_for_a_deleted_service_count_for_the_container_alone(harness: Harness) -> None:
    node, containers = served(harness, "bert")
    harness.service("other", "bert")
    harness.ask("delete", name="other")
    lanes = [usage(harness.handles["other"], 7)]
    harness.beat(node, 1.0, report(containers["bert"], "bert", lane_usage=lanes))
    assert service_row(harness)["hits"] == 1
    assert container_row(harness)["hits"] == 8


def test_final_totals_of_a_container_that_is_gone_count(harness: Harness) -> None:
    node, containers = served(harness, "bert")
    handle = harness.handles["bert"]
    harness.beat(node, 1.0, report(containers["bert"], "bert", lane_usage=[usage(handle, 5)]))
    harness.gone(node, containers["bert"], now_s=1.2, cause="crashed", lane_usage=[usage(handle, 8, errors=1)])
    assert used(harness) == (9, 1, 0.0)
    harness.gone(node, containers["bert"], now_s=1.3, lane_usage=[usage(handle, 8, errors=1)])
    assert used(harness) == (9, 1, 0.0)
    (departed,) = harness.board.registry.departed
    assert departed.hits == 9


def test_adopted_containers_share_of_a_service_counts_once_and_its_own_hits_hold_it_already(harness: Harness) -> None:
    handle = harness.service("bert")
    lanes = [usage(handle, 30, errors=1, busy_s=2.0, idle_s=0.5)]
    running = report(77, "bert", requests=100, errors=3, lanes=1, lane_usage=lanes)
    node = harness.node(containers=[running], now_s=1.0)
    assert used(harness) == (30, 1, 2.0)
    container = container_row(harness)
    assert (container["hits"], container["lanes"], container["last_hit_at"]) == (100, 1, 1000.5)
    harness.beat(node, 1.5, report(77, "bert", requests=105, lane_usage=[usage(handle, 35, errors=1, busy_s=2.0)]))
    assert service_row(harness)["hits"] == 35
    assert container_row(harness)["hits"] == 105


def test_container_that_comes_back_with_its_node_is_not_counted_again(harness: Harness) -> None:
    node, containers = served(harness, "bert")
    handle, container = harness.handles["bert"], containers["bert"]
    harness.beat(node, 1.0, report(container, "bert", requests=6, lane_usage=[usage(handle, 5)]))
    harness.on(happened.KernelUnreachable(node), 1.5)
    assert harness.ask("ps") == []
    harness.node(now_s=2.0, containers=[report(container, "bert", requests=10, lane_usage=[usage(handle, 9)])])
    assert service_row(harness)["hits"] == 10
    assert container_row(harness)["hits"] == 10
    harness.node(now_s=2.5, containers=[report(container, "bert", requests=12, lane_usage=[usage(handle, 11)])])
    assert service_row(harness)["hits"] == container_row(harness)["hits"] == 12


def test_end_that_is_told_before_the_kernel_has_registered_counts_once(harness: Harness) -> None:
    handle = harness.service("bert")
    harness.gone(b"n1:b1", 77, now_s=1.0, lane_usage=[usage(handle, 5)])
    harness.node(now_s=1.1)
    harness.gone(b"n1:b1", 77, now_s=1.2, lane_usage=[usage(handle, 5)])
    assert service_row(harness)["hits"] == 5


def test_kernel_cannot_speak_for_a_container_of_another(harness: Harness) -> None:
    _, containers = served(harness, "bert")
    handle = harness.handles["bert"]
    other = harness.node("n2")
    harness.beat(other, 1.0, report(containers["bert"], "bert", lanes=9, lane_usage=[usage(handle, 5)]))
    harness.gone(other, containers["bert"], now_s=1.0, lane_usage=[usage(handle, 5)])
    assert service_row(harness)["hits"] == 1
    assert container_row(harness)["lanes"] == 0


def test_nonsense_in_a_report_moves_nothing_backwards(harness: Harness) -> None:
    node, containers = served(harness, "bert")
    handle = harness.handles["bert"]
    before = service_row(harness)
    harness.beat(node, 1.0, report(containers["bert"], "bert", lane_usage=[usage(handle, -5, -1, -3.0, -9.0)]))
    harness.beat(node, 2.0, report(containers["bert"], "bert", lane_usage=[usage(999, 0, 0, 0.0, 1e9)]))
    assert service_row(harness) == before
    harness.beat(node, 3.0, report(containers["bert"], "bert", lane_usage=[usage(handle, 1, idle_s=-9.0)]))
    assert service_row(harness)["last_hit_at"] == 1003.0


@pytest.mark.parametrize("policy", sorted(set(POLICIES) - {"fifo"}))  # which does not mind use
def test_container_that_is_used_by_lanes_alone_is_not_the_victim(policy: str) -> None:
    harness = Harness(policy=policy)
    node, containers = served(harness, "a", "b", slots=2)
    harness.service("c")
    # The clock's hand goes round once: what was used before does not count any more.
    assert harness.board.registry.nodes[node].replacer.victim(set(containers.values())) == containers["a"]
    lanes = [usage(harness.handles["a"], 4)]
    harness.beat(node, 2.0, report(containers["a"], "a", lane_usage=lanes), report(containers["b"], "b"))
    assert [c.container for c in closed(harness.call("c", 11, now_s=2.1))] == [containers["b"]]


def test_replacer_hears_of_lanes_in_the_order_of_their_last_calls(harness: Harness) -> None:
    node, containers = served(harness, "a", "b", "c", slots=3)
    reports = [
        report(containers[name], name, lane_usage=[usage(harness.handles[name], 1, idle_s=idle_s)])
        for name, idle_s in (("a", 0.1), ("b", 0.4), ("c", 0.2))
    ]
    harness.beat(node, 1.0, *reports)
    harness.service("d")
    assert [c.container for c in closed(harness.call("d", 9, now_s=1.1))] == [containers["b"]]


def test_container_with_calls_in_its_lanes_is_busy(harness: Harness) -> None:
    node, containers = served(harness, "a", "b", slots=2)
    harness.service("c")
    harness.hit("b", 9, now_s=0.5)
    harness.answer(node, 9)
    harness.beat(node, 1.0, report(containers["a"], "a", lanes=1, lane_calls=1))  # the least recently used one
    assert [c.container for c in closed(harness.call("c", 10, now_s=1.1))] == [containers["b"]]


def test_calls_in_lanes_are_a_reason_to_stay(harness: Harness) -> None:
    node, containers = served(harness, "bert")
    container = harness.board.registry.containers[containers["bert"]]
    wish = Wish(container.group, 0.0, 1.0)
    assert guard_of(container, wish, 1.0, harness.config) is None
    harness.beat(node, 1.0, report(containers["bert"], "bert", lanes=2, lane_calls=3))
    assert guard_of(container, wish, 1.0, harness.config) is Guard.BUSY


def test_container_that_is_used_by_lanes_is_not_reclaimed_until_it_has_been_idle(harness: Harness) -> None:
    harness.deploy("bert", idle_timeout_s=10.0)
    handle = harness.service("bert", "bert")
    node = harness.node()
    container = harness.load(node, "bert", 1)

    def tick(now_s: float, **lanes: Any) -> list[int]:
        harness.beat(node, now_s, report(container, "bert", **lanes))
        return [c.container for c in closed(harness.on(happened.Ticked(), now_s))]

    assert tick(9.0, lane_usage=[usage(handle, 1, idle_s=1.0)]) == []
    assert tick(17.9, lane_usage=[usage(handle, 1, idle_s=9.9)]) == []
    assert tick(19.0, lane_calls=1, lane_usage=[usage(handle, 1, idle_s=11.0)]) == []
    assert tick(20.1, lane_usage=[usage(handle, 1, idle_s=12.0)]) == [container]


def test_what_is_remembered_of_the_departed_is_bounded_and_the_living_are_never_forgotten() -> None:
    harness = Harness()
    node, containers = served(harness, "bert")
    handle = harness.handles["bert"]
    harness.beat(node, 1.0, report(containers["bert"], "bert", lane_usage=[usage(handle, 5)]))
    for number in range(REMEMBERED_MAX + 50):
        harness.gone(b"n9:b9", 10**6 + number, lane_usage=[usage(999, 1)])
    lane_use: LaneUse = harness.board._nodes._lane_use
    assert len(lane_use._counted) == REMEMBERED_MAX + 1
    harness.beat(node, 1.0, report(containers["bert"], "bert", lane_usage=[usage(handle, 5)]))
    assert service_row(harness)["hits"] == 6


def test_report_of_a_register_counts_for_what_is_known_already(harness: Harness) -> None:
    node, containers = served(harness, "bert")
    reports = [report(containers["bert"], "bert", lanes=2, lane_usage=[usage(harness.handles["bert"], 5)])]
    meta = RegisterMeta("n1", "b1", 1, "host", Capacity(2, 2**30), reports, host_id=HOST_ID)
    harness.on(happened.KernelRegistered(node, meta), 1.0)
    assert service_row(harness)["hits"] == container_row(harness)["hits"] == 6
    assert container_row(harness)["lanes"] == 2


def test_routed_calls_go_on_being_counted_beside_those_of_lanes(harness: Harness) -> None:
    node, containers = served(harness, "bert")
    harness.beat(node, 1.0, report(containers["bert"], "bert", lane_usage=[usage(harness.handles["bert"], 5)]))
    harness.hit("bert", 7, now_s=2.0, caller=CALLER)
    harness.answer(node, 7)
    assert service_row(harness)["hits"] == 7
    event = ContainerEvent(containers["bert"], "gone", cause="crashed", lane_usage=[usage(harness.handles["bert"], 6)])
    harness.on(happened.ContainerReported(node, event), 3.0)
    assert service_row(harness)["hits"] == 8


def test_what_was_counted_of_a_container_that_went_with_its_node_is_written_it_may_come_back(harness: Harness) -> None:
    node, containers = served(harness, "bert")
    service = harness.board.registry.service("default", "bert")
    harness.beat(node, 1.0, report(containers["bert"], "bert", lane_usage=[usage(service.id, 5)]))
    harness.on(happened.KernelUnreachable(node), 2.0)
    assert harness.board._nodes._lane_use.counted_of(service) == {containers["bert"]: (5, 0, 0)}


def test_what_is_written_of_containers_that_have_gone_is_bounded(harness: Harness) -> None:
    node, containers = served(harness, "bert")
    service = harness.board.registry.service("default", "bert")
    harness.beat(node, 1.0, report(containers["bert"], "bert", lane_usage=[usage(service.id, 5)]))
    for number in range(100):
        harness.gone(b"n9:b9", 10**6 + number, lane_usage=[usage(service.id, 1)])
    written = harness.board._nodes._lane_use.counted_of(service)
    assert len(written) == GONE_WRITTEN_MAX + 1
    assert containers["bert"] in written
