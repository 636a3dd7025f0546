"""A container that has lanes is evicted under load: nothing is lost, and everybody ends up in its successor."""

import os
import signal
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from tests.fault import census
from tests.fault.crew import Crew
from tests.fault.site import Site, container_of, deploy, reach
from tests.rounds import rounds
from tests.system.platform import eventually

pytestmark = [pytest.mark.system, pytest.mark.alone, pytest.mark.timeout(300)]

NAP_S = 0.8
HEARTBEAT_S = 0.5
SLACK_S = 10.0
"""For a busy machine: draining itself takes milliseconds, and who waited in vain would wait longer."""

X = np.zeros(256, np.float32)


@pytest.mark.parametrize("evictions", rounds("HUTEROX_EVICTIONS", 4, 400))
def test_no_call_is_lost_when_a_container_is_evicted_over_and_over(
    own: Site, callers: Crew, tell: Callable[[str], None], evictions: int
) -> None:
    with own.client(lanes=False) as client:
        deploy(client, "moving")
        crew = [callers.caller("moving") for _ in range(3)]
        pids = []
        for _ in range(evictions):
            before = [caller.ask("report")["by_lane"] for caller in crew]
            for caller, count in zip(crew, before, strict=True):
                eventually(lambda caller=caller, count=count: caller.ask("report")["by_lane"] > count + 20, 30.0)
            row = container_of(client, "moving")
            pids.append(row["pid"])
            client.evict(row["id"])
            eventually(lambda: not census.is_alive(pids[-1]))
        reports = [caller.stop() for caller in crew]
        assert len(set(pids)) == evictions
        assert [error for report in reports for error in report["errors"]] == []
        assert [set(report["counts"]) for report in reports] == [{"ok"}] * len(crew)
        drained = [event for event in client.events() if event["kind"] == "crash"]
        assert drained == []
    tell(f"{evictions} evictions under {sum(report['counts']['ok'] for report in reports)} calls, none lost")


def test_a_shootdown_lasts_as_long_as_the_longest_call_and_a_heartbeat(own: Site) -> None:
    with own.client(timeout=30.0) as client, own.client(timeout=30.0) as other:
        deploy(client, "leaving")
        pid = reach(client.service("leaving"))
        assert reach(other.service("leaving")) == pid
        mark = own.folder / "running"
        long = other.service("leaving").submit("nap", seconds=NAP_S, mark=str(mark))
        eventually(mark.exists)
        evicted_s = time.monotonic()
        client.evict(container_of(client, "leaving")["id"])
        service = client.service("leaving")
        quick = service(x=X)  # not behind the long one in the old container, if that has let its lanes drain
        quick_s = time.monotonic() - evicted_s
        eventually(lambda: not census.is_alive(pid))
        gone_s = time.monotonic() - evicted_s
        assert long.result()["result"] == pid
        assert np.array_equal(quick["result"], X + 1)
        assert gone_s < NAP_S + HEARTBEAT_S + SLACK_S
        assert quick_s < NAP_S + HEARTBEAT_S + SLACK_S
        assert reach(service) != pid


def test_calls_go_routed_while_a_container_drains_and_by_a_lane_when_its_successor_is_there(own: Site) -> None:
    with own.client(timeout=30.0) as client:
        deploy(client, "draining")
        service = client.service("draining")
        pid = reach(service)
        mark, go = own.folder / "running", own.folder / "go"
        long = service.submit("held", mark=str(mark), go=str(go))
        eventually(mark.exists)
        client.evict(container_of(client, "draining")["id"])
        eventually(lambda: service.path == "routed")
        assert not long.done()
        go.touch()
        assert long.result()["result"] == pid
        assert service.call("pid")["result"] != pid
        assert reach(service) != pid
        assert service.path == "lane"


def test_streams_and_futures_in_a_lane_survive_the_eviction_of_their_container(own: Site) -> None:
    with own.client(timeout=30.0) as client:
        deploy(client, "surviving")
        service = client.service("surviving")
        pid = reach(service)
        running = service.stream("count", count=400)
        first = next(running)
        futures = [service.submit(x=X) for _ in range(100)]
        kept = service(x=np.zeros(1 << 20, np.float32))["result"]
        inputs = service.empty((1 << 18,), "float32")
        inputs[...] = 5
        threading.Timer(0.01, client.evict, [container_of(client, "surviving")["id"]]).start()
        numbers = [first["number"], *(part["number"] for part in running)]
        assert numbers == list(range(400))
        assert all(np.array_equal(future.result()["result"], X + 1) for future in futures)
        eventually(lambda: not census.is_alive(pid))
        assert (kept == 1).all()  # what was in the lane stays readable for as long as somebody looks at it
        assert np.array_equal(service(x=inputs)["result"], np.full(1 << 18, 6, np.float32))


def test_a_stream_that_nobody_reads_for_now_is_whole_when_its_container_has_gone(own: Site) -> None:
    with own.client(timeout=30.0) as client:
        deploy(client, "quiet")
        service = client.service("quiet")
        pid = reach(service)
        stream = service.stream("count", count=5000)  # more than its ring holds
        first = next(stream)
        client.evict(container_of(client, "quiet")["id"])
        eventually(lambda: not census.is_alive(pid), 20.0)
        assert [first["number"], *(part["number"] for part in stream)] == list(range(5000))


def test_a_caller_that_stands_still_holds_no_container_up(own: Site, callers: Crew) -> None:
    with own.client(lanes=False) as client:
        deploy(client, "waiting")
        stopped = callers.caller("waiting", ways=["window", "stream"])
        eventually(lambda: stopped.ask("report")["by_lane"] > 50, 20.0)
        row = container_of(client, "waiting")
        os.kill(stopped.pid, signal.SIGSTOP)
        try:
            client.evict(row["id"])
            eventually(lambda: not census.is_alive(row["pid"]), 20.0)
        finally:
            os.kill(stopped.pid, signal.SIGCONT)
        by_lane = stopped.ask("report")["by_lane"]
        eventually(lambda: stopped.ask("report")["by_lane"] > by_lane + 50, 20.0)
        assert set(stopped.stop()["counts"]) <= {"ok", "WorkerLost"}
