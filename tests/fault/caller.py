"""A caller in a process of its own: `python -m tests.fault.caller ENDPOINT OPTIONS`. Calls and checks until stopped.

A line on stdin is a question, and a JSON line on stdout its answer: `report` tells what was seen so far, `pause` lets
what is in flight end and then answers like `report`, `go` goes on, `stop` is `report` and the end.
"""

import gc
import json
import os
import random
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import numpy as np
from tests.fault import census

import huterox
import huterox.lease

TIMEOUT_S = 25.0
SLOW_S = 0.5
RECORDS_MAX = 5000
ERRORS_MAX = 8
STEADY_WINDOW = 16
AFTER_ERROR_S = 0.02


class WrongAnswer(Exception):
    """The answer to another call, or to none."""


class Caller:
    """Calls the services in turns, in one of several ways each time.

    Args:
        ways: which of the methods below; see `WAYS`.
    """

    def __init__(self, endpoint: str, services: list[str], seed: int, ways: list[str], tenant: str = "") -> None:
        self._endpoint = endpoint
        self._tenant = tenant or None
        self._random = random.Random(seed)
        self._names = services
        self._ways = ways
        self._held: deque[Any] = deque(maxlen=6)
        self._in_flight: deque[Any] = deque()
        self.counts: Counter[str] = Counter()
        self.errors: list[str] = []  # the first few, in words
        self.by_lane = 0
        self.path_changes = 0
        self.calls: Counter[str] = Counter()  # that have ended well, by service
        self.records: list[tuple[float, float, str, str]] = []  # of calls that were slow or failed
        self.begun_s = 0.0
        self.running = threading.Event()
        self.idle = threading.Event()
        self.stopping = False
        self._services: list[huterox.Service] = []
        self._way_of: dict[str, Callable[[huterox.Service], int]] = {
            "small": self._small,
            "window": self._window,
            "steady": self._steady,
            "large": self._large,
            "empty": self._empty,
            "keep": self._keep,
            "plain": self._plain,
            "stream": self._stream,
            "cancel": self._cancel,
            "fail": self._fail,
        }

    def run(self) -> None:
        """Until stopped."""
        self._warm_up()
        with huterox.connect(self._endpoint, tenant=self._tenant, timeout=TIMEOUT_S) as client:
            self._services = [client.service(name) for name in self._names]
            while not self.stopping:
                if not self.running.is_set():
                    self.idle.set()
                    self.running.wait(0.05)
                    continue
                self.idle.clear()
                self._once(self._random.choice(self._services), self._random.choice(self._ways))
            while self._in_flight:
                self._in_flight.popleft().result()
            self._held.clear()
            self._services.clear()
        self.idle.set()

    def _warm_up(self) -> None:
        """The first large message by a socket opens descriptors in pyzmq that are never closed."""
        with huterox.connect(self._endpoint, tenant=self._tenant, timeout=TIMEOUT_S, lanes=False) as client:
            client.service(self._names[0])(x=self._array(1 << 20))

    def _once(self, service: huterox.Service, way: str) -> None:
        path = service.path
        self.begun_s = begun_s = time.monotonic()
        outcome = "ok"
        count = 0
        try:
            count = self._way_of[way](service)
        except huterox.HuteroxError as exc:
            outcome = f"{type(exc).__name__}"
            if len(self.errors) < ERRORS_MAX:
                self.errors.append(f"{outcome} in {way}: {exc}")
            if type(exc) in (huterox.HuteroxError, huterox.Fault, huterox.InvalidInput, huterox.DeadlineExceeded):
                outcome += f" in {way}: {exc}"
        except WrongAnswer as exc:
            outcome = f"WrongAnswer in {way}: {exc}"
        except Exception as exc:  # noqa: BLE001 - whatever it is, the test must hear of it
            outcome = f"untyped {type(exc).__name__} in {way}: {exc}"
        self.begun_s, ended_s = 0.0, time.monotonic()
        self.counts[outcome] += max(count, 1)
        self.calls[service.name] += count
        after = service.path
        self.by_lane += count if path == after == "lane" else 0
        self.path_changes += path != after
        if (outcome != "ok" or ended_s - begun_s > SLOW_S) and len(self.records) < RECORDS_MAX:
            self.records.append((begun_s, ended_s, outcome, path))
        if outcome != "ok":
            time.sleep(AFTER_ERROR_S)

    # Each way makes some calls, checks their answers, and returns how many were answered.

    def _check(self, right: Any, what: str) -> None:
        if not right:
            raise WrongAnswer(what)

    def _array(self, nbytes: int) -> np.ndarray[Any, Any]:
        return np.full(nbytes // 4, self._random.randrange(1 << 20), np.float32)

    def _small(self, service: huterox.Service) -> int:
        x = self._array(1024)
        self._check(np.array_equal(service(x=x)["result"], x + 1), "small")
        return 1

    def _window(self, service: huterox.Service) -> int:
        inputs = [self._array(1024) for _ in range(self._random.randrange(2, 40))]
        futures = [service.submit(x=x) for x in inputs]
        results = [future.exception() or future.result()["result"] for future in futures]
        for x, result in zip(inputs, results, strict=True):
            if isinstance(result, BaseException):
                raise result
            self._check(np.array_equal(result, x + 1), "window")
        return len(inputs)

    def _steady(self, service: huterox.Service) -> int:
        """Always some calls in flight, so that it is the container that decides whose turn it is."""
        x = self._array(1024)
        for _ in range(100):
            self._in_flight.append(service.submit("spin", x=x, seconds=0.0001))
            if len(self._in_flight) > STEADY_WINDOW:
                self._in_flight.popleft().result()
        return 100

    def _large(self, service: huterox.Service) -> int:
        x = self._array(self._random.choice([70_000, 300_000, 1 << 20, 4 << 20]))
        result = service(x=x)["result"]
        self._check(np.array_equal(result, x + 1), "large")
        self._held.append(result)  # its memory is still the lane's
        return 1

    def _empty(self, service: huterox.Service) -> int:
        x = service.empty((256, 1024), "float32")
        x[...] = self._random.randrange(1 << 20)
        for result in [service.submit(x=x).result()["result"], service(x=x)["result"]]:
            self._check(np.array_equal(result, x + 1), "empty")
        self._held.append(x)
        return 2

    def _keep(self, service: huterox.Service) -> int:
        x = self._array(self._random.choice([4096, 1 << 19]))
        self._check(service.call("keep", x=x)["result"] == int(x[0]), "keep")
        return 1

    def _plain(self, service: huterox.Service) -> int:
        values = {"a": self._random.random(), "b": "text", "c": bytes(self._random.randrange(3000)), "d": [1, {"e": 2}]}
        self._check(service.call("echo", **values) == values, "plain")
        return 1

    def _stream(self, service: huterox.Service) -> int:
        count = self._random.randrange(1, 30)
        numbers = []
        for part in service.stream("count", count=count):
            self._check((part["square"] == part["number"] ** 2).all(), "a part")
            numbers.append(part["number"])
        self._check(numbers == list(range(count)), "parts")
        return 1

    def _cancel(self, service: huterox.Service) -> int:
        first = service.submit("nap", seconds=0.002)
        second = service.submit("nap", seconds=0.0)
        second.cancel()
        first.result()
        return 0  # whether the second has run nobody knows

    def _fail(self, service: huterox.Service) -> int:
        try:
            service.call("fail", x=0)
        except huterox.ModelError:
            return 1
        raise WrongAnswer("no error")

    # What is told.

    def report(self) -> dict[str, Any]:
        begun_s = self.begun_s
        return {
            "counts": dict(self.counts),
            "errors": self.errors,
            "calls": dict(self.calls),
            "by_lane": self.by_lane,
            "path_changes": self.path_changes,
            "paths": [service.path for service in self._services],
            "records": list(self.records),
            "stuck_s": time.monotonic() - begun_s if begun_s else 0.0,
            "descriptors": census.descriptors(os.getpid()),
            "segments": sorted(census.segments([os.getpid()])),
            "own_memory_kb": census.own_memory_kb(os.getpid()),
            "threads": sorted(thread.name for thread in threading.enumerate()),
        }


def main() -> int:
    # A test ends more lanes in a minute than life does in a year: the pauses that follow are not what is tested.
    huterox.lease.SHORT_LIFE_S = -1.0  # type: ignore[misc]
    options = json.loads(sys.argv[2])
    caller = Caller(sys.argv[1], **options)
    thread = threading.Thread(target=caller.run, name="calls")
    thread.start()
    _say({"ready": True})
    for line in sys.stdin:
        match line.strip():
            case "report":
                _say(caller.report())
            case "go":
                caller.running.set()
                _say({})
            case "pause":
                caller.idle.clear()
                caller.running.clear()
                caller.idle.wait()
                caller._held.clear()
                gc.collect()
                _say(caller.report())
            case "stop":
                caller.stopping = True
                thread.join()
                _say(caller.report())
                break
    caller.stopping = True
    thread.join()
    return 0


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
