"""One daemon is stopped while the other one has more and more for it: what waits is bounded in bytes, and comes."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from tests.fault.site import deploy, outcome, site, stopped

pytestmark = [pytest.mark.system, pytest.mark.alone, pytest.mark.timeout(120)]

MIB = 2**20
SENT_AHEAD = 1024 * 64 * 1024
"""What a kernel gives to ZeroMQ: so many messages of so many bytes; larger ones stay in their lane."""
LANE_HALF_MB = 64
SLACK_NBYTES = 40 * MIB
IN_FLIGHT_NBYTES = 48 * MIB
WAITING_NBYTES = 16 * MIB


@pytest.mark.parametrize(("count", "nbytes"), [(6000, 60_000), (600, 1_000_000)])
def test_a_kernel_holds_little_for_a_switchboard_that_is_stopped(tmp_path: Path, count: int, nbytes: int) -> None:
    """A stream that nobody takes has its worker wait; it goes on where it was."""
    with (
        site(tmp_path / "s", lane_half_mb=LANE_HALF_MB) as own,
        own.client(timeout=100.0, lanes=False) as client,
        ThreadPoolExecutor() as threads,
    ):
        deploy(client, "steady")
        service = client.service("steady")
        worker = psutil.Process(service.call("pid")["result"])
        kernel = psutil.Process(own.pid("kernel"))
        before = kernel.memory_info().rss
        stream = service.stream("blocks", count=count, nbytes=nbytes)
        assert next(stream)["number"] == 0
        numbers = threads.submit(lambda: [part["number"] for part in stream])
        with stopped(own, "connector") as goes_on:
            rest(worker)
            held = kernel.memory_info().rss - before
            goes_on()
        assert numbers.result(timeout=90.0) == list(range(1, count))
        assert held < (SENT_AHEAD if nbytes <= 64 * 1024 else 0) + LANE_HALF_MB * MIB + SLACK_NBYTES
        assert service.call("pid")["result"] == worker.pid


@pytest.mark.parametrize("timeout_s", [60.0, 0.3], ids=["patient", "impatient"])
def test_a_switchboard_holds_little_for_a_kernel_that_is_stopped(tmp_path: Path, timeout_s: float) -> None:
    bounds = {"calls_nbytes_max": IN_FLIGHT_NBYTES, "waiting_nbytes_max": WAITING_NBYTES}
    with site(tmp_path / "s", core=bounds) as own, own.client(timeout=60.0, lanes=False) as client:
        deploy(client, "steady")
        service = client.service("steady")
        switchboard = psutil.Process(own.pid("connector"))
        x = np.zeros(MIB, np.uint8)
        service.call("predict", x=x)
        before = switchboard.memory_info().rss
        most = 0
        with stopped(own, "kernel") as goes_on:
            futures = []
            for _ in range(400):
                futures.append(service.submit("predict", x=x, timeout=timeout_s))
                time.sleep(0.005)
                most = max(most, switchboard.memory_info().rss - before)
            goes_on()
        counts = Counter(outcome(future) for future in futures)
        assert most < IN_FLIGHT_NBYTES + WAITING_NBYTES + SLACK_NBYTES
        assert set(counts) <= {"ok", "Busy", "WorkerLost", "DeadlineExceeded", "Unavailable"}, counts
        assert service.call("pid", timeout=20.0)["result"]


def rest(worker: psutil.Process) -> None:
    """Until it does nothing any more."""
    until_s = time.monotonic() + 60.0
    used = -1.0
    while used != (used := sum(worker.cpu_times()[:2])):
        assert time.monotonic() < until_s, "it works for nobody"
        time.sleep(0.5)
