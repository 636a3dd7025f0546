"""The suite of routed calls: `huterox up`, a model that adds one, and the SDK; each shape beside its limit."""

import secrets
from contextlib import ExitStack
from pathlib import Path

import huterox
from huterox_bench.limits.suite import open_limits
from huterox_bench.loads import SHAPES, Load
from huterox_bench.options import Options
from huterox_bench.routed.calls import RoutedCalls
from huterox_bench.routed.node import start_node

MODEL_FILE = Path(__file__).parent / "models" / "plus_one.py"
CALL_TIMEOUT_S = 30.0


def open_routed(options: Options, stack: ExitStack) -> list[Load]:
    """Every shape through the SDK, each after the C proxy in the same shape; the eventfd round trip first of all."""
    limits = open_limits(options, stack)
    client = stack.enter_context(huterox.connect(options.endpoint or start_node(stack), timeout=CALL_TIMEOUT_S))
    service = open_service(client, stack)
    routed = {shape: RoutedCalls(service, shape) for shape in SHAPES}
    loads: list[Load] = []
    for limit in limits:
        loads.append(limit)
        if limit.shape in routed:
            loads.append(routed.pop(limit.shape))
    return [*loads, *routed.values()]


def open_service(client: huterox.Client, stack: ExitStack) -> huterox.Service:
    """A service of the model, under names that nobody else has; both are removed in the end."""
    name = f"bench-{secrets.token_hex(4)}"
    client.deploy({"name": name, "algorithm": "bench", "entry": f"{MODEL_FILE}:PlusOne"})
    stack.callback(client.undeploy, name, force=True)
    client.create(name, model=name)
    stack.callback(client.delete, name)
    return client.service(name)
