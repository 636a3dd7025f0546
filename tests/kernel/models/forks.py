"""A model that forks, and whose children come back in every way that there is."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np


def total(x: np.ndarray) -> float:
    return float(x.sum())


class Forks:
    """Each way to fork gives the child's pid; the child does not end itself."""

    def __init__(self, at_load: str = "") -> None:
        self.kept: list[Any] = []
        self.pid_at_load = os.fork() if at_load == "return" else 0
        if at_load == "raise" and not os.fork():
            raise RuntimeError("in the child of a load")

    def predict(self, x: np.ndarray) -> np.ndarray:
        return x + 1

    def returns(self, x: np.ndarray) -> np.ndarray:
        """Numbered in a caller's lane: the shortest way of a call."""
        return x * 0 + os.fork()

    def gives(self) -> dict[str, Any]:
        return {"pid": os.fork()}

    def raises(self) -> int:
        if pid := os.fork():
            return pid
        raise ValueError("in the child")

    def exits(self) -> int:
        return os.fork() or sys.exit(0)

    def streams(self) -> Iterator[int]:
        yield os.fork()
        yield os.fork()

    def streams_once(self) -> Iterator[int]:
        yield 0
        if pid := os.fork():
            yield pid

    def allocates(self, *, allocate: Callable[..., Any]) -> np.ndarray:
        pid = os.fork()
        out = allocate((1024,), "int64")
        out[:] = pid
        return out

    def lets_go(self, x: np.ndarray) -> int:
        """The child drops an input that this process keeps, and ends of itself."""
        self.kept.append(x)
        pid = os.fork()
        if not pid:
            self.kept.clear()
            del x
            os._exit(3)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def from_thread(self) -> int:
        pids: list[int] = []
        thread = threading.Thread(target=lambda: pids.append(os.fork()))
        thread.start()
        thread.join()
        return pids[0]

    def grandchild(self) -> int:
        pid = os.fork()
        if not pid:
            os.fork()
        return pid

    def odd_result(self) -> Any:
        class Odd(dict):  # type: ignore[type-arg]
            def items(self) -> Any:
                return [("pid", os.fork())]

            def __iter__(self) -> Any:
                return iter(["pid"])

            def __getitem__(self, name: str) -> Any:
                return os.fork()

        return Odd(pid=1)

    def works(self, x: np.ndarray) -> float:
        """What `multiprocessing` does with forks goes well, and reads what it has inherited."""
        with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
            return pool.submit(total, x).result(30)

    def wait(self, pid: int) -> int:
        """How a child ended."""
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
