"""What the suite needs of CUDA, by torch. A double of it is enough to run the suite without a device."""

from typing import Any

from huterox_bench.errors import BenchError


class Cuda:
    """One device. Tensors are of bytes."""

    def __init__(self) -> None:
        """Raises BenchError: no torch, or no device."""
        try:
            import torch
        except ImportError as exc:
            raise BenchError(f"copies to a device are torch's: {exc}") from exc
        if not torch.cuda.is_available():
            raise BenchError("torch sees no CUDA device here")
        self.torch: Any = torch
        torch.zeros(1, device="cuda")

    def on_device(self, nbytes: int) -> Any:
        """Uninitialised memory of the device."""
        return self.torch.empty(nbytes, dtype=self.torch.uint8, device="cuda")

    def pinned(self, nbytes: int) -> Any:
        """Host memory that torch has pinned."""
        return self.torch.empty(nbytes, dtype=self.torch.uint8, pin_memory=True)

    def wait(self) -> None:
        """Until the device has done all that it was told."""
        self.torch.cuda.synchronize()

    def cudart(self) -> Any:
        """CUDA's runtime."""
        return self.torch.cuda.cudart()
