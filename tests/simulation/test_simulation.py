"""The real core in a simulated platform, from many seeds. `HUTEROX_SIM_SEEDS=5000` for a longer run."""

import os

import pytest
from tests.simulation.world import World

SEEDS = int(os.environ.get("HUTEROX_SIM_SEEDS", "150"))


def play(seed: int, steps: int = 300) -> World:
    world = World(seed, nodes=1 + seed % 3)
    world.run(2.0)
    for _ in range(steps):
        world.disturb()
        world.check()
        world.run(world.random.expovariate(1 / 0.02))
    world.run(25.0)  # every budget is shorter, and orders that were lost are repeated
    return world


@pytest.mark.parametrize("first", range(0, SEEDS, 10))
def test_every_invariant_holds_whatever_happens(first: int) -> None:
    for seed in range(first, min(first + 10, SEEDS)):
        try:
            world = play(seed)
            assert not [call for call in world.calls.values() if not call.ends]
            assert len(world.board.calls) == 0
            world.check_settled()
        except AssertionError as exc:
            raise AssertionError(f"seed {seed}: {exc}") from exc


def test_simulation_meets_what_it_should_meet() -> None:
    """Otherwise the invariants would be checked on nothing."""
    total = sum((play(seed).seen for seed in range(12)), start=play(0).seen)
    for kind in ("load", "ready", "evict", "crash", "load_failed", "node.lost", "forwarded", "refused", "returned"):
        assert total[kind] > 0, f"no {kind} in {total}"
    for kind in ("restart", "adopted", "lane", "lane.call", "lane.broken", "lane.refused", "lease.late"):
        assert total[kind] > 0, f"no {kind} in {total}"
    for code in ("Unavailable", "NotFound", "DeadlineExceeded"):
        assert total[f"lease.{code}"] > 0, f"no LEASE ended as {code} in {total}"
    for code in ("Busy", "DeadlineExceeded", "ModelError", "ResourceInterrupt", "WorkerLost"):
        assert total[code] > 0, f"no {code} in {total}"


def test_same_seed_replays_the_same_run() -> None:
    assert play(7).seen == play(7).seen
