"""Many calls of all kinds and sizes; the memory of everybody who takes part in them stays what it was.

`HUTEROX_SOAK_CALLS` says how many under `make soak`.
"""

import time
from collections.abc import Callable

import pytest
from tests.fault import census
from tests.fault.crew import Crew, Worker
from tests.fault.site import Site, container_of, deploy
from tests.rounds import rounds
from tests.system.platform import eventually

pytestmark = [pytest.mark.system, pytest.mark.alone, pytest.mark.timeout(300)]

QUARTERS = 4
GROWTH_KB_MAX = 6 * 1024
"""From the second quarter to the last, of each process: allocators breathe, leaks do not stop."""

PAGES_KB_MAX = 24 * 1024
"""The same of the lanes' pages: six large answers are held at a time, and which lie where is a matter of luck."""


class Curve:
    """Who had how much, at the end of each quarter."""

    def __init__(self, own: Site, caller: Worker, worker_pid: int) -> None:
        self._own = own
        self._pids = {"caller": caller.pid, "worker": worker_pid}
        self._pids |= {daemon: own.pid(daemon) for daemon in ("kernel", "connector")}
        self.samples: list[dict[str, int]] = []

    def sample(self) -> None:
        own_kb = {name: census.own_memory_kb(pid) for name, pid in self._pids.items()}
        descriptors = sum(census.descriptor_count(pid) for pid in self._pids.values())
        pages_kb = census.pages_nbytes([*self._own.processes()]) // 1024
        self.samples.append({**own_kb, "lanes": pages_kb, "descriptors": descriptors})

    def growth(self) -> dict[str, int]:
        return {name: self.samples[-1][name] - self.samples[1][name] for name in self.samples[1]}


@pytest.mark.parametrize("calls", rounds("HUTEROX_SOAK_CALLS", 20_000, 2_000_000))
def test_memory_does_not_grow_with_calls(own: Site, callers: Crew, tell: Callable[[str], None], calls: int) -> None:
    with own.client(lanes=False) as client:
        deploy(client, "soaked")
        caller = callers.caller("soaked")
        eventually(lambda: caller.ask("report")["by_lane"], 20.0)
        curve = Curve(own, caller, container_of(client, "soaked")["pid"])
        began_s = time.monotonic()
        for quarter in range(1, QUARTERS + 1):
            while caller.ask("report")["counts"].get("ok", 0) < calls * quarter // QUARTERS:
                time.sleep(0.05)
            caller.ask("pause")
            client.service("soaked").call("forget")
            curve.sample()
            caller.ask("go")
        took_s = time.monotonic() - began_s
        report = caller.stop()
    growth = curve.growth()
    tell(f"{report['counts']} calls in {took_s:.0f} s; memory in kB: {curve.samples}")
    assert set(report["counts"]) == {"ok"}
    assert report["by_lane"] > calls * 0.9
    assert growth.pop("descriptors") <= 0
    assert growth.pop("lanes") <= PAGES_KB_MAX
    assert {name: kb for name, kb in growth.items() if kb > GROWTH_KB_MAX} == {}
