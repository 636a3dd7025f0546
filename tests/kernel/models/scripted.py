"""Writes the TorchScript files that the tests load. TorchScript reads its source, so it stands in a file."""

import warnings
from pathlib import Path

import torch


class Module(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("state", torch.zeros(1))
        self.dropout = torch.nn.Dropout(0.9)

    def forward(self, x: torch.Tensor, scale: float = 2.0) -> torch.Tensor:
        return self.dropout(x) * scale

    @torch.jit.export
    def pair(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x + y, x - y

    @torch.jit.export
    def named(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"twice": x * 2}

    @torch.jit.export
    def count(self) -> torch.Tensor:
        self.state += 1
        return self.state

    @torch.jit.export
    def fails(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(-1, 7)


def save(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Module()).save(str(path))
