"""What was measured, in the store: footprints of models, usage of services and tenants. Written behind.

It survives the switchboard, but nobody waits for it to be on disk: after a crash the last seconds may be missing.
"""

from typing import Final

from msgspec import DecodeError, Struct, ValidationError, field, msgpack

from huterox_connector.core.effects import Write
from huterox_connector.core.footprints import Footprint
from huterox_connector.core.records import Model, Service, Usage

FOOTPRINT_PREFIX: Final = "footprint/"
USAGE_PREFIX: Final = "usage/"
PAST_PREFIX: Final = "usage-past/"

Totals = tuple[int, int, int]
"""Calls, errors, microseconds: what callers did by lanes."""


class StoredFootprint(Struct):
    model: str
    version: str
    node: str
    footprint: Footprint


class StoredUsage(Struct):
    """Of one service. `lanes` is what has been counted of its containers, so that nothing counts twice."""

    service: int
    usage: Usage
    last_hit_at: float
    lanes: dict[int, Totals] = field(default_factory=dict)


class StoredPast(Struct):
    """Of a tenant's services that were deleted."""

    tenant: str
    usage: Usage


class Measured(Struct):
    """All of it, as read at start."""

    footprints: list[StoredFootprint] = field(default_factory=list)
    usage: list[StoredUsage] = field(default_factory=list)
    past: list[StoredPast] = field(default_factory=list)


def put_footprint(model: Model, node: str, footprint: Footprint) -> Write:
    record = StoredFootprint(model.name, model.spec.version, node, footprint)
    return Write(_footprint_key(model.name, node), msgpack.encode(record))


def forget_footprint(model: Model, node: str) -> Write:
    return Write(_footprint_key(model.name, node), None)


def _footprint_key(model: str, node: str) -> str:
    return f"{FOOTPRINT_PREFIX}{model}/{node}"


def put_usage(service: Service, lanes: dict[int, Totals], last_hit_at: float) -> Write:
    return Write(usage_key(service.id), msgpack.encode(StoredUsage(service.id, service.usage(), last_hit_at, lanes)))


def usage_key(service_id: int) -> str:
    return f"{USAGE_PREFIX}{service_id:016x}"


def put_past(tenant: str, usage: Usage) -> Write:
    return Write(f"{PAST_PREFIX}{tenant}", msgpack.encode(StoredPast(tenant, usage)))


def decode(records: dict[str, bytes]) -> tuple[Measured, list[str]]:
    """What can be read, and the keys of what cannot: a measurement that is lost is measured again."""
    measured, unreadable = Measured(), []
    for key, value in records.items():
        try:
            if key.startswith(FOOTPRINT_PREFIX):
                measured.footprints.append(msgpack.decode(value, type=StoredFootprint))
            elif key.startswith(PAST_PREFIX):
                measured.past.append(msgpack.decode(value, type=StoredPast))
            elif key.startswith(USAGE_PREFIX):
                measured.usage.append(msgpack.decode(value, type=StoredUsage))
        except (DecodeError, ValidationError):
            unreadable.append(key)
    return measured, unreadable
