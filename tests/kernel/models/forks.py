"""A model that forks, and whose children come back in every way that there is."""

import ctypes
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


class ForksAtItsEnd:
    """Memory of an array."""

    def __init__(self, model: "Forks") -> None:
        self.model = model
        self.memory = np.arange(4)
        self.__array_interface__ = self.memory.__array_interface__

    def __del__(self) -> None:
        self.model.left_behind = self.model.fork()


class Forks:
    """Each way to fork gives the child's pid; the child does not end itself."""

    def __init__(self, at_load: str = "", past_python: bool = False) -> None:
        """`past_python`: as a library in C forks."""
        self.fork: Callable[[], int] = ctypes.PyDLL(None).fork if past_python else os.fork
        self.left_behind = 0
        self.kept: list[Any] = []
        self.pid_at_load = self.fork() if at_load == "return" else 0
        if at_load == "raise" and not self.fork():
            raise RuntimeError("in the child of a load")

    def predict(self, x: np.ndarray) -> np.ndarray:
        return x + 1

    def returns(self, x: np.ndarray) -> np.ndarray:
        return x * 0 + self.fork()

    def gives(self) -> dict[str, Any]:
        return {"pid": self.fork()}

    def raises(self) -> int:
        if pid := self.fork():
            return pid
        raise ValueError("in the child")

    def exits(self) -> int:
        return self.fork() or sys.exit(0)

    def streams(self) -> Iterator[int]:
        yield self.fork()
        yield self.fork()

    def streams_once(self) -> Iterator[int]:
        yield 0
        if pid := self.fork():
            yield pid

    def allocates(self, *, allocate: Callable[..., Any]) -> np.ndarray:
        pid = self.fork()
        out = allocate((1024,), "int64")
        out[:] = pid
        return out

    def lets_go(self, x: np.ndarray) -> int:
        """The child drops an input that this process keeps, and ends of itself."""
        self.kept.append(x)
        pid = self.fork()
        if not pid:
            self.kept.clear()
            del x
            os._exit(3)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def from_thread(self) -> int:
        pids: list[int] = []
        thread = threading.Thread(target=lambda: pids.append(self.fork()))
        thread.start()
        thread.join()
        return pids[0]

    def grandchild(self) -> int:
        pid = self.fork()
        if not pid:
            self.fork()
        return pid

    def lets_go_of_a_result(self, x: np.ndarray) -> np.ndarray:
        """The fork comes while the worker's own code lets go of the result, between the call and its answer."""
        return np.asarray(ForksAtItsEnd(self))

    def left(self) -> int:
        return self.left_behind

    def odd_result(self) -> Any:
        fork = self.fork

        class Odd(dict):  # type: ignore[type-arg]
            def items(self) -> Any:
                return [("pid", fork())]

            def __iter__(self) -> Any:
                return iter(["pid"])

            def __getitem__(self, name: str) -> Any:
                return fork()

        return Odd(pid=1)

    def works(self, x: np.ndarray) -> float:
        """What `multiprocessing` does with forks goes well, and reads what it has inherited."""
        with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
            return pool.submit(total, x).result(30)

    def wait(self, pid: int) -> int:
        """How a child ended."""
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
