"""Small models that really hold memory and really work: for tests of residency."""

import time
from pathlib import Path

import numpy as np

COLUMNS = 1024
ROWS_PER_MIB = 2**20 // (COLUMNS * 4)


class Matrix:
    """`mb` MiB of weights, written at the load; a call reads all of them."""

    def __init__(self, mb: int, seed: int = 0) -> None:
        one_mib = np.random.default_rng(seed).standard_normal((ROWS_PER_MIB, COLUMNS), dtype=np.float32)
        self._weights = np.tile(one_mib, (mb, 1))

    def predict(self, x: np.ndarray) -> dict[str, float]:
        return {"sum": float((self._weights @ x).sum())}

    def held(self, go: str, seconds: float = 60.0) -> None:
        """Runs until a file of this name is there."""
        until_s = time.monotonic() + seconds
        while not Path(go).exists() and time.monotonic() < until_s:
            time.sleep(0.005)
