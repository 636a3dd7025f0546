"""Platforms of 40 to 200 nodes: what a refusal says is true of all nodes, and who is large enough is found.

Worked out anew from what the nodes were drawn as, and not by asking the core.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import pytest
from tests.connector.harness import CALLER, Harness, created, refused

from huterox_connector.core import effects as asked
from huterox_connector.core import events as happened
from huterox_wire.errors import ResourceInterrupt

SEEDS = range(22)
SEEDS_OF_MANY_CALLS = (0, 1, 2, 3, 26, 33)
LOOKS = 12
"""As many as show every node of 200 once."""


@dataclass
class Drawn:
    """One node. `held`: it is full of a container that may never leave, or of one that may."""

    host_mb: int
    gpu_mb: int
    held: str

    def is_large_enough(self, device: str, host_mb: int, gpu_mb: int) -> bool:
        on_device = device != "cpu" and self.gpu_mb >= max(gpu_mb, 1)
        return self.host_mb >= host_mb and (on_device or device != "cuda")


class Many:
    """A platform drawn from a seed, whose nodes are all full."""

    def __init__(self, seed: int) -> None:
        self.random = random = Random(seed)
        self.harness = Harness(look_again_s=0.0, room_patience_s=5.0, node_timeout_s=1e9, claim_after_s=1e9)
        self.harness.deploy("fixed", host_mb=1)
        self.harness.deploy("free", host_mb=1)
        self.nodes: dict[str, Drawn] = {}
        large = random.choice([0.0, 0.01, 0.05, 0.5])
        for number in range(random.randint(40, 200)):
            host_mb = random.choice([2000, 8000]) if random.random() < large else random.choice([100, 200, 400])
            gpu_mb = random.choice([0, 0, 100, 3000])
            drawn = Drawn(host_mb, gpu_mb, random.choice(["fixed", "fixed", "free"]))
            self.nodes[f"n{number}"] = drawn
            self._register(f"n{number}", drawn)
        self.device = random.choice(["cpu", "cuda", "any"])
        self.host_mb, self.gpu_mb = random.choice([150, 350, 1500, 6000, 9000]), random.choice([50, 2000, 4000])
        self.gpu_mb = 0 if self.device == "cpu" else self.gpu_mb
        self.harness.deploy("wanted", self.host_mb, self.gpu_mb, device=self.device)
        self.harness.service("wanted", model="wanted")

    def _register(self, name: str, drawn: Drawn) -> None:
        """It is full: its only slot is taken, by a container of its own service or of a shared one."""
        harness = self.harness
        kernel = harness.node(name, slots=1, host_mb=drawn.host_mb, gpu_mb={"g": drawn.gpu_mb} if drawn.gpu_mb else {})
        model = f"{drawn.held} {name}"
        harness.deploy(model, host_mb=1)
        harness.service(model, model=model, tier="dedicated" if drawn.held == "fixed" else "shared")
        (create,) = created(harness.call(model, int(name[1:]) + 1000))
        assert harness.board.registry.containers[create.container].node.name == name, "it is the only one with a slot"
        harness.ready(kernel, create.container)
        assert harness.answer(kernel, int(name[1:]) + 1000) is not None

    def large_enough(self, held: str = "") -> bool:
        return any(
            drawn.is_large_enough(self.device, self.host_mb, self.gpu_mb)
            for drawn in self.nodes.values()
            if held in drawn.held
        )

    def calls(self) -> Iterator[list[asked.Effect]]:
        """The wanted model is called, and looked for again and again."""
        yield self.harness.call("wanted", 1, 100.0)
        for look in range(1, LOOKS):
            yield self.harness.tick(100.0 + 0.1 * look)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_large_enough_is_found_and_what_is_refused_for_good_fits_nowhere(seed: int) -> None:
    many = Many(seed)
    effects = [effect for part in many.calls() for effect in part]
    refusals = refused(effects)
    if many.large_enough(held="free"):
        leaving = [c for c in many.harness.board.registry.containers.values() if c.state in ("draining", "closing")]
        assert len(leaving) == 1, "one leaves for it, wherever that is"
        assert not refusals
        return
    for refusal in refusals:
        error = refusal.error
        assert isinstance(error, ResourceInterrupt)
        assert error.retryable == many.large_enough()
        assert ("that large" in error.message or "has a device" in error.message) == (not many.large_enough())
    assert refusals or many.large_enough(), "waiting is in vain, and nobody is told"


@pytest.mark.parametrize("seed", SEEDS_OF_MANY_CALLS)
def test_the_same_refusal_says_the_same_again(seed: int) -> None:
    many = Many(seed)
    if many.large_enough(held="free"):
        return
    said = set()
    for request_id in range(30):
        now_s = 100.0 + 10.0 * request_id
        effects = many.harness.call("wanted", request_id, now_s)
        effects += many.harness.tick(now_s + 5.0)  # its patience is over
        (refusal,) = refused(effects)
        said.add((refusal.error.retryable, refusal.error.message))
    assert len(said) == 1, said


def test_groups_that_look_in_turns_see_all_nodes_each() -> None:
    """With one cursor for all, two that took turns could see one half of the nodes each, for ever."""
    harness = Harness(look_again_s=0.0, room_patience_s=1e9, node_timeout_s=1e9, claim_after_s=1e9)
    for number in range(48):
        harness.node(f"n{number:02}", slots=1, host_mb=1000)
    for number in range(48):
        tier = "shared" if number in (5, 29) else "dedicated"
        harness.deploy(f"m{number}", host_mb=1)
        harness.service(f"m{number}", model=f"m{number}", tier=tier)
        (create,) = created(harness.call(f"m{number}", number))
        kernel = harness.board.registry.containers[create.container].node.identity
        harness.ready(kernel, create.container)
        assert harness.answer(kernel, number) is not None
    for name in ("a", "b"):
        harness.deploy(name, host_mb=500)
        harness.service(name, model=name)
        harness.on(happened.CallMissed(CALLER, 100 + ord(name), harness.handles[name], 10**9, [b""], 0), 100.0)
    for look in range(4):
        harness.tick(100.1 + 0.1 * look)
    waiting = [group.model.name for group in harness.board._faults.groups() if not group.resident]
    assert not waiting
