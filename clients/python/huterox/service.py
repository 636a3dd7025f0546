"""A virtual container as its caller sees it."""

from collections.abc import Sequence
from time import monotonic
from typing import Any

import numpy as np

from huterox.codec import decode_result, encode_call
from huterox.connection import Connection
from huterox.core import Call
from huterox.futures import CallFuture, Stream
from huterox.memory import empty_aligned
from huterox.verbs import decode_opening, encode_opening
from huterox_wire.errors import HuteroxError, NotFound
from huterox_wire.header import unpack_header
from huterox_wire.kinds import Kind
from huterox_wire.meta import OpenedMeta

_CALL = int(Kind.CALL)
_OPEN = int(Kind.OPEN)


class Service:
    """One virtual container: call it with named inputs, get named results.

    Inputs are NumPy arrays, torch tensors, bytes and plain values (None, bool, numbers, text, lists, maps). A result
    maps names to NumPy arrays (read-only views over the received bytes: `.copy()` one to change it) and plain values.

    For all threads. Do not change an array while a call with it is under way; `submit` and `stream` have copied their
    inputs when they return.
    """

    def __init__(self, connection: Connection, opened: OpenedMeta, timeout_s: float) -> None:
        self._connection = connection
        self._core = connection.core
        self._timeout_s = timeout_s
        self._handle = opened.handle
        self.name = opened.service
        self.tenant = opened.tenant
        self.model = opened.model
        self.tier = opened.tier

    def __repr__(self) -> str:
        return f"<huterox.Service {self.name!r} of tenant {self.tenant!r}, model {self.model!r}, {self.path}>"

    @property
    def path(self) -> str:
        """How calls travel now."""
        return "routed"

    def __call__(self, /, **inputs: Any) -> dict[str, Any]:
        """Hot path. Call `predict` and wait for the result, as long as the client's timeout says."""
        return self._call("predict", self._timeout_s, inputs)

    def call(self, method: str = "predict", /, *, timeout: float | None = None, **inputs: Any) -> dict[str, Any]:
        """Hot path. Call a method by name and wait for the result.

        Args:
            timeout: in seconds; None: the client's.
        Raises:
            HuteroxError: whatever ended the call instead, `DeadlineExceeded` at the latest.
        """
        return self._call(method, self._timeout_s if timeout is None else timeout, inputs)

    def _call(self, method: str, timeout_s: float, inputs: dict[str, Any]) -> dict[str, Any]:
        """Hot path."""
        meta, tensors = encode_call(method, inputs)
        call = self._core.prepare(_CALL, self._handle, meta, tensors, timeout_s)
        self._connection.run(call)
        try:
            message = call.outcome()
        except NotFound:
            again = self.renew(call)
            if again is None:
                raise
            self._connection.run(again)
            message = again.outcome()
        return decode_result(message)

    def submit(self, method: str = "predict", /, *, timeout: float | None = None, **inputs: Any) -> CallFuture:
        """Hot path. Start a call and return its future at once. Cancelling the future cancels the call.

        Raises:
            Busy: too much is in flight on this connection.
        """
        future = CallFuture(self._connection, self)
        future.follow(self._prepare_own(method, inputs, timeout, stream=False))
        return future

    def stream(self, method: str = "predict", /, *, timeout: float | None = None, **inputs: Any) -> Stream:
        """Start a call whose result comes in parts, and iterate over them as they come.

        Args:
            timeout: in seconds, for the whole stream.
        """
        return Stream(self._connection, self, self._prepare_own(method, inputs, timeout, stream=True))

    def empty(self, shape: int | Sequence[int], dtype: Any = "float32") -> np.ndarray[Any, Any]:
        """Memory to fill and to pass to a call: an uninitialised array on a 64-byte boundary."""
        return empty_aligned(shape, dtype)

    def _prepare_own(self, method: str, inputs: dict[str, Any], timeout: float | None, *, stream: bool) -> Call:
        """Hot path. A call that shares no memory with its inputs."""
        meta, tensors = encode_call(method, inputs)
        timeout_s = self._timeout_s if timeout is None else timeout
        call = self._core.prepare(_CALL, self._handle, meta, tensors, timeout_s, stream=stream)
        if len(call.frames) > 1:
            call.frames = [bytes(frame) for frame in call.frames]
        return call

    # --- a handle that has become stale: the service was deleted and created again -----------------------------------

    def renew(self, call: Call) -> Call | None:
        """The same call under a new handle, not yet sent. None: the handle was good."""
        opening = self._prepare_open(call)
        self._connection.run(opening)
        return self._renewed(call, opening)

    def renew_later(self, future: CallFuture, call: Call, error: NotFound) -> None:
        """The same for a future, without waiting."""
        try:
            opening = self._prepare_open(call)
            future.wait_for(opening)
            self._connection.start(opening, _Renewal(self, future, call, error))
        except HuteroxError as exc:
            future.fail(exc)

    def finish_renewal(self, future: CallFuture, call: Call, opening: Call, error: NotFound) -> None:
        """The second half of `renew_later`, once the new handle is known."""
        try:
            again = self._renewed(call, opening)
            if again is None:
                future.fail(error)
            else:
                future.follow(again)
        except HuteroxError as exc:
            future.fail(exc)

    def _prepare_open(self, call: Call) -> Call:
        return self._core.prepare(_OPEN, 0, encode_opening(self.name, self.tenant), (), call.timeout_s)

    def _renewed(self, call: Call, opening: Call) -> Call | None:
        opened = decode_opening(opening.outcome())
        if opened.handle == unpack_header(call.frames[0]).handle:
            return None
        self._handle = opened.handle
        return self._core.renew(call, opened.handle, monotonic())


class _Renewal:
    """Owner of the OPEN that a future's stale handle has led to."""

    def __init__(self, service: Service, future: CallFuture, call: Call, error: NotFound) -> None:
        self._service = service
        self._future = future
        self._call = call
        self._error = error

    def settle(self, opening: Call) -> None:
        self._service.finish_renewal(self._future, self._call, opening, self._error)
