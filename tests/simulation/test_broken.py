"""A tenant that deploys broken models again and again keeps nobody else out."""

import pytest
from tests.simulation.world import World

from huterox_connector.core.config import CoreConfig

RUN_S = 30.0
STEP_S = 0.25
PATIENCE_S = 6.0
BROKEN, HEALTHY = 8, 2


@pytest.mark.parametrize("seed", range(6))
def test_healthy_models_load_however_many_broken_ones_are_called_beside_them(seed: int) -> None:
    world = World(seed, trouble=0.0, config=CoreConfig(sick_after=2, sick_s=20.0))
    world.kernels.shares = [1.0]
    for number in range(1 + seed % 2):
        world.kernels.start(f"node{number}", slots=12, host_mb=1000, spare_mb=0, devices={})
    small = {"device": "cpu", "resources": {"host_mb": 50}, "idle_timeout_s": 0.5, "replicas_max": 1}
    names = [f"broken{number}" for number in range(BROKEN)] + [f"healthy{number}" for number in range(HEALTHY)]
    world.kernels.broken = set(names[:BROKEN])
    for name in names:
        world.operator.deploy(name, **small)
        tenant = "good" if name.startswith("healthy") else "bad"
        world.operator.create(name, name, tier="shared", tenant=tenant, lend=False, in_flight_max=0)
    world.run(1.0)
    services = {service.name: service for service in world.board.registry.services.values()}
    until_s, step = world.now_s + RUN_S, 0
    while world.now_s < until_s:
        for name in names[:BROKEN]:
            world.callers.call(services[name].id, budget_s=2.0)
        if step % 20 == 0:  # idle in between, and loaded anew
            for name in names[BROKEN:]:
                world.callers.call(services[name].id, budget_s=PATIENCE_S)
        if step % 40 == 20:  # what is deployed anew begins without a history
            world.operator.deploy(world.random.choice(names[:BROKEN]), **small)
        step += 1
        world.run(STEP_S)
    world.run(PATIENCE_S)
    for name in names[BROKEN:]:
        service = services[name]
        assert (service.errors, service.refused) == (0, 0), f"{service.title} was kept out"
        assert service.hits > 0
    assert world.seen["load_failed"] > 20
    assert not world.seen["node.sick"]
