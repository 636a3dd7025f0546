"""The resource interrupt: what is told to those for whom there is no room."""

from typing import Any

import pytest
from msgspec import msgpack
from tests.connector.harness import Harness, created, events_of, refused, report

from huterox_connector.core import effects as asked
from huterox_connector.core.interrupts import HOLDERS_TOLD_MAX, NODES_TOLD_MAX
from huterox_connector.core.vectors import MIB
from huterox_wire.errors import HuteroxError
from huterox_wire.limits import META_NBYTES_MAX
from huterox_wire.nodes import DeviceFree


def interrupted(effects: list[asked.Effect]) -> HuteroxError:
    (refusal,) = refused(effects)
    assert refusal.error.code == "ResourceInterrupt"
    return refusal.error


def held_by(error: HuteroxError, node: int = 0) -> dict[str, str]:
    return {held["model"]: held["stays_because"] for held in error.details["nodes"][node]["held_by"]}


def test_five_yolos_run_and_a_6b_model_arrives() -> None:
    """All five are in use on a device of 24 GB; 12 GB more cannot come within the patience of the call."""
    harness = Harness(room_patience_s=5.0, turn_after_s=10.0)
    node = harness.node(slots=16, host_mb=64_000, gpu_mb={"GPU-0": 24_000})
    for number in range(5):
        harness.deploy(f"yolo{number}", host_mb=2000, gpu_mb=3000, device="cuda")
        harness.service(f"yolo{number}", f"yolo{number}", tier="pinned" if number == 0 else "shared")
        harness.load(node, f"yolo{number}", number + 1, now_s=float(number))
        harness.hit(f"yolo{number}", 10 + number, now_s=9.0)
    harness.deploy("chat-6b", host_mb=4000, gpu_mb=12_000, device="cuda")
    harness.service("chat-6b", "chat-6b")
    effects = harness.call("chat-6b", 99, now_s=10.0, budget_s=60.0)

    error = interrupted(effects)
    facts: dict[str, Any] = error.details
    assert error.retryable
    assert error.message == (
        "no room for model 'chat-6b': it needs 1 slot, 4000 MiB and 12000 MiB on one device; "
        "what is resident may not leave"
    )
    assert facts["needed"] == {"slots": 1, "host_mb": 4000, "device": "", "device_mb": 12_000}
    (told,) = facts["nodes"]
    assert told["capacity"]["devices_mb"] == {"GPU-0": 24_000}
    assert told["free"] == {"slots": 11, "host_mb": 54_000, "devices_mb": {"GPU-0": 9000}}
    assert held_by(error) == {"yolo0": "pinned", **{f"yolo{n}": "1 calls in flight" for n in range(1, 5)}}
    assert all(held["device_mb"] == 3000 for held in told["held_by"])
    assert facts["retry_after_s"] == 10.0  # then its turn would be due
    assert facts["would_help"][0] == "coming back later"
    assert "unpinning yolo0" in facts["would_help"]
    (refusal,) = events_of(effects, "refused")
    assert refusal.details["needed"] == facts["needed"]
    assert created(effects) == []
    assert len(harness.board.registry.containers) == 5  # nobody left in vain
    assert harness.ask("services")[-1]["usage"]["refused"] == 1

    # What would help does help: it says so, and it is so.
    for number in range(5):
        harness.answer(node, 10 + number)
    harness.drains_at_once = False
    effects = harness.call("chat-6b", 100, now_s=20.0)
    assert len(events_of(effects, "evict")) == 1  # 9 GB are free: one of 3 GB is enough
    assert refused(effects) == []


def test_model_that_no_node_could_ever_hold_is_refused_for_good(harness: Harness) -> None:
    harness.node(host_mb=1000)
    harness.deploy("huge", host_mb=5000)
    harness.service("huge", "huge")
    error = interrupted(harness.call("huge", 1))
    assert not error.retryable
    assert error.message.endswith("no node is that large")
    assert error.details["would_help"] == ["a node that can give 1 slot and 5000 MiB"]
    assert error.details["retry_after_s"] is None


def test_model_for_a_device_is_told_that_there_is_none(harness: Harness) -> None:
    harness.node(host_mb=1000)
    harness.deploy("m", host_mb=100, gpu_mb=100, device="cuda")
    harness.service("m", "m")
    error = interrupted(harness.call("m", 1))
    assert not error.retryable
    assert error.message.endswith("no node has a device")
    assert error.details["would_help"][0].endswith("and has a device")


@pytest.mark.parametrize(
    ("tier", "help_text"),
    [("pinned", "unpinning a"), ("dedicated", "giving up the containers of their own of a")],
)
def test_what_never_leaves_is_said_to_and_no_time_to_come_back(harness: Harness, tier: str, help_text: str) -> None:
    node = harness.node(slots=1)
    harness.service("a", tier=tier)
    harness.load(node, "a", 1)
    harness.service("b")
    error = interrupted(harness.call("b", 2, now_s=1e5))
    assert help_text in error.details["would_help"]
    assert "coming back later" not in error.details["would_help"]
    assert error.details["retry_after_s"] is None
    assert error.retryable  # an operator may help


def test_drained_and_silent_nodes_say_why_they_take_nothing() -> None:
    harness = Harness(node_suspect_s=2.0, node_timeout_s=100.0, room_patience_s=4.0)
    harness.node("drained")
    harness.node("silent")
    harness.ask("drain", name="drained")
    harness.service("a")
    assert refused(harness.call("a", 1, now_s=3.0)) == []  # both may open again
    harness.pass_time(0.0, 6.9)
    error = interrupted(harness.tick(7.1))
    closed = {node["node"]: node["closed_because"] for node in error.details["nodes"]}
    assert closed == {"drained": "drained by an operator", "silent": "silent for 7.1 s"}
    assert error.message.endswith("no node takes loads now")
    assert "opening drained, silent again" in error.details["would_help"]


def test_what_others_have_taken_of_the_node_is_part_of_the_truth(harness: Harness) -> None:
    node = harness.node(slots=4, host_mb=1000, gpu_mb={"gpu0": 1000})
    harness.beat(node, 1.0, host_bytes_free=100 * MIB, devices=[DeviceFree("gpu0", 300 * MIB)])
    harness.deploy("a", host_mb=500)
    harness.service("a", "a")
    error = interrupted(harness.call("a", 1, now_s=1.0))
    assert error.message.endswith("other programs have taken too much of the memory")
    assert error.details["would_help"][0] == "ending other programs on n1, which have taken memory"
    (told,) = error.details["nodes"]
    assert told["taken_by_others"] == {"slots": 0, "host_mb": 900, "devices_mb": {"gpu0": 700}}
    assert told["free"]["host_mb"] == 100


def test_interrupt_of_a_large_platform_stays_small() -> None:
    harness = Harness(room_patience_s=0.0, residency_min_s=100.0)
    for number in range(20):
        names = [f"small{number}-{n}" for n in range(50)]
        for name in names:
            harness.service(name)
        reports = [report(1000 * number + n + 1, name) for n, name in enumerate(names)]
        harness.node(f"n{number}", slots=200, host_mb=10_000, containers=reports)
    harness.deploy("big", host_mb=9000)
    harness.service("big", "big")
    error = interrupted(harness.call("big", 1, now_s=1.0))
    assert len(error.details["nodes"]) == NODES_TOLD_MAX
    for node in error.details["nodes"]:
        assert (len(node["held_by"]), node["held_by_others"]) == (HOLDERS_TOLD_MAX, 50 - HOLDERS_TOLD_MAX)
    assert len(msgpack.encode(error.details)) < META_NBYTES_MAX // 8
