"""Callers that share a container: each gets its part, none sees another's bytes."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fault import census
from tests.fault.crew import Crew
from tests.fault.site import Site, container_of, deploy
from tests.system.platform import eventually

pytestmark = [pytest.mark.system, pytest.mark.alone, pytest.mark.timeout(300)]

CALLERS = 4
CALLS_MIN = 8000
"""Of all together; they are counted by hundreds."""


def test_four_callers_of_one_container_get_no_less_than_half_their_share(
    own: Site, callers: Crew, tell: Callable[[str], None]
) -> None:
    with own.client(lanes=False) as client:
        deploy(client, "shared")
        crew = [callers.caller("shared", ways=["steady"]) for _ in range(CALLERS)]
        for caller in crew:
            eventually(lambda caller=caller: caller.ask("report")["by_lane"] > 100, 20.0)
        before = [caller.ask("report")["by_lane"] for caller in crew]
        counts = before
        while sum(counts) - sum(before) < CALLS_MIN:
            time.sleep(0.05)
            counts = [caller.ask("report")["by_lane"] for caller in crew]
        shares = [
            (now - then) * CALLERS / (sum(counts) - sum(before)) for now, then in zip(counts, before, strict=True)
        ]
        reports = [caller.stop() for caller in crew]
    tell(f"shares of {sum(counts) - sum(before)} calls: {[round(share, 2) for share in shares]}")
    assert [set(report["counts"]) for report in reports] == [{"ok"}] * CALLERS
    assert min(shares) > 0.5


def test_each_caller_has_a_segment_of_its_own_and_no_way_to_anothers(own: Site, callers: Crew) -> None:
    with own.client(lanes=False) as client:
        deploy(client, "common")
        client.create("common", model="common", tenant="other")
        crew = [callers.caller("common"), callers.caller("common", tenant="other"), callers.caller("common")]
        for caller in crew:
            eventually(lambda caller=caller: caller.ask("report")["paths"] == ["lane"], 20.0)
        row = container_of(client, "common")
        assert row["services"] == ["default/common", "other/common"]
        held = [set(census.segments([caller.pid])) for caller in crew]
        assert [len(one) for one in held] == [1] * len(crew)
        assert len(set().union(*held)) == len(crew)
        worker = census.segments([row["pid"]])
        assert set().union(*held) < worker  # and the kernel's lane and the ledger, which no caller has
        kernel = census.segments([own.pid("kernel")])
        assert len(worker - set().union(*held)) == 2
        assert worker - set().union(*held) <= kernel
        assert census.segments([own.pid("connector")]) == set()


def test_a_caller_that_ends_takes_its_segment_along_and_no_other(own: Site, callers: Crew) -> None:
    with own.client(lanes=False) as client:
        deploy(client, "parting")
        stays, goes = callers.caller("parting", ways=["small"]), callers.caller("parting", ways=["small"])
        for caller in (stays, goes):
            eventually(lambda caller=caller: caller.ask("report")["paths"] == ["lane"], 20.0)
        worker, kernel = container_of(client, "parting")["pid"], own.pid("kernel")
        (its,), (others,) = census.segments([goes.pid]), census.segments([stays.pid])
        assert {its, others} <= census.segments([worker])
        killed_s = goes.kill()
        eventually(lambda: its not in census.segments([worker, kernel]))
        assert time.monotonic() - killed_s < 2.0
        assert others in census.segments([worker])
        by_lane = stays.ask("report")["by_lane"]
        eventually(lambda: stays.ask("report")["by_lane"] > by_lane)


# --- many ---------------------------------------------------------------------------------------------------------

LANES = 200
IDLE_KB_MAX = 1024


def test_two_hundred_lanes_of_one_kernel_work_and_cost_little(
    own: Site, callers: Crew, tell: Callable[[str], None]
) -> None:
    names = [f"s{number}" for number in range(LANES)]
    with own.client(lanes=False, timeout=60.0) as client:
        deploy(client, "many")
        for name in names:
            client.create(name, model="many")
        pid = int(client.service("many").call("pid")["result"])
        holder = callers.add("tests.fault.holder", json.dumps(names))
        holders = {"holder": holder.pid, "worker": pid, "kernel": own.pid("kernel")}
        holder.ask("routed")
        before = {name: census.own_memory_kb(one) for name, one in holders.items()}
        pages = census.pages_nbytes(holders.values())
        answer = holder.ask("take", 120.0)
        assert answer == {"lanes": LANES, "right": LANES}
        own_kb = {name: census.own_memory_kb(one) - before[name] for name, one in holders.items()}
        pages_kb = (census.pages_nbytes(holders.values()) - pages) // 1024
        eventually(lambda: container_of(client, "many")["lanes"] == LANES)
        eventually(lambda: container_of(client, "many")["hits"] >= LANES)
        tell(f"{LANES} lanes: {pages_kb / LANES:.0f} kB of shared pages each, of its own {own_kb}")
        assert sum(own_kb.values()) / LANES < IDLE_KB_MAX
        assert pages_kb / LANES < IDLE_KB_MAX
        assert busy_s(holders, 2.0) < 0.5  # idle lanes are waited for, not looked after
        assert holder.ask("call", 60.0) == {"lanes": LANES, "right": LANES}
        holder.kill()
        eventually(lambda: container_of(client, "many")["lanes"] == 0, 20.0)
        eventually(lambda: len(census.segments([pid, own.pid("kernel")])) == 2, 20.0)


def busy_s(pids: dict[str, int], while_s: float) -> float:
    """The processor's time that these processes take while nothing is asked of them."""

    def ticks() -> int:
        fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids.values()]
        return sum(int(field[11]) + int(field[12]) for field in fields)

    began = ticks()
    time.sleep(while_s)
    return (ticks() - began) / os.sysconf("SC_CLK_TCK")
