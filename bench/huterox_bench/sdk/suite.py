"""What the suites of calls share: a node, a client, a model that adds one, and the limits in turns with the calls."""

from collections.abc import Iterable
from contextlib import ExitStack

import huterox
from huterox_bench.limits.suite import open_limits
from huterox_bench.loads import SHAPES, Load
from huterox_bench.options import Options
from huterox_bench.sdk.calls import ServiceCalls, reach
from huterox_bench.sdk.node import start_node
from huterox_bench.sdk.services import CALL_TIMEOUT_S, create_service, deploy_model


class Chain:
    """A switchboard, and a client of it whose calls travel one way. Closed with the stack."""

    def __init__(self, options: Options, stack: ExitStack, path: str, *, lanes: bool) -> None:
        self.path = path
        self.endpoint = options.endpoint or start_node(stack)
        self.client = stack.enter_context(huterox.connect(self.endpoint, timeout=CALL_TIMEOUT_S, lanes=lanes))
        self.model = deploy_model(self.client, stack)
        self.name = create_service(self.client, stack, self.model)
        self.service = reach(self.client.service(self.name), path)

    def in_every_shape(self) -> list[Load]:
        """Calls to the service."""
        return [ServiceCalls(self.service, self.path, shape) for shape in SHAPES]


def beside_limits(options: Options, stack: ExitStack, loads: Iterable[Load]) -> list[Load]:
    """Each load after the C proxy in the same shape; the eventfd round trip first of all."""
    left = list(loads)
    ordered: list[Load] = []
    for limit in open_limits(options, stack):
        ordered.append(limit)
        ordered += [load for load in left if load.shape == limit.shape]
        left = [load for load in left if load.shape != limit.shape]
    return [*ordered, *left]
