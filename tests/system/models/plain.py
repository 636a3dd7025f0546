"""Models for the system tests: plain classes, nothing of Huterox in them."""

import os
import time
from pathlib import Path

import numpy as np


class Echo:
    """Gives back what it got, and who it is."""

    def __init__(self, **params: object) -> None:
        self.params = params

    def predict(self, **inputs: object) -> dict[str, object]:
        return inputs

    def who(self) -> dict[str, object]:
        return {"pid": os.getpid(), "params": self.params}


class Slow:
    """`mark` is a file that appears once the call runs."""

    def predict(self, seconds: float, mark: str = "") -> dict[str, object]:
        if mark:
            Path(mark).touch()
        time.sleep(seconds)
        return {"pid": os.getpid()}

    def crash(self, code: int) -> None:
        os._exit(code)

    def drip(self, mark: str) -> object:
        """Streams for a long time."""
        Path(mark).touch()
        for number in range(3000):
            yield {"number": number}
            time.sleep(0.02)


class PlusOne:
    def predict(self, x: np.ndarray) -> np.ndarray:
        return x + 1


class Counts:
    """A generator streams."""

    def predict(self, count: int) -> object:
        for number in range(count):
            yield {"number": number, "square": np.array(number * number)}


class Strict:
    """Its model file declares inputs."""

    def predict(self, image: np.ndarray, scale: float = 1.0) -> dict[str, object]:
        return {"mean": float(image.mean()) * scale}


class BreaksAtLoad:
    def __init__(self) -> None:
        raise RuntimeError("the weights are cursed")


class BreaksAtCall:
    def predict(self, x: int) -> int:
        return 1 // x


class Doubles:
    """A torch tensor in, the same tensor doubled out."""

    def predict(self, x: "torch.Tensor") -> object:  # type: ignore[name-defined]  # noqa: F821
        return x * 2
