"""A model that never comes back has a node's only slot: whoever evicts it gets the slot for another."""

import time
from pathlib import Path

import pytest
from tests.fault.site import container_of, deploy, reach, site
from tests.system.platform import eventually

import huterox

pytestmark = [pytest.mark.system, pytest.mark.alone, pytest.mark.timeout(120)]

GRACE_S = 1.5
ROOM_S = 10.0
"""For a kernel that looks once in a while, a busy machine, and the other's load."""


def test_a_container_stuck_in_a_lane_call_is_evicted_within_its_grace(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with (
        site(tmp_path / "s", slots=1, drain_grace_s=GRACE_S) as own,
        own.client(timeout=60.0) as by_lane,
        own.client(timeout=60.0, lanes=False) as routed,
    ):
        deploy(routed, "stuck", "other")
        service = by_lane.service("stuck")
        pid = reach(service)
        stuck = service.submit("never_ends", mark=str(mark))
        eventually(mark.exists)
        row = container_of(routed, "stuck")
        routed.evict(row["id"])
        evicted_s = time.monotonic()
        waiting = routed.service("other").submit("pid")

        other = waiting.result(timeout=GRACE_S + ROOM_S)["result"]
        assert time.monotonic() - evicted_s < GRACE_S + ROOM_S
        assert other == container_of(routed, "other")["pid"] != pid
        with pytest.raises(huterox.WorkerLost) as caught:
            stuck.result(timeout=ROOM_S)
        assert caught.value.details["executed"] == "maybe"
        (ended,) = [event for event in routed.events() if event["kind"] == "crash"]
        assert (ended["subject"], ended["details"]["cause"]) == (f"stuck {row['id']}", "hung")
        assert ended["reason"].startswith("it was told to drain")
        assert pid not in own.processes()
