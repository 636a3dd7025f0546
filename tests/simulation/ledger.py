"""What tenants have used: it never shrinks, whatever is deleted, and a new switchboard counts nothing twice."""

from collections import Counter
from typing import Final

from huterox_connector.core.records import Service, Usage
from huterox_connector.core.switchboard import Switchboard

FIELDS: Final = ("calls", "errors", "busy_s", "host_byte_s", "device_byte_s", "faults", "refused")
ROUNDING: Final = 1e-6
"""Of sums of many floats, in parts of them."""


class Ledger:
    """The totals of tenants as they were last looked at."""

    def __init__(self) -> None:
        self._totals: dict[str, Counter[str]] = {}

    def restarted(self, before: Switchboard, after: Switchboard) -> None:
        """What was on disk is no more than what there was."""
        self._totals = {}
        for service in after.registry.services.values():
            old = before.registry.services.get(service.id)
            if old is None:
                continue
            was, now = used_by(old), used_by(service)
            grown = [name for name in FIELDS if now[name] > was[name] * (1 + ROUNDING)]
            assert not grown, f"{service.title}: a restart has added to {grown}"

    def check(self, board: Switchboard) -> None:
        totals = totals_of(board)
        for tenant, was in self._totals.items():
            now = totals.get(tenant, Counter())
            shrunk = [name for name in FIELDS if now[name] < was[name] * (1 - ROUNDING)]
            assert not shrunk, f"what {tenant} has used has shrunk: {shrunk}"
        self._totals = totals


def totals_of(board: Switchboard) -> dict[str, Counter[str]]:
    """By tenant, services that were deleted included."""
    totals = {tenant: used(past) for tenant, past in board.registry.past_usage.items()}
    for service in board.registry.services.values():
        totals.setdefault(service.tenant, Counter()).update(used_by(service))
    return totals


def used(usage: Usage) -> Counter[str]:
    return Counter({name: getattr(usage, name) for name in FIELDS})


def used_by(service: Service) -> Counter[str]:
    return used(service.usage())
