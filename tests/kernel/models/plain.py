"""Models for the kernel's tests: what a user would write, and what a user would get wrong."""

import atexit
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from huterox_wire.errors import InvalidInput


class Echo:
    """Gives back what it is given."""

    def __init__(self, device: str, offset: int = 0) -> None:
        self.device = device
        self.offset = offset
        self.kept: list[Any] = []
        self.watch: Callable[[], None] = lambda: None

    def predict(self, x: np.ndarray) -> dict[str, Any]:
        return {"x": x, "device": self.device}

    def anything(self, **values: Any) -> dict[str, Any]:
        return values

    def plus(self, x: np.ndarray, by: int = 1) -> np.ndarray:
        return x + (by + self.offset)

    def writable(self, x: np.ndarray) -> bool:
        return x.flags.writeable

    def keep(self, x: np.ndarray) -> int:
        self.kept.append(x[:1])
        return len(self.kept)

    def forget(self) -> float:
        total = float(sum(float(x[0]) for x in self.kept))
        self.kept.clear()
        return total

    def knot(self, x: np.ndarray) -> None:
        knot: list[Any] = [x]
        knot.append(knot)

    def watched(self) -> None:
        self.watch()

    def zeros(self, nbytes: int) -> np.ndarray:
        return np.zeros(nbytes, np.uint8)

    def where(self) -> str:
        return str(Path.cwd())

    def random(self) -> float:
        return float(np.random.random())

    def say(self, text: str, count: int = 1) -> None:
        for _ in range(count):
            print(text)  # noqa: T201 - it is the container's log that is tested

    def say_within(self, text: str, nbytes: int) -> None:
        """As on a full disk: the log may not become longer than this."""
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, limits[1]))
        try:
            self.say(text)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)


class Sees:
    """Tells which device it was given, and which ones CUDA would show it, now and while it was imported."""

    imported_with = os.environ.get("CUDA_VISIBLE_DEVICES")

    def __init__(self, device: str) -> None:
        self.device = device

    def predict(self) -> list[str | None]:
        return [self.device, os.environ.get("CUDA_VISIBLE_DEVICES"), self.imported_with]


class Slow:
    """Takes its time."""

    def predict(self, seconds: float = 0.1) -> float:
        time.sleep(seconds)
        return seconds

    def held(self, go: str, seconds: float = 60.0) -> None:
        """Runs until a file of this name is there."""
        until_s = time.monotonic() + seconds
        while not Path(go).exists() and time.monotonic() < until_s:
            time.sleep(0.005)

    def count(self, parts: int, seconds: float = 0.0) -> Iterator[dict[str, int]]:
        for index in range(parts):
            time.sleep(seconds)
            yield {"index": index}

    def blocks(self, parts: int, nbytes: int) -> Iterator[np.ndarray]:
        for index in range(parts):
            yield np.full(nbytes, index % 256, np.uint8)

    def fail_midway(self, parts: int) -> Iterator[int]:
        yield from range(parts)
        raise RuntimeError("the well ran dry")


class Faulty:
    """Raises, in every way that there is."""

    def predict(self, x: Any = None) -> None:
        raise ValueError("no good")

    def exits(self) -> None:
        raise SystemExit(3)

    def interrupts(self) -> None:
        raise KeyboardInterrupt

    def exhausts(self) -> None:
        raise MemoryError("pretended")

    def recurses(self) -> None:
        self.recurses()

    def raises_at_length(self) -> None:
        raise RuntimeError("x" * 100_000 + "the end")

    def refuses(self) -> None:
        raise InvalidInput("only square images")

    def gives_objects(self) -> np.ndarray:
        return np.array([object()])

    def gives_nested_arrays(self) -> list[np.ndarray]:
        return [np.zeros(1)]

    def gives_odd_names(self) -> dict[Any, Any]:
        return {1: np.zeros(1)}

    async def awaits(self) -> int:
        return 1

    def dies(self) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)

    def leaves(self) -> None:
        os._exit(7)


class NoLoad:
    def __init__(self) -> None:
        raise RuntimeError("weights are missing")


class NeverLoads:
    def __init__(self) -> None:
        time.sleep(60)


class Farewell:
    """Has something to say at its end."""

    def __init__(self) -> None:
        atexit.register(print, "from atexit")

    def __del__(self) -> None:
        print("from the finalizer")  # noqa: T201


class Warm:
    """Ready only after its warm-up."""

    def __init__(self) -> None:
        self.calls = 0

    def warmup(self) -> None:
        self.calls += 1

    def predict(self) -> int:
        return self.calls
