"""Models for the check of a device: weights on it, and how long it took until they were there.

With the doubles (HUTEROX_TEST_NVML) the weights are a few numbers, and what they would hold is told to the double.
"""

import os
import time

import torch

DOUBLES = "HUTEROX_TEST_NVML" in os.environ
if DOUBLES:
    from cuda import hold
DEVICE = "cpu" if DOUBLES else "cuda"
MIB = 1024 * 1024


class Weights:
    """`mb` MiB of weights, all the same number; a call adds one of them to its input."""

    def __init__(self, mb: int, number: int) -> None:
        begun_s = time.perf_counter()
        torch.zeros(1, device=DEVICE)
        if not DOUBLES:
            torch.cuda.synchronize()
        context_s = time.perf_counter() - begun_s
        count = 1024 if DOUBLES else mb * MIB // 4
        if DOUBLES:
            hold(mb * MIB)
        self._weights = torch.full((count,), float(number), device=DEVICE)
        if not DOUBLES:
            torch.cuda.synchronize()
        self._stages = {"context_s": context_s, "weights_s": time.perf_counter() - begun_s - context_s}

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(DEVICE) + self._weights[-1]

    def stages(self) -> dict[str, float]:
        """How long CUDA's context took, and the weights."""
        return self._stages

    def held(self) -> dict[str, int]:
        """This process, and what torch has taken for it."""
        return {"pid": os.getpid(), "reserved": 0 if DOUBLES else torch.cuda.memory_reserved()}

    def pinned(self, x: torch.Tensor) -> bool:
        """Whether the caller's input lies in pinned memory, by what CUDA says."""
        return bool(x.is_pinned()) if not DOUBLES else False
