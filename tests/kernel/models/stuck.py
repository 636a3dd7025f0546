"""Models that do not come back."""

import ctypes
import os
import time
from collections.abc import Iterator


class Stuck:
    """In Python, in C with the interpreter's lock, between two parts of a stream."""

    def predict(self) -> int:
        return os.getpid()

    def loop(self) -> None:
        while True:
            pass

    def in_c(self) -> None:
        ctypes.PyDLL(None).sleep(1000)  # unlike CDLL, it keeps the lock

    def parts(self) -> Iterator[int]:
        yield 1
        while True:
            time.sleep(0.01)

    def long(self, seconds: float) -> float:
        time.sleep(seconds)
        return seconds
