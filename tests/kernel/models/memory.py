"""Models that take memory in several ways."""

import os
import time

import numpy as np


class Holds:
    """Takes memory of its own, lets its processes share it, or rewrites what it shares with its zygote."""

    def __init__(self, device: str, mb: int = 0) -> None:
        self.held = np.ones(mb << 17)
        self.children: list[int] = []

    def predict(self) -> float:
        return float(self.held[:1].sum())

    def take(self, mb: int) -> int:
        self.held = np.ones(mb << 17)
        return os.getpid()

    def fork(self) -> int:
        """A process that shares all that this one has."""
        pid = os.fork()
        if pid == 0:
            try:
                while os.getppid() != 1:
                    time.sleep(0.05)
            finally:
                os._exit(0)
        self.children.append(pid)
        return pid
