"""Lanes as pinned memory: on a GPU node a copy to the device is then one DMA from where the caller wrote the tensor.

Registered once, when the lane comes; never unregistered, for the registration ends with the process. Pinned pages must
not be taken away, so all pages of the lane are reserved first, and neither end trims it from then on (`set_pinned`).
That is real memory: lanes above a limit stay pageable, and so does every lane where the driver or the system refuses
(LimitMEMLOCK). A copy from there is slower, and that is all.

It has not run on a real device yet: the tests play CUDA's part.
"""

import sys
from typing import Any, Final

from huterox_shm.errors import LaneFull
from huterox_shm.lane import ContainerEnd

PINNED_NBYTES_MAX: Final = 256 * 1024 * 1024
"""Of one lane, header, rings and both halves. 2 halves of `lease_half_mb`; larger lanes stay pageable."""


def pin(lane: ContainerEnd, cudart: Any | None = None) -> str:
    """Register a lane's segment, where this process uses CUDA.

    Args:
        cudart: CUDA's runtime, as `torch.cuda.cudart()` gives it; None: torch's, if this process has initialised it.
    Returns:
        Why the lane is not pinned; empty if it is.
    """
    if cudart is None and (cudart := _cudart()) is None:
        return "this process does not use CUDA"
    nbytes = lane.layout.segment_nbytes
    if nbytes > PINNED_NBYTES_MAX:
        return f"the lane has {nbytes} bytes; at most {PINNED_NBYTES_MAX} are pinned"
    try:
        lane.reserve_all()
    except LaneFull as exc:
        return str(exc)
    code = cudart.cudaHostRegister(lane.address, nbytes, 0)
    if int(code):
        return f"cudaHostRegister: error {int(code)}"
    lane.set_pinned()
    return ""


def _cudart() -> Any | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return torch.cuda.cudart()
