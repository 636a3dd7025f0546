"""Doubles of CUDA: what a worker asks of its runtime itself, a device that is host memory, and memory that is held.

What a process holds of the double's device is a file, so that `pynvml.py` beside this shows it, and what is late in
coming back after the process has ended.
"""

import os
from pathlib import Path
from typing import Any

HOST_MEMORY_ALREADY_REGISTERED = 712
HOST_MEMORY_NOT_REGISTERED = 713
INVALID_VALUE = 1
PAGE_NBYTES = 4096


class Cudart:
    """As `torch.cuda.cudart()` is: functions that return an error's number, and remember it."""

    def __init__(self, register_code: int = 0) -> None:
        self.register_code = register_code
        self.unregister_code = 0
        self.registered: dict[int, int] = {}
        self.last_error = 0

    def cudaHostRegister(self, address: int, nbytes: int, flags: int) -> int:
        if self.register_code:
            return self._fail(self.register_code)
        if not nbytes or address % PAGE_NBYTES or nbytes % PAGE_NBYTES or flags:
            return self._fail(INVALID_VALUE)
        if any(begin < address + nbytes and address < begin + size for begin, size in self.registered.items()):
            return self._fail(HOST_MEMORY_ALREADY_REGISTERED)
        self.registered[address] = nbytes
        return 0

    def cudaHostUnregister(self, address: int) -> int:
        if self.unregister_code:
            return self._fail(self.unregister_code)
        if self.registered.pop(address, None) is None:
            return self._fail(HOST_MEMORY_NOT_REGISTERED)
        return 0

    def cudaGetLastError(self) -> int:
        code, self.last_error = self.last_error, 0
        return code

    def _fail(self, code: int) -> int:
        self.last_error = code
        return code


class Cuda:
    """The device of `huterox bench device`: memory of the host, told apart by nothing."""

    def __init__(self) -> None:
        import torch

        self.torch = torch
        self._cudart = Cudart()

    def on_device(self, nbytes: int) -> Any:
        return self.torch.zeros(nbytes, dtype=self.torch.uint8)

    pinned = on_device

    def wait(self) -> None:
        pass

    def cudart(self) -> Cudart:
        return self._cudart


def hold(nbytes: int) -> None:
    """This process holds so much of the first device from now on."""
    folder = Path(os.environ["HUTEROX_TEST_NVML"] + ".held")
    folder.mkdir(exist_ok=True)
    new = folder / f".{os.getpid()}"
    new.write_text(str(nbytes))
    new.replace(folder / str(os.getpid()))
