"""A virtual container as its caller sees it."""

from typing import Any

from huterox.connection import Connection
from huterox.futures import CallFuture, Stream
from huterox.lease import LaneGone
from huterox.leases import Lease
from huterox.routed import Routed
from huterox.service_base import ServiceBase
from huterox_wire.meta import OpenedMeta


class Service(ServiceBase):
    """One virtual container: call it with named inputs, get named results.

    Inputs are NumPy arrays, torch tensors, bytes and plain values (None, bool, numbers, text, lists, maps). A result
    maps names to NumPy arrays (read-only views over the received bytes: `.copy()` one to change it) and plain values.

    Calls travel through a lane, memory shared with the container, where one can be had: the container is resident, on
    this host, and stays. Otherwise they travel by the switchboard, which finds or makes a container. Nobody needs to
    know; `path` tells. A result that came through a lane lies in the lane's memory until its last view has gone.

    For all threads. Do not change an array while a call with it is under way; `submit` and `stream` have copied their
    inputs when they return, but for memory from `empty`, which they use as it is.
    """

    _lease: Lease

    def __init__(self, connection: Connection, opened: OpenedMeta, timeout_s: float, lease: Lease) -> None:
        super().__init__(opened, timeout_s)
        self._lease = lease
        self._routed = Routed(connection, lease)

    def __call__(self, /, **inputs: Any) -> dict[str, Any]:
        """Hot path. Call `predict` and wait for the result, as long as the client's timeout says."""
        timeout_s = self._timeout_s
        if (lane := self._lease.lane) is not None:
            try:
                return lane.call("predict", inputs, timeout_s)
            except LaneGone as gone:
                timeout_s = self._left_s(lane, gone, timeout_s)
        return self._routed.call("predict", inputs, timeout_s)

    def call(self, method: str = "predict", /, *, timeout: float | None = None, **inputs: Any) -> dict[str, Any]:
        """Hot path. Call a method by name and wait for the result.

        Args:
            timeout: in seconds; None: the client's.
        Raises:
            HuteroxError: whatever ended the call instead, `DeadlineExceeded` at the latest.
        """
        timeout_s = self._timeout_s if timeout is None else timeout
        if (lane := self._lease.lane) is not None:
            try:
                return lane.call(method, inputs, timeout_s)
            except LaneGone as gone:
                timeout_s = self._left_s(lane, gone, timeout_s)
        return self._routed.call(method, inputs, timeout_s)

    def submit(self, method: str = "predict", /, *, timeout: float | None = None, **inputs: Any) -> CallFuture:
        """Hot path. Start a call and return its future at once. Cancelling the future cancels the call.

        Raises:
            Busy: too much is in flight on this connection.
        """
        timeout_s = self._timeout_s if timeout is None else timeout
        if (lane := self._lease.lane) is not None:
            try:
                return lane.submit(method, inputs, timeout_s, self._routed)
            except LaneGone as gone:
                timeout_s = self._left_s(lane, gone, timeout_s)
        return self._routed.submit(method, inputs, timeout_s)

    def stream(self, method: str = "predict", /, *, timeout: float | None = None, **inputs: Any) -> Stream:
        """Start a call whose result comes in parts, and iterate over them as they come.

        Args:
            timeout: in seconds, for the whole stream.
        """
        timeout_s = self._timeout_s if timeout is None else timeout
        if (lane := self._lease.lane) is not None:
            try:
                return lane.stream(method, inputs, timeout_s, self._routed)
            except LaneGone as gone:
                timeout_s = self._left_s(lane, gone, timeout_s)
        return self._routed.stream(method, inputs, timeout_s)
