"""What a message is for (`Kind`), and how it is laid out or answered (`Flag`)."""

from enum import IntEnum, IntFlag


class Kind(IntEnum):
    """The fourth byte of every header."""

    # Between a caller and the switchboard.
    OPEN = 1  # name and tenant of a virtual container -> its handle
    CALL = 2
    PART = 3  # one piece of a streamed reply
    REPLY = 4  # the end of a call that went well
    ERROR = 5  # the end of a call that did not
    CANCEL = 6
    LEASE = 7  # asks for a lane
    ADMIN = 8  # one verb of the operator's

    # Between the switchboard and a kernel.
    REGISTER = 16
    HEARTBEAT = 17
    CREATE = 18
    CLOSE = 19
    SWAP_OUT = 20
    SWAP_IN = 21
    EVENT = 22
    DRAIN = 23  # ends the lanes of a container's callers


class Flag(IntFlag):
    """Bits of the header's `flags`. Bits that are not named here must be zero."""

    NONE = 0
    PACKED = 1  # header, meta and tensors share one frame
    STREAM = 2  # CALL: the caller takes PARTs


FLAGS_KNOWN = int(Flag.PACKED | Flag.STREAM)
