"""A model that leaves pools of `concurrent.futures` open."""

import os
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

LIVES_S = 60.0  # then tasks end by themselves, should nobody end them


def take_part(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def in_processes(way: str) -> Callable[[], Executor]:
    return lambda: ProcessPoolExecutor(2, mp_context=get_context(way))


class Pools:
    def __init__(self) -> None:
        makers = [lambda: ThreadPoolExecutor(4), *(in_processes(way) for way in ("fork", "spawn", "forkserver"))]
        self.pools = [make() for make in makers]

    def predict(self) -> list[int]:
        """The pids of those that take part."""
        parts = [pool.submit(take_part, 0.05) for pool in self.pools for _ in range(4)]
        return sorted({part.result(LIVES_S) for part in parts})

    def busy(self) -> int:
        """From now on each pool has tasks that do not end."""
        for pool in self.pools:
            for _ in range(4):
                pool.submit(take_part, LIVES_S)
        return os.getpid()
