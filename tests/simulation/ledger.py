"""What tenants have used: it never shrinks, whatever is deleted, and a new switchboard counts nothing twice."""

from operator import add, attrgetter
from typing import Any, Final

from huterox_connector.core.switchboard import Switchboard

FIELDS: Final = ("calls", "errors", "busy_s", "host_byte_s", "device_byte_s", "faults", "refused")
NOTHING: Final = (0,) * len(FIELDS)
ROUNDING: Final = 1e-6
"""Of sums of many floats, in parts of them."""


used: Final = attrgetter(*FIELDS)
"""A usage as a tuple of its fields, which are compared after every event."""


class Ledger:
    """The totals of tenants as they were last looked at."""

    def __init__(self) -> None:
        self._totals: dict[str, tuple[Any, ...]] = {}

    def restarted(self, before: Switchboard, after: Switchboard) -> None:
        """What was on disk is no more than what there was."""
        self._totals = {}
        for service in after.registry.services.values():
            if (old := before.registry.services.get(service.id)) is None:
                continue
            grown = less(used(old.usage()), used(service.usage()))
            assert not grown, f"{service.title}: a restart has added to {grown}"

    def check(self, board: Switchboard) -> None:
        totals = totals_of(board)
        for tenant, was in self._totals.items():
            shrunk = less(totals.get(tenant, NOTHING), was)
            assert not shrunk, f"what {tenant} has used has shrunk: {shrunk}"
        self._totals = totals


def less(some: tuple[Any, ...], others: tuple[Any, ...]) -> list[str]:
    """The fields of which `some` has less than `others`, rounding apart."""
    return [name for name, one, other in zip(FIELDS, some, others, strict=True) if one < other * (1 - ROUNDING)]


def totals_of(board: Switchboard) -> dict[str, tuple[Any, ...]]:
    """By tenant, services that were deleted included."""
    totals = {tenant: used(past) for tenant, past in board.registry.past_usage.items()}
    for service in board.registry.services.values():
        was = totals.get(service.tenant, NOTHING)
        totals[service.tenant] = tuple(map(add, was, used(service.usage())))
    return totals
