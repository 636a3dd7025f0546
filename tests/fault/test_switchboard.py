"""The switchboard is killed: lanes do not notice, and everything else is there again when it is."""

import time
from collections.abc import Callable

import pytest
from tests.fault import census
from tests.fault.crew import Crew
from tests.fault.site import Site, container_of, deploy, reach
from tests.rounds import rounds
from tests.system.platform import eventually

pytestmark = [pytest.mark.system, pytest.mark.alone, pytest.mark.timeout(300)]

ABSENT_S = 1.5


@pytest.mark.parametrize("kills", rounds("HUTEROX_SWITCHBOARD_KILLS", 1, 50))
def test_lanes_go_on_while_the_switchboard_is_killed_over_and_over(
    own: Site, callers: Crew, tell: Callable[[str], None], kills: int
) -> None:
    with own.client(lanes=False) as client:
        deploy(client, "steady")
        crew = [callers.caller("steady") for _ in range(2)]
        for caller in crew:
            eventually(lambda caller=caller: caller.ask("report")["paths"] == ["lane"], 20.0)
        pid = container_of(client, "steady")["pid"]
        changes = [caller.ask("report")["path_changes"] for caller in crew]
        kernel = own.pid("kernel")
        before = census.descriptor_count(kernel)
        for _ in range(kills):
            own.kill("connector")
            without = [caller.ask("report")["by_lane"] for caller in crew]
            time.sleep(ABSENT_S)
            for caller, count in zip(crew, without, strict=True):
                eventually(lambda caller=caller, count=count: caller.ask("report")["by_lane"] > count + 50)
            own.start("connector")
            own.await_node()
            eventually(lambda: own.listed("ps"))
            (row,) = own.listed("ps")
            assert row["pid"] == pid
            eventually(lambda: own.listed("ps")[0]["lanes"] == len(crew))
            with own.client(timeout=20.0) as fresh:  # new lanes can be had of the next switchboard
                assert reach(fresh.service("steady")) == pid
            eventually(lambda: own.listed("ps")[0]["lanes"] == len(crew))
            eventually(lambda: census.descriptor_count(kernel) <= before)
        reports = [caller.stop() for caller in crew]
        for report, count in zip(reports, changes, strict=True):
            assert set(report["counts"]) == {"ok"}, report["counts"]
            assert report["path_changes"] == count
    tell(f"{kills} switchboards killed under {sum(report['counts']['ok'] for report in reports)} calls in lanes")
