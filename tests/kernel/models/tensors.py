"""Models that take and give torch tensors."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch


class Tensors:
    def predict(self, x: torch.Tensor) -> dict[str, Any]:
        return {"y": x + 1, "dtype": str(x.dtype), "contiguous": x.is_contiguous()}

    def by_text(self, x: "torch.Tensor") -> str:
        return type(x).__name__

    def optional(self, x: torch.Tensor | None = None) -> str:
        return type(x).__name__

    def array(self, x: np.ndarray) -> str:
        return type(x).__name__

    def half(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(torch.bfloat16)

    def needs_grad(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.Parameter(x.clone())

    def address(self, x: torch.Tensor) -> int:
        return x.data_ptr()

    def keep(self, x: torch.Tensor) -> None:
        self.kept = x[1:]

    def forget(self) -> float:
        total = float(self.kept.sum())
        del self.kept
        return total

    def threads(self) -> int:
        return torch.get_num_threads()

    def threads_at_work(self) -> dict[str, Any]:
        """What is told to libraries, what torch makes of it, and whether its work was done in one thread."""
        torch.mm(torch.ones(600, 600), torch.ones(600, 600))
        return {
            "told": int(os.environ["OMP_NUM_THREADS"]),
            "torch": torch.get_num_threads(),
            "one": len(list(Path("/proc/self/task").iterdir())) == 1,
        }

    def allocated(self, x: torch.Tensor, *, allocate: Any) -> torch.Tensor:
        result = allocate(x.shape, x.dtype)
        torch.logical_or(x, torch.tensor(True), out=result)
        self.last_address = result.data_ptr()
        return result

    def allocated_view(self, x: torch.Tensor, kind: str, *, allocate: Any) -> torch.Tensor:
        result = allocate(x.shape, x.dtype)
        result.copy_(x)
        return {
            "transposed": lambda: result.T,
            "part": lambda: result[:1],
            "conjugated": lambda: result.conj(),
            "numpy": lambda: torch.from_numpy(result.numpy()),
        }[kind]()

    def odd(self, *, allocate: Any) -> str:
        return str(allocate(3, torch.quint8))
