"""A service's calls by the switchboard, and what follows from their answers.

Two things can. A handle turns out to be stale, because the service was deleted and created again: it is opened anew,
and the call is sent again once. Or a call goes well: then a container is there, and it may be time to seek a lane.
"""

from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any

from huterox.codec import decode_result, encode_call
from huterox.connection import Connection
from huterox.core import Call
from huterox.lease import CALL_WAIT_S, left_s
from huterox.leases import Lease
from huterox.routed_futures import RoutedFuture, RoutedStream
from huterox.verbs import decode_opening, encode_opening
from huterox_wire.errors import HuteroxError, NotFound
from huterox_wire.header import Buffer, unpack_header
from huterox_wire.kinds import Kind

_CALL = int(Kind.CALL)
_OPEN = int(Kind.OPEN)


class Routed:
    """The routed way of one service. For all threads."""

    def __init__(self, connection: Connection, lease: Lease) -> None:
        self._connection = connection
        self._core = connection.core
        self._lease = lease

    def call(self, method: str, inputs: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Hot path. Call and wait for the result, then perhaps a little longer for a lane."""
        meta, tensors = encode_call(method, inputs)
        lease = self._lease
        call = self._core.prepare(_CALL, lease.handle, meta, tensors, timeout_s)
        self._connection.run(call)
        try:
            message = call.outcome()
        except NotFound:
            again = self.renew(call)
            if again is None:
                raise
            self._connection.run(again)
            message = again.outcome()
        result = decode_result(message)
        if (now_s := monotonic()) >= lease.seeking.due_s:
            lease.seek(min(CALL_WAIT_S, call.deadline_s - now_s))
        return result

    def submit(self, method: str, inputs: Mapping[str, Any], timeout_s: float) -> RoutedFuture:
        """Hot path. Start a call. Its inputs have been copied when this returns."""
        meta, tensors = encode_call(method, inputs)
        return self._submitted(meta, tensors, timeout_s)

    def stream(self, method: str, inputs: Mapping[str, Any], timeout_s: float) -> RoutedStream:
        """Start a call whose result comes in parts. Its inputs have been copied when this returns."""
        meta, tensors = encode_call(method, inputs)
        return self._streamed(meta, tensors, timeout_s)

    # --- calls that a lane has not done -------------------------------------------------------------------------------

    def submit_again(self, meta: bytes, tensors: Sequence[Buffer], deadline_s: float) -> RoutedFuture:
        """Send a call that was in a lane, with the time it has left. Its bytes have been copied when this returns.

        Args:
            deadline_s: on the monotonic clock.
        """
        return self._submitted(meta, tensors, left_s(deadline_s, monotonic()))

    def stream_again(self, meta: bytes, tensors: Sequence[Buffer], deadline_s: float) -> RoutedStream:
        """The same for a stream."""
        return self._streamed(meta, tensors, left_s(deadline_s, monotonic()))

    def _submitted(self, meta: bytes, tensors: Sequence[Buffer], timeout_s: float) -> RoutedFuture:
        """Hot path."""
        future = RoutedFuture(self._connection, self)
        future.follow(self._prepare_own(meta, tensors, timeout_s, stream=False))
        return future

    def _streamed(self, meta: bytes, tensors: Sequence[Buffer], timeout_s: float) -> RoutedStream:
        return RoutedStream(self._connection, self, self._prepare_own(meta, tensors, timeout_s, stream=True))

    def _prepare_own(self, meta: bytes, tensors: Sequence[Buffer], timeout_s: float, *, stream: bool) -> Call:
        """Hot path. A call that shares no memory with its inputs."""
        call = self._core.prepare(_CALL, self._lease.handle, meta, tensors, timeout_s, stream=stream)
        if len(call.frames) > 1:
            call.frames = [bytes(frame) for frame in call.frames]
        return call

    # --- what follows from answers ------------------------------------------------------------------------------------

    def answered(self) -> None:
        """Hot path. A call has gone well, and nobody waits here: if a lane is due, have it sought."""
        if monotonic() >= self._lease.seeking.due_s:
            self._lease.seek()

    def renew(self, call: Call) -> Call | None:
        """The same call under a new handle, not yet sent. None: the handle was good."""
        opening = self._prepare_open(call)
        self._connection.run(opening)
        return self._renewed(call, opening)

    def renew_later(self, future: RoutedFuture, call: Call, error: NotFound) -> None:
        """The same for a future, without waiting."""
        try:
            opening = self._prepare_open(call)
            future.wait_for(opening)
            self._connection.start(opening, _Renewal(self, future, call, error))
        except HuteroxError as exc:
            future.fail(exc)

    def finish_renewal(self, future: RoutedFuture, call: Call, opening: Call, error: NotFound) -> None:
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
        lease = self._lease
        return self._core.prepare(_OPEN, 0, encode_opening(lease.service, lease.tenant), (), call.timeout_s)

    def _renewed(self, call: Call, opening: Call) -> Call | None:
        handle = decode_opening(opening.outcome()).handle
        if handle == unpack_header(call.frames[0]).handle:
            return None
        self._lease.move(handle)
        return self._core.renew(call, handle, monotonic())


class _Renewal:
    """Owner of the OPEN that a future's stale handle has led to."""

    is_watched = False

    def __init__(self, routed: Routed, future: RoutedFuture, call: Call, error: NotFound) -> None:
        self._routed = routed
        self._future = future
        self._call = call
        self._error = error

    def settle(self, opening: Call) -> None:
        self._routed.finish_renewal(self._future, self._call, opening, self._error)
