"""One model for the fault tests: a plain class, nothing of Huterox in it."""

import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np


class Mixed:
    """Does a little of everything that a model can do to its caller."""

    def __init__(self) -> None:
        self._kept: deque[np.ndarray] = deque(maxlen=4)

    def predict(self, x: np.ndarray) -> np.ndarray:
        return x + 1

    def echo(self, **inputs: object) -> dict[str, object]:
        return inputs

    def keep(self, x: np.ndarray) -> int:
        """Holds its input longer than the call lasts."""
        self._kept.append(x)
        return int(x[0])

    def forget(self) -> None:
        """Lets go of what `keep` holds."""
        self._kept.clear()

    def count(self, count: int) -> Iterator[dict[str, object]]:
        for number in range(count):
            yield {"number": number, "square": np.full(64, number * number)}

    def blocks(self, count: int, nbytes: int) -> Iterator[dict[str, object]]:
        for number in range(count):
            yield {"number": number, "block": np.zeros(nbytes, np.uint8)}

    def nap(self, seconds: float, mark: str = "") -> int:
        """`mark` is a file that appears once the call runs."""
        if mark:
            Path(mark).touch()
        time.sleep(seconds)
        return os.getpid()

    def held(self, mark: str, go: str, seconds: float = 60.0) -> int:
        """Runs until the file `go` is there; `mark` appears once it runs."""
        Path(mark).touch()
        until_s = time.monotonic() + seconds
        while not Path(go).exists() and time.monotonic() < until_s:
            time.sleep(0.005)
        return os.getpid()

    def never_ends(self, mark: str) -> None:
        """`mark` appears once it runs."""
        Path(mark).touch()
        while True:
            pass

    def spin(self, x: np.ndarray, seconds: float) -> np.ndarray:
        """Works for so long."""
        until_s = time.perf_counter() + seconds
        while time.perf_counter() < until_s:
            pass
        return x + 1

    def fail(self, x: int) -> float:
        return 1 / x

    def pid(self) -> int:
        return os.getpid()
