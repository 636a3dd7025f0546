"""A caller that writes random bytes over everything it can write; everybody else does not notice.

`HUTEROX_HOSTILE_LANES` says how many lanes it spoils under `make soak`.
"""

import time
from collections import Counter
from collections.abc import Callable

import pytest
from tests.fault import census
from tests.fault.crew import Crew
from tests.fault.site import Site, container_of, deploy, reach
from tests.rounds import SEED, rounds
from tests.system.platform import eventually

pytestmark = [pytest.mark.system, pytest.mark.alone, pytest.mark.timeout(300)]

BATCH = 50


@pytest.mark.parametrize("lanes", rounds("HUTEROX_HOSTILE_LANES", 200, 20_000))
def test_a_hostile_caller_closes_its_own_lanes_and_nothing_else(
    own: Site, callers: Crew, tell: Callable[[str], None], lanes: int
) -> None:
    with own.client(timeout=20.0, lanes=False) as client, own.client(timeout=20.0) as honest:
        deploy(client, "target", "neighbour")
        client.create("target", model="target", tenant="other")
        pids = {name: reach(honest.service(name)) for name in ("target", "neighbour")}
        daemons = {daemon: own.pid(daemon) for daemon in ("connector", "kernel")}
        before = segments(own)
        crew = [callers.caller("target"), callers.caller("target", tenant="other"), callers.caller("neighbour")]
        hostile = callers.add("tests.fault.hostile", "target", str(SEED))
        for caller in crew:
            eventually(lambda caller=caller: caller.ask("report")["by_lane"], 20.0)
        changes = [caller.ask("report")["path_changes"] for caller in crew]

        done: Counter[str] = Counter()
        ends: Counter[str] = Counter()
        for _ in range(0, lanes, BATCH):
            by_lane = [caller.ask("report")["by_lane"] for caller in crew]
            answer = hostile.ask(str(BATCH), 300.0)
            done.update(answer["done"])
            ends.update(answer["ends"])
            for caller, count in zip(crew, by_lane, strict=True):
                eventually(lambda caller=caller, count=count: caller.ask("report")["by_lane"] > count, 20.0)
        hostile.kill()

        reports = [caller.stop() for caller in crew]
        for report, count in zip(reports, changes, strict=True):
            assert set(report["counts"]) == {"ok"}, report["counts"]
            assert report["path_changes"] == count
        assert {name: container_of(client, name)["pid"] for name in pids} == pids
        assert {daemon: own.pid(daemon) for daemon in daemons if census.is_alive(own.pid(daemon))} == daemons
        happened = {event["kind"] for event in client.events()}
        assert "lane.broken" in happened
        assert not happened & {"crash", "gone", "evict", "load_failed"}
        for name in pids:
            client.service(name).call("forget")
        await_segments(own, before)
    assert sum(ends.values()) == lanes // BATCH * BATCH
    assert sum(count for end, count in ends.items() if end.startswith("closed")) > lanes // 4
    assert not [end for end in ends if end.startswith("no lane")], ends
    writes = sum(done.values())
    tell(f"seed {SEED}: {writes} attacks in {sum(ends.values())} lanes: {dict(done)}; lanes: {dict(ends)};")
    tell(f"honest calls meanwhile, all right: {[report['counts']['ok'] for report in reports]}")


def segments(own: Site) -> int:
    return len(census.segments(own.processes()))


def await_segments(own: Site, count: int) -> None:
    """Until there are so many segments; a failure says who holds which."""
    until_s = time.monotonic() + 20.0
    while segments(own) != count:
        held = {pid: sorted(census.segments([pid])) for pid in own.processes()}
        assert time.monotonic() < until_s, f"{count} segments were there before, now they are {held}"
        time.sleep(0.1)
