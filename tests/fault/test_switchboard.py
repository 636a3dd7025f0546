"""The switchboard is killed: lanes do not notice, and everything else is there again when it is."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.fault import census
from tests.fault.crew import Crew
from tests.fault.site import Site, container_of, deploy, reach
from tests.rounds import rounds
from tests.system.platform import eventually

import huterox

pytestmark = [pytest.mark.system, pytest.mark.alone, pytest.mark.timeout(300)]

ABSENT_S = 1.5
NOTICED_S = 1.0
"""As promised."""


def test_calls_that_went_with_the_switchboard_end_soon_after_the_next_one_is_there(own: Site, tmp_path: Path) -> None:
    """Their callers would have waited for a minute. What was sent meanwhile is answered."""
    go, marks = tmp_path / "go", [tmp_path / f"mark{number}" for number in range(3)]

    async def call() -> str:
        async with huterox.aconnect(own.endpoint, timeout=60.0, lanes=False) as other:
            service = await other.service("steady")
            try:
                await service.call("held", mark=str(marks[0]), go=str(go))
            except huterox.HuteroxError as exc:
                return exc.code
            return "none"

    with own.client(timeout=60.0, lanes=False) as client, ThreadPoolExecutor() as threads:
        deploy(client, "steady")
        service = client.service("steady")
        lost = [service.submit("held", mark=str(mark), go=str(go)) for mark in marks]
        eventually(marks[0].exists)
        waiting = threads.submit(service.call, "held", mark=str(marks[0]), go=str(go))
        elsewhere = threads.submit(lambda: asyncio.run(call()))
        eventually(lambda: client.admin("status")["calls_in_flight"] == len([*lost, waiting, elsewhere]))
        own.kill("connector")
        later = service.submit("pid")  # it waits in the socket for the next switchboard
        own.start("connector")
        own.await_node()
        since_s = time.monotonic()
        for future in [*lost, waiting]:
            with pytest.raises(huterox.Unavailable, match="the connection to the switchboard was lost") as caught:
                future.result(timeout=20.0)
            assert caught.value.details["executed"] == "maybe"
        assert elsewhere.result(timeout=20.0) == "Unavailable"
        assert time.monotonic() - since_s < NOTICED_S
        go.touch()
        assert later.result(timeout=20.0)["result"] == container_of(client, "steady")["pid"]


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
