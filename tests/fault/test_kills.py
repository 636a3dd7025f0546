"""Callers, containers and kernels are killed at random instants, over and over; then nothing is left of them.

`HUTEROX_KILL_ROUNDS` says how often under `make soak`.
"""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from tests.fault import census
from tests.fault.crew import Crew, Worker
from tests.fault.site import Site, container_of, deploy
from tests.rounds import SEED, rounds
from tests.system.platform import eventually

import huterox

pytestmark = [pytest.mark.system, pytest.mark.alone, pytest.mark.timeout(300)]

SERVICES = ("first", "second")
READER = "huterox-reader"
NOTICED_S = 1.0
RECOVERED_S = 40.0
SETTLED_S = 20.0
SHMEM_SLACK_KB = 48 * 1024  # others on this machine may use shared memory too
ENDINGS = {"ok", "WorkerLost", "Unavailable", "ResourceInterrupt", "Busy"}
"""How a call may end while processes are killed: by its answer, or an error that says so. Never by its deadline."""


class Standing(NamedTuple):
    """What is there while nobody calls."""

    processes: int
    descriptors: dict[str, int]
    segments: int


def standing(own: Site) -> Standing:
    pids = own.processes()
    descriptors = {daemon: census.descriptor_count(own.pid(daemon)) for daemon in ("connector", "kernel")}
    return Standing(len(pids), descriptors, len(census.segments(pids)))


def await_all(own: Site, what: Callable[[], Any]) -> Any:
    return eventually(what, RECOVERED_S)


def in_full_swing(workers: list[Worker]) -> None:
    """Wait until every caller has made calls through its lanes since now."""
    before = {worker.pid: worker.ask("report")["by_lane"] for worker in workers}
    for worker in workers:
        eventually(lambda worker=worker: worker.ask("report")["by_lane"] > before[worker.pid], RECOVERED_S)


class Killer:
    """One run: who was killed, and when."""

    def __init__(self, own: Site, callers: Crew, luck: random.Random) -> None:
        self._own = own
        self._callers = callers
        self._luck = luck
        self.killed: Counter[str] = Counter()
        self.kills_s: list[float] = []
        self.witness = callers.caller(*SERVICES)  # the one who is never killed
        self.victims = [callers.caller(*SERVICES) for _ in range(2)]

    def kill_one(self) -> None:
        what = self._luck.choices(["caller", "container", "kernel"], [4, 4, 2])[0]
        self.killed[what] += 1
        match what:
            case "caller":
                self.victims.pop(self._luck.randrange(len(self.victims))).kill()
                self.victims.append(self._callers.caller(*SERVICES))
            case "container":
                with self._own.client(lanes=False) as client:
                    pid = container_of(client, self._luck.choice(SERVICES))["pid"]
                self.kills_s.append(time.monotonic())
                os.kill(pid, signal.SIGKILL)
            case "kernel":
                self.kills_s.append(self._own.kill("kernel"))
                self._own.start("kernel")


@pytest.mark.parametrize("kills", rounds("HUTEROX_KILL_ROUNDS", 6, 200))
def test_nothing_is_left_of_what_was_killed_and_nobody_hangs(
    own: Site, callers: Crew, tell: Callable[[str], None], kills: int
) -> None:
    luck = random.Random(SEED)
    with own.client(lanes=False) as client:
        deploy(client, *SERVICES)
        first = callers.caller(*SERVICES)  # what everybody opens once is open from now on
        in_full_swing([first])
        first.stop()
        forget(client)
        before = eventually(lambda: settled(own))
        shmem_kb = census.shared_memory_kb()

        killer = Killer(own, callers, luck)
        in_full_swing([killer.witness, *killer.victims])
        at_start = killer.witness.ask("pause")
        killer.witness.ask("go")
        started_s = time.monotonic()
        for _ in range(kills):
            time.sleep(luck.uniform(0.0, 0.5))
            killer.kill_one()
            in_full_swing([killer.witness, *killer.victims])
        took_s = time.monotonic() - started_s

        at_end = killer.witness.ask("pause")
        last = [killer.witness.stop(), *(victim.stop() for victim in killer.victims)]
        forget(client)
        slowest_s = check_endings(last, killer.kills_s)
        after = last_of(lambda: standing(own), lambda now: now == before)
        after_kb = last_of(census.shared_memory_kb, lambda now: now <= shmem_kb + SHMEM_SLACK_KB)

    assert after == before
    assert after_kb <= shmem_kb + SHMEM_SLACK_KB
    assert len(at_end["segments"]) == len(at_start["segments"]) == len(SERVICES)
    assert at_end["descriptors"] == at_start["descriptors"]
    readers = at_end["threads"].count(READER)  # they come and go with what is to be read
    assert readers <= 1 + len(SERVICES)
    assert {*at_end["threads"], READER} == {*at_start["threads"], READER}
    assert len(at_end["threads"]) - readers == len(at_start["threads"]) - at_start["threads"].count(READER)
    endings = sum((Counter(report["counts"]) for report in last), Counter[str]())
    tell(
        f"{kills} kills in {took_s:.0f} s (seed {SEED}): {dict(killer.killed)}; calls of survivors: {dict(endings)};"
        f" the last to notice took {slowest_s * 1000:.0f} ms; before and after: {after.processes} processes,"
        f" descriptors {after.descriptors}, {after.segments} segments; caller: {at_start['descriptors']} descriptors,"
        f" {at_end['descriptors']} after; Shmem {shmem_kb} kB, {after_kb} kB after"
    )


def forget(client: huterox.Client) -> None:
    """Wait until no lane is left, and have the models let go of the inputs that they keep."""
    eventually(lambda: not any(row["lanes"] for row in client.containers()))
    for name in SERVICES:
        client.service(name).call("forget")


def settled(own: Site) -> Standing | None:
    """What is standing, if it stands still."""
    now = standing(own)
    time.sleep(0.3)
    return now if standing(own) == now else None


def last_of(look: Callable[[], Any], is_right: Callable[[Any], bool]) -> Any:
    """What is seen once it is right, or in the end."""
    until_s = time.monotonic() + SETTLED_S
    while not is_right(seen := look()) and time.monotonic() < until_s:
        time.sleep(0.1)
    return seen


def check_endings(reports: list[dict[str, Any]], kills_s: list[float]) -> float:
    """Every call has ended as it may; returns how long the last took to learn that its container was lost."""
    slowest_s = 0.0
    for report in reports:
        assert set(report["counts"]) <= ENDINGS, report["counts"]
        assert report["counts"]["ok"] > 0
        for begun_s, ended_s, outcome, path in report["records"]:
            if outcome != "WorkerLost":
                continue
            cause_s = max((killed_s for killed_s in kills_s if killed_s <= ended_s), default=0.0)
            noticed_s = ended_s - max(cause_s, begun_s)
            assert noticed_s < NOTICED_S, f"{path} call lost {noticed_s:.2f} s before its caller knew"
            slowest_s = max(slowest_s, noticed_s)
    return slowest_s
