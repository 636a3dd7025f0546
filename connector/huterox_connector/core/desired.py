"""Desired state in the store: keys, and records as msgpack. What is read back at start is what `Admin` has written."""

from typing import Final

from msgspec import DecodeError, Struct, ValidationError, msgpack

from huterox_connector.core.effects import Write
from huterox_wire.errors import Fault
from huterox_wire.nodes import ModelSpec

MODEL_PREFIX: Final = "model/"
SERVICE_PREFIX: Final = "service/"


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


def model_key(name: str) -> str:
    return MODEL_PREFIX + name


def service_key(service_id: int) -> str:
    return f"{SERVICE_PREFIX}{service_id:016x}"


def put(key: str, record: StoredModel | StoredService) -> Write:
    return Write(key, msgpack.encode(record))


def remove(key: str) -> Write:
    return Write(key, None)


class Desired(Struct):
    """All of it, as read at start."""

    models: list[StoredModel]
    services: list[StoredService]


def decode(records: dict[str, bytes]) -> Desired:
    """Raises Fault, naming the key, where a record cannot be read: better not to start than to forget a tenant."""
    desired = Desired([], [])
    for key, value in records.items():
        try:
            if key.startswith(MODEL_PREFIX):
                desired.models.append(msgpack.decode(value, type=StoredModel))
            elif key.startswith(SERVICE_PREFIX):
                desired.services.append(msgpack.decode(value, type=StoredService))
        except (DecodeError, ValidationError) as exc:
            raise Fault(f"the store's record {key!r} cannot be read: {exc}") from exc
    return desired
