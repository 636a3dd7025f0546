"""Kernel and switchboard do not hear each other for a while: either is stopped, or the network rests.

Soon after that the node is there again, registered once, with its containers; lanes have not noticed, and calls have
ended, each by its answer or by an error.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tests.fault.relay import Relay, free_port, relay
from tests.fault.site import Site, container_of, deploy, outcome, reach, site, stopped
from tests.system.platform import eventually

pytestmark = [pytest.mark.system, pytest.mark.alone, pytest.mark.timeout(300)]

BACK_S = 2.0
"""How long after the link is there again the node may be missing; the listing itself takes some of it."""
LISTING_S = 1.5

USUAL = [("ipc", "kernel", 4.0), ("ipc", "connector", 4.0), ("tcp", "network", 4.5)]
WAYS = {"ipc": ["kernel", "connector"], "tcp": ["kernel", "connector", "network"]}
LONG = [
    (transport, what, pause_s)
    for transport, whats in WAYS.items()
    for what in whats
    for pause_s in (1.0, 4.0, 13.0, 60.0)
    if (transport, what, pause_s) not in USUAL
]


@pytest.mark.parametrize(
    ("transport", "what", "pause_s"), [*USUAL, *(pytest.param(*case, marks=pytest.mark.soak) for case in LONG)]
)
def test_node_is_back_soon_after_a_pause(
    transport: str, what: str, pause_s: float, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    with (
        linked(tmp_path / "s", transport) as (own, link),
        own.client(timeout=pause_s + 30.0) as by_lane,
        own.client(timeout=pause_s + 30.0, lanes=False) as routed,
    ):
        deploy(routed, "steady")
        lane = by_lane.service("steady")
        reach(lane)
        service = routed.service("steady")
        row = container_of(routed, "steady")
        with resting(own, link, what) as goes_on:
            time.sleep(0.3)  # what was under way has come to rest
            pending = [service.submit("pid") for _ in range(5)]
            until_s = time.monotonic() + pause_s
            while True:  # whoever is stopped, no lane needs it
                assert lane.call("pid", timeout=5.0)["result"] == row["pid"]
                assert lane.path == "lane"
                if time.monotonic() >= until_s:
                    break
                time.sleep(0.1)
            goes_on()
            back_s = time.monotonic()
            eventually(lambda: [node["state"] for node in own.listed("nodes")] == ["ready"], 10.0)
            took_s = time.monotonic() - back_s
        assert took_s < BACK_S + LISTING_S
        counts = Counter(outcome(future) for future in pending)
        assert set(counts) <= {"ok", "WorkerLost"}, counts
        assert routed.service("steady").call("pid", timeout=20.0)["result"]
        assert lane.call("pid", timeout=20.0)["result"]
        kinds = Counter(event["kind"] for event in routed.events())
        assert kinds["node.registered"] <= 2 + (what == "network" and pause_s > 3.0), kinds
        (left,) = own.listed("ps")
        tell(f"{transport}, {what} for {pause_s:g} s: back after {took_s:.2f} s, calls {dict(counts)}, {dict(kinds)}")
        if not kinds["node.lost"]:
            assert left["pid"] == row["pid"]


@contextmanager
def linked(folder: Path, transport: str) -> Iterator[tuple[Site, Relay | None]]:
    """A site; over TCP the kernel reaches its switchboard through a relay."""
    with ExitStack() as stack:
        if transport == "ipc":
            yield stack.enter_context(site(folder)), None
            return
        back = free_port()
        between = stack.enter_context(relay(back))
        ports = {"back": f"tcp://127.0.0.1:{back}", "switchboard": f"tcp://127.0.0.1:{between.port}"}
        yield stack.enter_context(site(folder, **ports)), between


@contextmanager
def resting(own: Site, link: Relay | None, what: str) -> Iterator[Callable[[], None]]:
    """Stop a daemon or the network; what is given ends that, which the end of the block does in any case."""
    if what == "network":
        assert link is not None
        link.rest()
        try:
            yield link.flow
        finally:
            link.flow()
        return
    with stopped(own, what) as goes_on:
        yield goes_on
