"""The route: the frame in front of every message between the switchboard and a kernel.

 0 container u64   8 number u64   16 identity of the caller, at most 64 bytes

The switchboard gives each call, and each question that it passes on, a number that it never gives again. The kernel
sends the route back as it came: the number tells an answer from a late one to an earlier call of the same caller that
bore the same request id. A control message has an empty route.
"""

import struct
from typing import Final

ROUTE: Final = struct.Struct("<QQ")
ROUTE_NBYTES: Final = ROUTE.size

CONTAINER: Final = slice(0, 8)
"""Where a route names the container."""

NUMBER: Final = slice(8, 16)
"""Where it has the number of the call."""

CALLER: Final = slice(16, None)
"""Where it has the caller's identity."""


def pack_route(container: int, number: int, caller: bytes) -> bytes:
    """Hot path. The route of one call, or of one question."""
    return ROUTE.pack(container, number) + caller
