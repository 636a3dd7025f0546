"""The bench of large platforms, on small ones."""

import json

from huterox_bench.scale.clocked import Clocked
from huterox_bench.scale.platform import Platform
from huterox_bench.scale.shape import Shape
from huterox_bench.scale.suite import Times, measure, table

SMALL = Shape(nodes=2, services=160, models=80, calls=400)

KINDS = {
    "hit",
    "answer",
    "fault: room is free",
    "fault: somebody leaves",
    "heartbeat",
    "tick",
    "report ready",
    "report gone",
    "report drained",
    "verb create",
    "verb services",
    "verb ps",
}


def test_every_kind_of_decision_is_met_and_measured() -> None:
    rows = measure(SMALL)
    assert {row.kind for row in rows} >= KINDS
    for row in rows:
        assert row.decisions > 0
        assert 0 < row.p50_us <= row.p99_us
        assert (row.nodes, row.services) == (2, 160)
        assert json.loads(json.dumps(row.as_json()))["kind"] == row.kind


def test_platform_is_filled_and_not_overfilled() -> None:
    platform = Platform(SMALL, Clocked())
    platform.build()
    for handle in list(platform.board.registry.services)[:60]:
        platform.call(handle)
        platform.run(0.2)
    for node in platform.board.registry.nodes.values():
        assert node.containers
        assert not node.limit.less(node.present).overdrawn


def test_table_sets_platforms_side_by_side_and_tells_how_times_grow() -> None:
    rows = [
        Times(1, 10, 5, "hit", 100, 2.0, 3.0, 4.0),
        Times(10, 100, 50, "hit", 100, 3.0, 6.0, 9.0),
        Times(10, 100, 50, "tick", 9, 8.0, 9.0, 9.0),
    ]
    head, hit, tick = table(rows).splitlines()
    assert "1 nodes, 10 services, 5 containers; 10 nodes, 100 services, 50 containers" in head
    assert hit.split() == ["hit", "2.0", "/", "3.0", "3.0", "/", "6.0", "x", "1.5", "/", "2.0"]
    assert tick.split() == ["tick", "-", "8.0", "/", "9.0"]
