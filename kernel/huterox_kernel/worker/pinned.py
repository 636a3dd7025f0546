"""Lanes as pinned memory: on a GPU node a copy to the device is then one DMA from where the caller wrote the tensor.

Problem: the driver knows registered memory by its address and keeps its pages. A lane that is unmapped while it is
registered leaves pages behind that nobody can use, and whatever is mapped at that address next passes for pinned.
So a lane is registered when it comes, and unregistered before it is let go of; where that fails it stays mapped.

Pinned pages must not be taken away, so all pages of the lane are reserved first, and neither end trims it from then on
(`set_pinned`). That is real memory: lanes above a limit stay pageable, and so does every lane where the driver or the
system refuses. A copy from there is slower, and that is all: CUDA's runtime remembers a refusal, and the next kernel
that the model launches would be blamed for it, so it is made to forget.

It has not run on a real device yet: the tests play CUDA's part (docs/gpu.md).
"""

import sys
from typing import Any, Final

from huterox_shm.errors import LaneFull
from huterox_shm.lane import ContainerEnd

PINNED_NBYTES_MAX: Final = 256 * 1024 * 1024
"""Of one lane, header, rings and both halves. 2 halves of `lease_half_mb`; larger lanes stay pageable."""

ALL_NBYTES_MAX: Final = 4 * PINNED_NBYTES_MAX
"""Of all lanes of a worker together."""


class Pinned:
    """The registered lanes of this process.

    Args:
        cudart: CUDA's runtime, as `torch.cuda.cudart()` gives it; None: torch's, once this process has initialised it.
    """

    def __init__(self, cudart: Any | None = None) -> None:
        self._cudart = cudart
        self._nbytes: dict[ContainerEnd, int] = {}
        self._stuck: list[memoryview] = []  # could not be unregistered: their addresses must not be used again

    def pin(self, lane: ContainerEnd) -> str:
        """Register a lane's segment, where this process uses CUDA.

        Returns:
            Why the lane is not pinned; empty if it is.
        """
        if (cudart := self._runtime()) is None:
            return "this process does not use CUDA"
        nbytes = lane.layout.segment_nbytes
        if nbytes > PINNED_NBYTES_MAX:
            return f"the lane has {nbytes} bytes; at most {PINNED_NBYTES_MAX} are pinned"
        if nbytes + sum(self._nbytes.values()) > ALL_NBYTES_MAX:
            return f"other lanes are pinned; at most {ALL_NBYTES_MAX} bytes are"
        try:
            lane.reserve_all()
        except (LaneFull, OSError) as exc:
            return str(exc)
        if code := int(cudart.cudaHostRegister(lane.address, nbytes, 0)):
            forget_error(cudart)
            return f"cudaHostRegister: error {code}"
        self._nbytes[lane] = nbytes
        lane.set_pinned()
        return ""

    def unpin(self, lane: ContainerEnd) -> None:
        """Unregister a lane that is about to be let go of. Copies that are under way are waited for by the driver."""
        if self._nbytes.pop(lane, None) is None or (cudart := self._runtime()) is None:
            return
        if int(cudart.cudaHostUnregister(lane.address)):
            forget_error(cudart)
            self._stuck.append(lane.readable)

    def _runtime(self) -> Any | None:
        if self._cudart is None:
            torch = sys.modules.get("torch")
            if torch is None or not torch.cuda.is_initialized():
                return None
            self._cudart = torch.cuda.cudart()
        return self._cudart


def forget_error(cudart: Any) -> None:
    """Have CUDA's runtime forget the last error of this thread.

    Torch's module lacks the function for it, so it is called in the library that torch has loaded, in each of them if
    there are several: the error is remembered by one.
    """
    if (get_last_error := getattr(cudart, "cudaGetLastError", None)) is not None:
        get_last_error()
        return
    import ctypes  # late: only workers that use CUDA need it

    for path in _mapped("libcudart"):
        ctypes.CDLL(path).cudaGetLastError()


def _mapped(name: str) -> set[str]:
    """Paths of the libraries in this process whose file name begins so, or is followed by a hash as wheels do it."""
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:  # noqa: PTH123 - Path is slower
        paths = {line.split(maxsplit=5)[5].rstrip("\n") for line in maps if "/" in line}
    paths = {path.removesuffix(" (deleted)") for path in paths}
    return {path for path in paths if path.rpartition("/")[2].startswith(name)}
