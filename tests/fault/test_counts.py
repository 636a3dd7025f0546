"""What operators see of calls in lanes: each is counted, once, whatever becomes of lanes, containers and daemons."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fault.crew import Crew
from tests.fault.site import Site, container_of, deploy, reach, site
from tests.system.platform import eventually

import huterox

pytestmark = [pytest.mark.system, pytest.mark.alone, pytest.mark.timeout(300)]

X = np.zeros(256, np.float32)
EVICTIONS = 4
HEARTBEAT_S = 0.1
LATER_S = 5 * HEARTBEAT_S


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One site for the tests that leave it as it was."""
    with site(tmp_path_factory.mktemp("counts") / "s", heartbeat_s=HEARTBEAT_S) as made:
        yield made


@pytest.fixture
def client(shared: Site) -> Iterator[huterox.Client]:
    with shared.client(timeout=20.0) as made:
        yield made


class Tally:
    """A service that is called, and what must be counted of it."""

    def __init__(self, service: huterox.Service) -> None:
        self.service = service
        self.calls = self.errors = 0

    def reach(self) -> "Tally":
        """Until calls travel through a lane; these count too."""
        until_s = time.monotonic() + 15.0
        while self.service.path != "lane":
            self.count(1, self.service.call("pid"))
            assert time.monotonic() < until_s
            time.sleep(0.01)
        return self

    def count(self, calls: int, *answers: Any) -> None:
        assert all(answers)
        self.calls += calls

    def mixture(self) -> "Tally":
        """Blocking calls, futures, streams, errors."""
        for _ in range(40):
            self.count(1, self.service(x=X))
        futures = [self.service.submit(x=X) for _ in range(100)]
        self.count(100, *(future.result() for future in futures))
        self.count(1, len(list(self.service.stream("count", count=20))) == 20)
        for _ in range(7):
            with pytest.raises(huterox.ModelError):
                self.service.call("fail", x=0)
        with pytest.raises(huterox.NotFound):
            self.service.call("no_such_method")
        self.count(8)
        self.errors += 8
        return self

    def row(self, client: huterox.Client) -> dict[str, Any]:
        (row,) = [
            row for row in client.services() if (row["tenant"], row["name"]) == (self.service.tenant, self.service.name)
        ]
        return row

    def check(self, client: huterox.Client) -> dict[str, Any]:
        """Wait until all is counted; never more than that, also a few heartbeats later."""
        eventually(lambda: self.row(client)["hits"] >= self.calls)
        time.sleep(LATER_S)
        row = self.row(client)
        assert row["hits"] == row["usage"]["calls"] == self.calls
        assert row["usage"]["errors"] == self.errors
        return row


def test_calls_in_a_lane_are_counted_exactly_beside_routed_ones(shared: Site, client: huterox.Client) -> None:
    deploy(client, "beside")
    tally = Tally(client.service("beside")).reach().mixture()
    with shared.client(lanes=False) as other:
        routed = other.service("beside")
        for _ in range(25):
            tally.count(1, routed(x=X))
        assert routed.path == "routed"
    tally.check(client)
    row = container_of(client, "beside")
    assert (row["hits"], row["lanes"], row["in_flight"]) == (tally.calls, 1, 0)


def test_last_hit_and_busy_time_are_those_of_the_calls(client: huterox.Client) -> None:
    deploy(client, "busy")
    tally = Tally(client.service("busy")).reach()
    began_at = time.time()
    for _ in range(3):
        tally.count(1, tally.service.call("nap", seconds=0.2))
    ended_at = time.time()
    time.sleep(LATER_S)  # later heartbeats must not make the last hit younger
    row = tally.check(client)
    assert 0.6 <= row["usage"]["busy_s"] < ended_at - began_at + 0.5
    latest_at = (ended_at + time.time()) / 2  # how old a hit is takes a moment to be told
    for one in (row, container_of(client, "busy")):
        assert began_at + 0.4 < one["last_hit_at"] < latest_at


def test_a_call_that_runs_in_a_lane_is_in_flight(client: huterox.Client, tmp_path: Path) -> None:
    deploy(client, "flying")
    tally = Tally(client.service("flying")).reach()
    go = tmp_path / "go"
    future = tally.service.submit("held", mark=str(tmp_path / "mark"), go=str(go))
    eventually(lambda: container_of(client, "flying")["in_flight"] == 1)
    go.touch()
    tally.count(1, future.result())
    eventually(lambda: container_of(client, "flying")["in_flight"] == 0)
    tally.check(client)


def test_counts_stay_when_the_lanes_have_gone(shared: Site, client: huterox.Client) -> None:
    deploy(client, "closing")
    calls = errors = 0
    for _ in range(3):  # one lane after the other, in the same place of the container's ledger
        with shared.client(timeout=20.0) as one:
            tally = Tally(one.service("closing")).reach().mixture()
            calls, errors = calls + tally.calls, errors + tally.errors
        eventually(lambda: container_of(client, "closing")["lanes"] == 0)
    sum_of_all = Tally(client.service("closing"))
    sum_of_all.calls, sum_of_all.errors = calls, errors
    sum_of_all.check(client)
    assert container_of(client, "closing")["hits"] == calls


@pytest.mark.parametrize("end", ["evicted", "killed"])
def test_counts_stay_when_the_container_has_gone(shared: Site, client: huterox.Client, end: str) -> None:
    deploy(client, end)
    tally = Tally(client.service(end)).reach()
    for _ in range(2):
        tally.reach().mixture()
        row = container_of(client, end)
        if end == "evicted":  # at once: no heartbeat has told of the last calls
            client.evict(row["id"])
        else:
            os.kill(row["pid"], signal.SIGKILL)
        eventually(lambda: not [row for row in client.containers() if end in row["model"]])
        tally.check(client)


def test_services_of_two_tenants_in_one_container_are_counted_apart(shared: Site, client: huterox.Client) -> None:
    deploy(client, "both")
    client.create("both", model="both", tenant="other")
    with shared.client(timeout=20.0, tenant="other") as other:
        mine, theirs = Tally(client.service("both")).reach().mixture(), Tally(other.service("both")).reach()
        theirs.mixture().mixture()
        assert mine.check(client)["container"] == theirs.check(client)["container"]
        row = container_of(client, "both")
        assert (row["hits"], row["lanes"]) == (mine.calls + theirs.calls, 2)


def test_calls_of_many_callers_are_counted_exactly_while_containers_come_and_go(
    shared: Site, client: huterox.Client
) -> None:
    deploy(client, "crowded")
    crew = Crew(shared)
    try:
        ways = ["small", "window", "large", "empty", "keep", "plain", "stream"]
        callers = [crew.caller("crowded", ways=ways) for _ in range(3)]
        for _ in range(EVICTIONS):
            before = [caller.ask("report")["by_lane"] for caller in callers]
            for caller, count in zip(callers, before, strict=True):
                eventually(lambda caller=caller, count=count: caller.ask("report")["by_lane"] > count + 50, 30.0)
            client.evict(container_of(client, "crowded")["id"])
            eventually(lambda: [row for row in client.containers() if row["model"] == "crowded"])
        reports = [caller.stop() for caller in callers]
    finally:
        crew.close()
    assert [set(report["counts"]) for report in reports] == [{"ok"}] * 3
    tally = Tally(client.service("crowded"))
    tally.calls = sum(report["calls"]["crowded"] for report in reports) + len(callers)  # each has made one to warm up
    tally.check(client)


# --- the switchboard goes, and comes back -------------------------------------------------------------------------


def test_lanes_go_on_without_a_switchboard_and_the_next_one_knows_all_they_did(tmp_path: Path) -> None:
    with site(tmp_path / "s", heartbeat_s=HEARTBEAT_S) as own, own.client(timeout=20.0) as client:
        deploy(client, "steady")
        tally = Tally(client.service("steady")).reach()
        routed = tally.calls
        pid = container_of(client, "steady")["pid"]
        tally.mixture().check(client)
        own.kill("connector")
        tally.mixture()
        assert tally.service.path == "lane"
        own.start("connector")
        own.await_node()
        with own.client(timeout=20.0) as again:
            eventually(lambda: container_of(again, "steady")["pid"] == pid)
            tally.calls -= routed  # of these the next switchboard knows nothing
            tally.check(again)
            assert tally.service.path == "lane"
            tally.mixture().check(again)
            row = container_of(again, "steady")
            assert (row["lanes"], row["hits"]) == (1, tally.calls + routed)
            again.evict(row["id"])
            eventually(lambda: not again.containers())
            tally.check(again)


def test_a_lane_that_ends_while_there_is_no_switchboard_is_counted_by_the_next(tmp_path: Path) -> None:
    with site(tmp_path / "s", heartbeat_s=HEARTBEAT_S) as own:
        with own.client(timeout=20.0) as client:
            deploy(client, "parting")
            service = client.service("parting")
            reach(service)
            own.kill("connector")
            tally = Tally(service).mixture()
        own.start("connector")
        own.await_node()
        with own.client(timeout=20.0) as again:
            row = tally.check(again)
            assert row["last_hit_at"] < time.time()
            assert container_of(again, "parting")["lanes"] == 0
