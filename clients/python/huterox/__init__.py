"""Huterox, the Python SDK: many models, many tenants, little memory.

    with huterox.connect() as client:
        client.deploy("model.toml")
        client.create("street-cam", model="yolo")
        service = client.service("street-cam")
        result = service(image=array)

Importing this module is cheap: sockets and NumPy are imported when they are needed.
"""

from typing import TYPE_CHECKING, Any

from huterox_wire.errors import (
    Busy,
    CallerError,
    Cancelled,
    Conflict,
    DeadlineExceeded,
    Fault,
    HuteroxError,
    InvalidInput,
    ModelError,
    NotFound,
    ResourceInterrupt,
    TooLarge,
    Unauthorized,
    Unavailable,
    WorkerLost,
)

if TYPE_CHECKING:
    from huterox.aio import AsyncClient, aconnect
    from huterox.async_service import AsyncService
    from huterox.client import Client, connect
    from huterox.futures import CallFuture, Stream
    from huterox.service import Service

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "AsyncService",
    "Busy",
    "CallFuture",
    "CallerError",
    "Cancelled",
    "Client",
    "Conflict",
    "DeadlineExceeded",
    "Fault",
    "HuteroxError",
    "InvalidInput",
    "ModelError",
    "NotFound",
    "ResourceInterrupt",
    "Service",
    "Stream",
    "TooLarge",
    "Unauthorized",
    "Unavailable",
    "WorkerLost",
    "aconnect",
    "connect",
]

_LATE = {
    "AsyncClient": "huterox.aio",
    "AsyncService": "huterox.async_service",
    "aconnect": "huterox.aio",
    "Client": "huterox.client",
    "connect": "huterox.client",
    "CallFuture": "huterox.futures",
    "Stream": "huterox.futures",
    "Service": "huterox.service",
}


def __getattr__(name: str) -> Any:
    """Import what is heavy when it is first asked for (PEP 562)."""
    module = _LATE.get(name)
    if module is None:
        raise AttributeError(f"module 'huterox' has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(module), name)
    return value
