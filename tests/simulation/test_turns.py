"""Models that cannot be resident together take turns, and none waits for ever."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.simulation.world import World

from huterox_connector.core.config import CoreConfig

RUN_S = 25.0
STEP_S = 0.1
TURN_S = 10.0
"""Longer than a claim takes to ripen, and everything resident to leave and load again."""


@dataclass
class Served:
    """When a service's calls were last forwarded, and how long it has waited for that at most."""

    hits: int = 0
    at_s: float = 0.0
    gaps_s: list[float] = field(default_factory=list)


def contend(seed: int, sizes_mb: list[int], **config: Any) -> tuple[World, list[Served]]:
    """All models are called all the time, as often as each other, on a node of 1000 MiB that does not hold them all."""
    world = World(seed, trouble=0.0, config=CoreConfig(**config))
    world.kernels.shares = [1.0]
    world.kernels.start("node", slots=8, host_mb=1000, spare_mb=0, base_mb=0, devices={})
    for number, host_mb in enumerate(sizes_mb):
        model = {"device": "cpu", "resources": {"host_mb": host_mb}, "idle_timeout_s": 600.0, "replicas_max": 1}
        world.operator.deploy(f"model{number}", **model)
        world.operator.create(f"service{number}", f"model{number}", tier="shared", tenant="default", in_flight_max=0)
        world.run(0.1)
    served = [Served(at_s=world.now_s) for _ in sizes_mb]
    until_s = world.now_s + RUN_S
    while world.now_s < until_s:
        for number, handle in enumerate(world.operator.handles):
            world.callers.call(handle, budget_s=9.0)
            note(served[number], world.board.registry.services[handle].hits, world.now_s)
        world.run(STEP_S)
    return world, served


def note(served: Served, hits: int, now_s: float) -> None:
    if hits > served.hits:
        served.gaps_s.append(now_s - served.at_s)
        served.hits, served.at_s = hits, now_s


@pytest.mark.parametrize("policy", ["lru", "lfu", "gdsf"])
def test_two_that_cannot_coexist_both_make_progress(policy: str) -> None:
    world, served = contend(1, [700, 700], policy=policy)
    for one in served:
        assert max([*one.gaps_s, world.now_s - one.at_s]) < TURN_S
    assert world.seen["load"] < RUN_S, "turns are longer than a second: nobody thrashes"


@pytest.mark.parametrize("seed", [1, 2])
def test_large_one_gets_its_turn_among_small_ones_that_keep_the_node_full(seed: int) -> None:
    world, served = contend(seed, [900, 240, 240, 240, 240], claim_after_s=2.0)
    for one in served:
        assert max([*one.gaps_s, world.now_s - one.at_s]) < 2 * TURN_S
    assert world.seen["claim"] > 0
