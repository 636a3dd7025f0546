"""Desired state in the store: keys, and records as msgpack. What is read back at start is what `Admin` has written."""

from typing import Final

from msgspec import DecodeError, Struct, ValidationError, field, msgpack

from huterox_connector.core.effects import Write
from huterox_connector.core.records import Group, Model, Service
from huterox_wire.errors import Fault
from huterox_wire.nodes import ModelSpec

MODEL_PREFIX: Final = "model/"
SERVICE_PREFIX: Final = "service/"
NODE_PREFIX: Final = "node/"


class StoredModel(Struct):
    spec: ModelSpec
    deployed_at: float


class StoredService(Struct):
    id: int
    name: str
    tenant: str
    tier: str
    model: str
    created_at: float
    in_flight_max: int = 0
    lend: bool = False
    info: dict[str, str] = field(default_factory=dict)


class StoredNode(Struct):
    """What an operator has decided about a node, whether it is registered or not."""

    name: str
    drained: bool


def model_key(name: str) -> str:
    return MODEL_PREFIX + name


def service_key(service_id: int) -> str:
    return f"{SERVICE_PREFIX}{service_id:016x}"


def node_key(name: str) -> str:
    return NODE_PREFIX + name


def stored(service: Service) -> StoredService:
    return StoredService(
        service.id,
        service.name,
        service.tenant,
        service.tier,
        service.model.name,
        service.created_at,
        service.in_flight_max,
        service.lend,
        service.info,
    )


def service_from(record: StoredService, model: Model, group: Group, now_s: float) -> Service:
    return Service(
        id=record.id,
        name=record.name,
        tenant=record.tenant,
        tier=record.tier,
        created_at=record.created_at,
        model=model,
        group=group,
        in_flight_max=record.in_flight_max,
        lend=record.lend,
        info=record.info,
        created_s=now_s,
    )


def put(key: str, record: StoredModel | StoredService | StoredNode) -> Write:
    return Write(key, msgpack.encode(record))


def remove(key: str) -> Write:
    return Write(key, None)


class Desired(Struct):
    """All of it, as read at start."""

    models: list[StoredModel]
    services: list[StoredService]
    nodes: list[StoredNode] = field(default_factory=list)


def decode(records: dict[str, bytes]) -> Desired:
    """Raises Fault, naming the key, where a record cannot be read: better not to start than to forget a tenant."""
    desired = Desired([], [])
    for key, value in records.items():
        try:
            if key.startswith(MODEL_PREFIX):
                desired.models.append(msgpack.decode(value, type=StoredModel))
            elif key.startswith(SERVICE_PREFIX):
                desired.services.append(msgpack.decode(value, type=StoredService))
            elif key.startswith(NODE_PREFIX):
                desired.nodes.append(msgpack.decode(value, type=StoredNode))
        except (DecodeError, ValidationError) as exc:
            raise Fault(f"the store's record {key!r} cannot be read: {exc}") from exc
    return desired
