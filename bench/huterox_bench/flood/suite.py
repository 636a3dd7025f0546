"""The suite: a polite caller with one call at a time, and now and then one tenant who floods the switchboard."""

import json
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Final, NamedTuple

import huterox
from huterox_bench.errors import BenchError
from huterox_bench.flood.flooder import CONTROL, KINDS
from huterox_bench.flood.rows import BAR, FloodRow, Turn, row_of_turns
from huterox_bench.loads import SMALL_NBYTES, Shape, SliceLimit
from huterox_bench.measure import Progress
from huterox_bench.options import Options
from huterox_bench.processes import Child, python_child
from huterox_bench.sdk.calls import ROUTED, ServiceCalls, reach
from huterox_bench.sdk.node import start_node
from huterox_bench.sdk.services import CALL_TIMEOUT_S, create_service, deploy_model
from huterox_bench.summary import SliceFigures, figures_of

CALLS: Final = 1000
"""Of one phase, or as many as `--seconds` leave time for."""

WARM_UP_S: Final = 0.3
TENANT: Final = "flood"
FLOODER: Final = "huterox_bench.flood.flooder"


class Flooded(NamedTuple):
    """What a flood has to say of itself when it has ended."""

    seconds: float
    answers: int
    errors: int


class Flooder:
    """The process that floods."""

    def __init__(self, endpoint: str, services: dict[str, str], stack: ExitStack) -> None:
        self._endpoint = endpoint
        self._services = services
        self._child: Child = stack.enter_context(
            python_child("the flooder", FLOODER, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        )
        self._begun_s = 0.0

    def begin(self, kind: str) -> None:
        """From now on there is one."""
        self._order([kind, self._endpoint, TENANT, self._services.get(kind, "")])
        self._begun_s = time.monotonic()
        self._answer()

    def end(self) -> Flooded:
        """It is over, and nothing of it is left."""
        self._order([])
        seconds = time.monotonic() - self._begun_s
        answer = self._answer()
        if not answer["answers"]:
            raise BenchError("nothing of the flood was answered: there is nothing to measure")
        return Flooded(seconds, answer["answers"], answer["errors"])

    def _order(self, order: Sequence[Any]) -> None:
        self._child.send(json.dumps(order).encode() + b"\n")

    def _answer(self) -> Any:
        line = self._child.read_line()
        if not line.endswith(b"\n"):
            self._child.wait()
            self._child.check_alive()
        answer = json.loads(line)
        if said := answer.get("error"):
            raise BenchError(said)
        return answer


def measure_flood(options: Options, stack: ExitStack, progress: Progress) -> list[FloodRow]:
    """In turns for each kind of flood: calls without it, and calls with it."""
    polite, flooder = _open(options, stack)
    limit, warm_up = SliceLimit(options.plan.seconds, CALLS), SliceLimit(min(WARM_UP_S, options.plan.seconds), CALLS)
    turns: dict[str, list[Turn]] = {kind: [] for kind in KINDS}
    for number in range(options.plan.slices):
        progress(f"turn {number + 1} of {options.plan.slices}")
        for kind, done in turns.items():
            quiet = _phase(polite, warm_up, limit)
            flooder.begin(kind)
            flooded = _phase(polite, warm_up, limit)
            flood = flooder.end()
            done.append(Turn(quiet, flooded, flood.answers / flood.seconds, flood.errors / flood.answers))
    return [row_of_turns(kind, done, None if kind == CONTROL else BAR) for kind, done in turns.items()]


def _phase(polite: ServiceCalls, warm_up: SliceLimit, limit: SliceLimit) -> SliceFigures:
    polite.run(warm_up)
    return figures_of(polite.run(limit))


def _open(options: Options, stack: ExitStack) -> tuple[ServiceCalls, Flooder]:
    """A node with two models, one container each: the polite caller's service, and one of each for the flood."""
    endpoint = options.endpoint or start_node(stack)
    client = stack.enter_context(huterox.connect(endpoint, timeout=CALL_TIMEOUT_S, lanes=False))
    model, other = (deploy_model(client, stack, replicas_max=1) for _ in range(2))
    polite = reach(client.service(create_service(client, stack, model)), ROUTED)
    services = {}
    for kind, called in (("same_model", model), ("other_model", other)):
        services[kind] = create_service(client, stack, called, tenant=TENANT)
        reach(client.service(services[kind], tenant=TENANT), ROUTED)
    return ServiceCalls(polite, ROUTED, Shape(1, SMALL_NBYTES)), Flooder(endpoint, services, stack)
