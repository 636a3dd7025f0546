"""Real traffic on a real platform, observed closely enough to be replayed through the simulator."""

import asyncio
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from tests.system.platform import Platform

import huterox
from huterox_bench.court.tally import percentile
from huterox_bench.court.traces import Cost, Request, Trace

HOLDING = Path(__file__).parent / "models" / "holding.py"
INPUT = np.ones(1024, np.float32)
TOLD_S = 10.0

Row = dict[str, Any]


def matrix(name: str, mb: int, **more: Any) -> dict[str, Any]:
    """A model that holds `mb` MiB of weights, and declares a little more."""
    return {
        "name": name,
        "algorithm": "test",
        "entry": f"{HOLDING}:Matrix",
        "params": {"mb": mb},
        "resources": {"host_mb": mb + 16},
        **more,
    }


@dataclass(frozen=True, slots=True)
class Arrival:
    at_s: float
    tenant: str
    model: str


def zipf(
    models: Sequence[str], tenants: Sequence[str], *, rate: float, seconds: float, exponent: float, seed: int
) -> list[Arrival]:
    """Poisson arrivals; the first model is called most, the n-th 1/n**exponent times as often."""
    dice = random.Random(seed)
    weights = [rank**-exponent for rank in range(1, len(models) + 1)]
    arrivals, at_s = [], dice.expovariate(rate)
    while at_s < seconds:
        arrivals.append(Arrival(at_s, dice.choice(tenants), dice.choices(models, weights)[0]))
        at_s += dice.expovariate(rate)
    return arrivals


@dataclass(frozen=True, slots=True)
class Done:
    """A call as its caller saw it."""

    tenant: str
    model: str
    sent_s: float
    took_s: float
    error: str


@dataclass
class Observed:
    """What callers and operator saw of a run."""

    calls: list[Done] = field(default_factory=list)
    node_rows: list[Row] = field(default_factory=list)  # of the one node, several times a second
    events: list[Row] = field(default_factory=list)
    services: list[Row] = field(default_factory=list)
    models: list[Row] = field(default_factory=list)

    def events_of(self, kind: str) -> list[Row]:
        return [event for event in self.events if event["kind"] == kind]

    @property
    def hit_ratio(self) -> float:
        """Calls whose container was ready when they came."""
        faults = sum(row["usage"]["faults"] for row in self.services)
        return float(1 - faults / len(self.calls))

    @property
    def evictions(self) -> int:
        return len(self.events_of("evict"))

    def p99_wait_s(self) -> float:
        """Of the times that calls took beyond what their containers worked on them."""
        service_s = self._service_s()
        return percentile(sorted(call.took_s - service_s[call.model] for call in self.calls), 0.99)

    def unload_s(self) -> float:
        """From an eviction until the memory is back."""
        gone = {event["subject"]: event["at"] for event in self.events_of("gone")}
        return statistics.median(gone[e["subject"]] - e["at"] for e in self.events_of("evict") if e["subject"] in gone)

    def trace(self, pick: Callable[[Sequence[float]], float]) -> Trace:
        """The same calls at the same times. Of the load times that each model has shown, `pick` chooses the one that
        it has in the trace: there a model has one.
        """
        service_s, loads_s = self._service_s(), self._loads_s()
        calls = sorted(self.calls, key=lambda call: call.sent_s)
        sizes_mb = {row["name"]: row["measured_host_mb"] for row in self.models}
        called = dict.fromkeys(call.model for call in calls)
        return Trace(
            [Request(call.sent_s, call.tenant, call.model, service_s[call.model]) for call in calls],
            {model: Cost(sizes_mb[model], pick(loads_s[model])) for model in called},
        )

    def _service_s(self) -> dict[str, float]:
        """How long a container works on a call of each model, on average."""
        calls: dict[str, int] = defaultdict(int)
        busy_s: dict[str, float] = defaultdict(float)
        for row in self.services:
            calls[row["model"]] += row["usage"]["calls"]
            busy_s[row["model"]] += row["usage"]["busy_s"]
        return {model: busy_s[model] / max(1, count) for model, count in calls.items()}

    def _loads_s(self) -> dict[str, list[float]]:
        """What each load has taken from the moment on when there was room for it."""
        at = {(event["kind"], event["subject"].split()[-1]): event["at"] for event in self.events}
        loads: dict[str, list[float]] = defaultdict(list)
        for event in self.events_of("load"):
            model, container = event["subject"].split()
            room_at = [at.get(("gone", victim), 0.0) for victim in event["details"].get("makes_leave", ())]
            if (ready_at := at.get(("ready", container))) is not None:
                loads[model].append(ready_at - max(event["at"], *room_at, 0.0))
        return loads


async def drive(platform: Platform, sizes_mb: dict[str, int], arrivals: Sequence[Arrival]) -> Observed:
    """Deploy the models, give each tenant a service of each, call every model once, then call as planned."""
    observed = Observed()
    tenants = sorted({arrival.tenant for arrival in arrivals})
    services: dict[tuple[str, str], huterox.AsyncService] = {}
    async with AsyncExitStack() as stack:
        # Half of them call by lanes, where they have one: the switchboard hears of these calls with heartbeats only.
        clients = {
            name: await stack.enter_async_context(
                huterox.aconnect(platform.endpoint, tenant=name, timeout=30.0, lanes=number % 2 == 0)
            )
            for number, name in enumerate(tenants)
        }
        operator = clients[tenants[0]]
        for model, mb in sizes_mb.items():
            await operator.deploy(matrix(model, mb))
        for name, model in product(tenants, sizes_mb):
            await clients[name].create(model, model=model)
            services[name, model] = await clients[name].service(model)
        start_s = time.monotonic()

        async def call(tenant: str, model: str) -> None:
            sent_s, error = time.monotonic(), ""
            try:
                await services[tenant, model](x=INPUT)
            except huterox.HuteroxError as exc:
                error = f"{exc.code}: {exc.message}"
            observed.calls.append(Done(tenant, model, sent_s - start_s, time.monotonic() - sent_s, error))

        for model in sizes_mb:
            await call(tenants[0], model)
        begun_s = time.monotonic()
        async with asyncio.TaskGroup() as calling:
            watching = asyncio.create_task(_watch(operator, observed))
            for arrival in arrivals:
                await asyncio.sleep(begun_s + arrival.at_s - time.monotonic())
                calling.create_task(call(arrival.tenant, arrival.model))
        watching.cancel()
        observed.services = await _services(operator, len(observed.calls))
        observed.events, observed.models = await operator.events(limit=10_000), await operator.models()
    return observed


async def _services(operator: huterox.AsyncClient, calls: int) -> list[dict[str, Any]]:
    """The services when all calls are counted: those in lanes come with the next heartbeats. Else as they are then."""
    until_s = time.monotonic() + TOLD_S
    while True:
        rows = await operator.services()
        if sum(row["usage"]["calls"] for row in rows) >= calls or time.monotonic() > until_s:
            return rows
        await asyncio.sleep(0.1)


async def _watch(operator: huterox.AsyncClient, observed: Observed) -> None:
    while True:
        observed.node_rows += await operator.nodes()
        await asyncio.sleep(0.2)
