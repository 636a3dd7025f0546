"""One run from a seed: a platform starts, lives through trouble, and comes to rest.

python -m tests.simulation.play 1234        replays a seed, everything checked after every step
"""

import sys
from unittest.mock import patch

from tests.simulation.quiet import check_at_rest
from tests.simulation.trouble import Trouble
from tests.simulation.world import World

from huterox_connector.core import listing

STEPS = 150
STEP_S = 0.02
TROUBLE_LASTS_S = 2.5
"""What has gone wrong is over then: kernels that were killed have started again."""
REST_S = 5.0
"""Longer than any call's budget and any load, and long enough for orders that were lost to be repeated."""


PAGE_NBYTES = 2000
"""Lists are short here, and shall have pages all the same."""


@patch.object(listing, "PAGE_NBYTES_MAX", PAGE_NBYTES)
def play(seed: int, *, steps: int = STEPS, thorough: bool = False) -> World:
    """Raises AssertionError where something does not hold."""
    world = World(seed, thorough=thorough)
    start(world, nodes=1 + seed % 4)
    trouble = Trouble(world)
    for _ in range(steps):
        trouble.disturb()
        world.check()
        world.run(world.random.expovariate(1 / STEP_S))
    come_to_rest(world)
    return world


def start(world: World, *, nodes: int, models: int = 5, services: int = 9) -> None:
    """Kernels register, models are deployed, services are made."""
    for number in range(nodes):
        world.kernels.start(f"node{number}")
    for number in range(models):
        world.operator.deploy(f"model{number}")
    for number in range(services):
        world.operator.create(f"service{number}", f"model{number % models}")
    world.run(0.7)


def come_to_rest(world: World) -> None:
    """Nothing goes wrong any more, and nobody calls: what is under way ends."""
    world.trouble = 0.0
    world.run(TROUBLE_LASTS_S)
    for kernel in world.kernels.living():
        kernel.reachable, kernel.sick, kernel.foreign_mb, kernel.foreign_device_mb = True, False, 0, {}
        if any(other.name == kernel.name and other is not kernel for other in world.kernels.living()):
            world.kernels.kill(kernel)
    world.run(REST_S)
    check_at_rest(world)


if __name__ == "__main__":
    for text in sys.argv[1:]:
        sys.stdout.write(f"{text}: {dict(play(int(text), thorough=True).seen)}\n")
