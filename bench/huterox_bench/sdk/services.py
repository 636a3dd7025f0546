"""Services of the bench's model, under names that nobody else has; all is removed in the end."""

import secrets
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import huterox

MODEL_FILE = Path(__file__).parent / "models" / "plus_one.py"
CALL_TIMEOUT_S = 30.0
_HOST_MB = 64


def deploy_model(client: huterox.Client, stack: ExitStack, **more: Any) -> str:
    """A model that adds one, with what `more` says of it; returns its name."""
    name = f"bench-{secrets.token_hex(4)}"
    resources = {"host_mb": _HOST_MB}
    client.deploy(
        {"name": name, "algorithm": "bench", "entry": f"{MODEL_FILE}:PlusOne", "resources": resources, **more}
    )
    stack.callback(client.undeploy, name, force=True)
    return name


def create_service(
    client: huterox.Client, stack: ExitStack, model: str, suffix: str = "", tenant: str | None = None
) -> str:
    """A service of the model; returns its name. With a suffix it has a container of its own."""
    name = model + suffix
    client.create(name, model=model, tier="dedicated" if suffix else "shared", tenant=tenant)
    stack.callback(client.delete, name, tenant=tenant)
    return name
