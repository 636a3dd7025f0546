"""Signals whose handler raises, at random moments, in a process that calls a real platform; other threads go on."""

import random
import signal
import threading
import time
import traceback
from types import FrameType
from typing import Any

import numpy as np
import pytest
from tests.rounds import SEED
from tests.system.platform import Platform

import huterox

pytestmark = [
    pytest.mark.system,
    pytest.mark.soak,
    pytest.mark.timeout(120, method="thread"),  # the alarm is in use here
    # pyzmq runs handlers in a destructor, too, and Python passes over what they raise there.
    pytest.mark.filterwarnings("ignore:.*Frame.__dealloc__:pytest.PytestUnraisableExceptionWarning"),
]

INTERRUPTS = 150
SEEDS = 5
CALLS = 100
WITHIN_S = 20.0


class Struck(BaseException):
    """What the handler raises."""


class Neighbours:
    """Threads that call all the while, and are never interrupted: signals go to the main thread."""

    def __init__(self, service: huterox.Service, count: int) -> None:
        self._service = service
        self._stop = threading.Event()
        self.calls = 0
        self.failures: list[str] = []
        self._threads = [threading.Thread(target=self._run, args=(number,), daemon=True) for number in range(count)]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int) -> None:
        try:
            while not self._stop.is_set():
                values = np.full(64, number, np.float32)
                futures = [self._service.submit(x=values) for _ in range(4)]
                for result in [self._service(x=values), *(future.result(20.0) for future in futures)]:
                    assert np.array_equal(result["x"], values)
                    self.calls += 1
        except BaseException:  # noqa: BLE001 - told by the test
            self.failures.append(traceback.format_exc())

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20.0)


def attempt(service: huterox.Service, number: int) -> None:
    """One call, of a kind in turn."""
    values = np.full(1000 if number % 2 else 40_000, number, np.float32)
    kind = number % 4
    if kind == 0:
        result = service(x=values)["x"]
    elif kind == 1:
        result = service.submit(x=values).result(20.0)["x"]
    elif kind == 2:
        array = service.empty(values.shape, "float32")
        array[...] = values
        result = service(x=array)["x"]
    else:
        told: list[Any] = []
        future = service.submit(x=values)
        future.add_done_callback(told.append)
        result = future.result(20.0)["x"]
    assert np.array_equal(result, values)


@pytest.mark.parametrize("seed", range(SEED, SEED + SEEDS))
@pytest.mark.parametrize("lanes", [True, False], ids=["lane", "routed"])
def test_interrupts_at_random_moments_disturb_no_other_call(
    shared: Platform, tmp_path: Any, lanes: bool, seed: int
) -> None:
    rand = random.Random(seed)
    (tmp_path / "echo.py").write_text("class Echo:\n    def predict(self, x):\n        return {'x': x.copy()}\n")
    name = f"echo-{int(lanes)}-{seed}"

    def strike(number: int, frame: FrameType | None) -> None:
        raise Struck

    with shared.client(timeout=20.0, lanes=lanes) as client:
        client.deploy({"name": name, "entry": f"{tmp_path}/echo.py:Echo"})
        client.create(name, model=name)
        service = client.service(name)
        for number in range(20):
            attempt(service, number)
        neighbours = Neighbours(service, 2)
        before = signal.signal(signal.SIGALRM, strike)
        struck = number = 0
        until_s = time.monotonic() + WITHIN_S
        try:
            while struck < INTERRUPTS and time.monotonic() < until_s:
                try:
                    signal.setitimer(signal.ITIMER_REAL, rand.uniform(0.0001, 0.004))
                    for _ in range(CALLS):  # Python passes over what is raised in a finalizer
                        number += 1
                        attempt(service, number)
                except Struck:
                    struck += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        neighbours.stop()
        assert not neighbours.failures, neighbours.failures[0]
        assert neighbours.calls > 0
        assert struck >= INTERRUPTS / 3
        for number in range(20):
            attempt(service, number)
        assert service.path == ("lane" if lanes else "routed")
