"""What containers share is charged to their node, once."""

from typing import Any

import pytest
from tests.connector.harness import Harness, created, refused

from huterox_connector.core.vectors import MIB


@pytest.fixture
def harness() -> Harness:
    made = Harness()
    made.deploy("m", host_mb=400)
    return made


def row_of(harness: Harness) -> dict[str, Any]:
    (row,) = harness.ask("nodes")
    return dict(row)


def test_the_base_is_counted_once_whatever_containers_come_and_go(harness: Harness) -> None:
    node = harness.node(slots=4, host_mb=1000, base_bytes=100 * MIB)
    row = row_of(harness)
    assert (row["host_mb"], row["host_mb_used"], row["host_mb_base"], row["host_mb_limit"]) == (1000, 100, 100, 1000)
    for number, name in enumerate(("a", "b")):
        harness.service(name, "m", tier="dedicated")
        harness.load(node, name, number + 1, host_bytes=300 * MIB)
    assert row_of(harness)["host_mb_used"] == 700
    harness.gone(node, next(iter(harness.board.registry.containers)))
    assert row_of(harness)["host_mb_used"] == 400


def test_no_container_is_loaded_into_the_base(harness: Harness) -> None:
    node = harness.node(slots=4, host_mb=900, base_bytes=100 * MIB)
    for number, name in enumerate(("a", "b")):
        harness.service(name, "m", tier="dedicated")
        harness.load(node, name, number + 1)
    harness.beat(node, 1.0, base_bytes=101 * MIB)
    harness.service("c", "m", tier="dedicated")
    assert created(harness.call("c", 3, now_s=1.0)) == []


def test_a_base_that_shrinks_gives_room_to_who_waits(harness: Harness) -> None:
    node = harness.node(slots=4, host_mb=450, base_bytes=100 * MIB)
    harness.service("first", "m")
    harness.deploy("small", host_mb=300)
    harness.service("second", "small", tier="dedicated")
    harness.load(node, "second", 1)
    assert created(harness.call("first", 2, now_s=1.0)) == []
    harness.beat(node, 1.2, base_bytes=20 * MIB)
    assert row_of(harness)["host_mb_used"] == 320


def test_a_model_that_does_not_fit_beside_the_base_is_told_so(harness: Harness) -> None:
    harness.node(slots=4, host_mb=450, base_bytes=100 * MIB)
    harness.service("a", "m")
    (refusal,) = refused(harness.call("a", 1))
    assert "no node is that large beside what all its containers share, 100 MiB" in refusal.error.message
    assert refusal.error.details["nodes"][0]["base_mb"] == 100
    assert refusal.error.details["nodes"][0]["capacity"] == {"slots": 4, "host_mb": 450}
    assert "taken_by_others" not in refusal.error.details["nodes"][0]


def test_the_base_is_not_what_others_have_taken(harness: Harness) -> None:
    """Memory that is free, and what containers hold, is theirs: the base is held beside it."""
    node = harness.node(slots=4, host_mb=1000, base_bytes=100 * MIB)
    harness.beat(node, 1.0, base_bytes=100 * MIB, host_bytes_free=900 * MIB)
    assert row_of(harness)["host_mb_limit"] == 1000
    harness.beat(node, 2.0, base_bytes=100 * MIB, host_bytes_free=600 * MIB)
    assert row_of(harness)["host_mb_limit"] == 700
