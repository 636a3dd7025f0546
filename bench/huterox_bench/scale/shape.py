"""How large a platform is, and what it is made of."""

from dataclasses import dataclass
from random import Random
from typing import Any, Final

NODES: Final = (10, 100, 1000)
"""The platforms that are compared."""

SLOTS: Final = 24
HOST_MB: Final = 24 * 1024
MODEL_MB: Final = (512, 1024, 2048, 4096)


WARM_CALLS: Final = 60
"""Calls for each node before anything is measured: its memory is full then, and what came first may leave."""

CALLS: Final = 20
CALLS_MIN: Final = 5000


@dataclass(frozen=True, slots=True)
class Shape:
    """One platform. Everything grows with the nodes, the traffic too; there are twice as many models as fit."""

    nodes: int
    services: int
    models: int
    calls: int  # to be made while it is measured
    seed: int = 1

    @classmethod
    def of(cls, nodes: int, services: int | None = None) -> "Shape":
        """The usual proportions: a hundred services and twenty models a node."""
        calls = max(CALLS_MIN, CALLS * nodes)
        return cls(nodes, services if services is not None else 100 * nodes, 20 * nodes, calls)

    def model(self, number: int, random: Random) -> dict[str, Any]:
        """A model's file."""
        host_mb = random.choice(MODEL_MB)
        return {"name": f"model{number}", "entry": "m.py:M", "resources": {"host_mb": host_mb}}
