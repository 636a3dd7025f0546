"""A virtual container as a coroutine sees it, and the routed way of its calls. Twin of `service` and `routed`."""

import asyncio
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from time import monotonic
from typing import Any

from huterox.async_connection import AsyncConnection
from huterox.async_leases import AsyncLease
from huterox.codec import decode_result, encode_call
from huterox.core import Call, decode_answer
from huterox.futures import Result
from huterox.lease import CALL_WAIT_S, LaneGone, left_s
from huterox.service_base import ServiceBase
from huterox.verbs import decode_opening, encode_opening
from huterox_wire.errors import NotFound
from huterox_wire.header import Buffer, unpack_header
from huterox_wire.kinds import Kind
from huterox_wire.meta import OpenedMeta

_OPEN = int(Kind.OPEN)
_CALL = int(Kind.CALL)


class AsyncService(ServiceBase):
    """One virtual container. `Service` documents inputs, results and lanes; here calls are awaited."""

    _lease: AsyncLease

    def __init__(self, connection: AsyncConnection, opened: OpenedMeta, timeout_s: float, lease: AsyncLease) -> None:
        super().__init__(opened, timeout_s)
        self._lease = lease
        self._routed = AsyncRouted(connection, lease)

    async def __call__(self, /, **inputs: Any) -> Result:
        """Hot path. Call `predict` and wait for the result."""
        timeout_s = self._timeout_s
        if (lane := self._lease.lane) is not None:
            try:
                return await lane.call("predict", inputs, timeout_s)
            except LaneGone as gone:
                timeout_s = self._left_s(lane, gone, timeout_s)
        return await self._routed.call("predict", inputs, timeout_s)

    async def call(self, method: str = "predict", /, *, timeout: float | None = None, **inputs: Any) -> Result:
        """Hot path. Call a method by name and wait for the result. Cancelling the task cancels the call."""
        timeout_s = self._timeout_s if timeout is None else timeout
        if (lane := self._lease.lane) is not None:
            try:
                return await lane.call(method, inputs, timeout_s)
            except LaneGone as gone:
                timeout_s = self._left_s(lane, gone, timeout_s)
        return await self._routed.call(method, inputs, timeout_s)

    def submit(
        self, method: str = "predict", /, *, timeout: float | None = None, **inputs: Any
    ) -> "asyncio.Task[Result]":
        """Start a call as a task of its own. The inputs have been copied when this returns."""
        timeout_s = self._timeout_s if timeout is None else timeout
        if (lane := self._lease.lane) is not None:
            try:
                return lane.submit(method, inputs, timeout_s, self._routed)
            except LaneGone as gone:
                timeout_s = self._left_s(lane, gone, timeout_s)
        return self._routed.submit(method, inputs, timeout_s)

    async def stream(
        self, method: str = "predict", /, *, timeout: float | None = None, **inputs: Any
    ) -> AsyncIterator[Result]:
        """Iterate over the parts of a streamed result as they come. The call starts with the first iteration.

        Args:
            timeout: in seconds, for the whole stream.
        """
        timeout_s = self._timeout_s if timeout is None else timeout
        parts: AsyncGenerator[Result, None] | None = None
        if (lane := self._lease.lane) is not None:
            try:
                parts = lane.stream(method, inputs, timeout_s, self._routed)
            except LaneGone as gone:
                timeout_s = self._left_s(lane, gone, timeout_s)
        async with aclosing(parts or self._routed.stream(method, inputs, timeout_s)) as parts:
            async for part in parts:
                yield part


class AsyncRouted:
    """The routed way of one service. `Routed` tells what follows from answers."""

    def __init__(self, connection: AsyncConnection, lease: AsyncLease) -> None:
        self._connection = connection
        self._core = connection.core
        self._lease = lease

    async def call(self, method: str, inputs: Mapping[str, Any], timeout_s: float) -> Result:
        """Hot path. Call and wait for the result, then perhaps a little longer for a lane."""
        meta, tensors = encode_call(method, inputs)
        call = self._core.prepare(_CALL, self._lease.handle, meta, tensors, timeout_s)
        result = await self._result(call)
        if (now_s := monotonic()) >= self._lease.seeking.due_s:
            await self._lease.wait(min(CALL_WAIT_S, call.deadline_s - now_s))
        return result

    def submit(self, method: str, inputs: Mapping[str, Any], timeout_s: float) -> "asyncio.Task[Result]":
        """Start a call. Its inputs have been copied when this returns."""
        meta, tensors = encode_call(method, inputs)
        call = self._prepare_own(meta, tensors, timeout_s)
        task = asyncio.get_running_loop().create_task(self._own_result(call))
        call.reader = weakref.ref(task)
        return task

    def stream(self, method: str, inputs: Mapping[str, Any], timeout_s: float) -> AsyncGenerator[Result, None]:
        """Parts of a streamed result, as they come. The call starts with the first iteration."""
        meta, tensors = encode_call(method, inputs)
        return self._parts(self._core.prepare(_CALL, self._lease.handle, meta, tensors, timeout_s, stream=True))

    # --- calls that a lane has not done -------------------------------------------------------------------------------

    async def submit_again(self, meta: bytes, tensors: Sequence[Buffer], deadline_s: float) -> Result:
        """Send a call that was in a lane, with the time it has left, and wait for its result."""
        return await self._own_result(self._prepare_own(meta, tensors, left_s(deadline_s, monotonic())))

    def stream_again(self, meta: bytes, tensors: Sequence[Buffer], deadline_s: float) -> AsyncGenerator[Result, None]:
        """The same for a stream. Its bytes have been copied when this returns."""
        return self._parts(self._prepare_own(meta, tensors, left_s(deadline_s, monotonic()), stream=True))

    # --- how a call ends ----------------------------------------------------------------------------------------------

    def _prepare_own(self, meta: bytes, tensors: Sequence[Buffer], timeout_s: float, *, stream: bool = False) -> Call:
        """A call that shares no memory with its inputs."""
        call = self._core.prepare(_CALL, self._lease.handle, meta, tensors, timeout_s, stream=stream)
        call.frames = [bytes(frame) for frame in call.frames]
        return call

    async def _own_result(self, call: Call) -> Result:
        result = await self._result(call)
        self._lease.seek()
        return result

    async def _result(self, call: Call) -> Result:
        """Hot path."""
        try:
            message = await self._connection.run(call)
        except NotFound:
            again = await self._renewed(call)
            if again is None:
                raise
            message = await self._connection.run(again)
        return decode_result(message)

    async def _parts(self, call: Call) -> AsyncGenerator[Result, None]:
        connection = self._connection
        connection.start(call)
        fresh = True
        try:
            while True:
                while not await connection.wait(call):
                    fresh = False
                    yield decode_result(decode_answer(self._core.take_part(call)))
                try:
                    last = decode_result(call.outcome())
                    break
                except NotFound:
                    if not fresh or (again := await self._renewed(call)) is None:
                        raise
                    call, fresh = again, False
                    connection.start(call)
            self._lease.seek()
            if last:
                yield last
        finally:
            connection.cancel(call)

    async def _renewed(self, call: Call) -> Call | None:
        """The same call under a new handle, not yet sent. None: the handle was good."""
        lease = self._lease
        opening = self._core.prepare(_OPEN, 0, encode_opening(lease.service, lease.tenant), (), call.timeout_s)
        opened = decode_opening(await self._connection.run(opening))
        if opened.handle == unpack_header(call.frames[0]).handle:
            return None
        lease.move(opened.handle)
        return self._core.renew(call, opened.handle, self._connection.now_s())
