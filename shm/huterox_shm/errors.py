"""What shared memory can refuse, all at once. Shells translate these at their edge."""


class ShmError(Exception):
    """Root of everything that this package raises on purpose."""


class LaneFull(ShmError):
    """No block or no ring entry is free now. Nothing was written; it may fit once the peer has released something."""


class LaneTooSmall(ShmError):
    """A block of this size can never fit into this half of the lane."""

    def __init__(self, need: int, limit: int) -> None:
        super().__init__(f"a block of {need} bytes; the largest that this half of the lane can hold has {limit}")
        self.need = need
        self.limit = limit


class LaneDead(ShmError):
    """The lane is dead or closed: nothing more will come, and nothing that is written is read."""


class LaneDraining(LaneDead):
    """The lane takes no new calls; those in flight still end. To a new call that is as good as dead."""


class PeerProtocolError(ShmError):
    """The peer wrote what no honest peer writes. The lane has been marked dead and must be closed."""


class HandoverError(ShmError):
    """Descriptors did not arrive as they should: none, too many, cut off, or with a payload over the limit."""


class TooManyTokens(ShmError):
    """As many one-time tokens are outstanding as may be."""
