"""What `Service` and `AsyncService` have in common: all but the calls."""

from collections.abc import Sequence
from time import monotonic
from typing import Any, Protocol

import numpy as np

from huterox.lease import LaneGone
from huterox.memory import empty_aligned
from huterox_wire.errors import Busy
from huterox_wire.meta import OpenedMeta


class Lane(Protocol):
    """A lane, sync or async, as far as no call is concerned."""

    @property
    def open(self) -> bool: ...

    def empty(self, shape: int | Sequence[int], dtype: Any) -> np.ndarray[Any, Any]: ...


class ServiceBase:
    """One virtual container and the way to it. The subclass keeps its lease, and calls."""

    _lease: Any

    def __init__(self, opened: OpenedMeta, timeout_s: float) -> None:
        self._timeout_s = float(timeout_s) if type(timeout_s) is int else timeout_s  # a lane checks others anew
        self.name = opened.service
        self.tenant = opened.tenant
        self.model = opened.model
        self.tier = opened.tier

    def __repr__(self) -> str:
        kind = type(self).__name__
        return f"<huterox.{kind} {self.name!r} of tenant {self.tenant!r}, model {self.model!r}, {self.path}>"

    @property
    def path(self) -> str:
        """How calls travel now: "lane" or "routed"."""
        lane: Lane | None = self._lease.lane
        return "lane" if lane is not None and lane.open else "routed"

    def empty(self, shape: int | Sequence[int], dtype: Any = "float32") -> np.ndarray[Any, Any]:
        """Memory to fill and to pass to calls: an uninitialised array on a 64-byte boundary.

        It is the lane's own memory where there is a lane and it has room: then a call with it copies nothing.
        """
        lane: Lane | None = self._lease.lane
        if lane is not None:
            try:
                return lane.empty(shape, dtype)
            except (LaneGone, Busy):
                pass
        return empty_aligned(shape, dtype)

    def _left_s(self, lane: Lane, gone: LaneGone, timeout_s: float) -> float:
        """The lane has not done a call: the time that is left for the routed way."""
        if not lane.open:
            self._lease.let_go(lane)
        return gone.left_s(timeout_s, monotonic())
