"""The asyncio shell: the same client with awaitables, for one event loop. Works on any loop that has `add_reader`."""

import asyncio
from collections.abc import AsyncIterator, Generator, Mapping, Sequence
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any

from huterox.async_connection import AsyncConnection
from huterox.client import CONNECT_S_MAX
from huterox.core import Call, Limits
from huterox.endpoint import check_listening, find_endpoint, no_switchboard
from huterox.modelfile import read_model
from huterox.verbs import (
    Row,
    decode_admin,
    decode_opening,
    encode_admin,
    encode_opening,
    usage_rows,
)
from huterox_wire.errors import DeadlineExceeded, NotFound
from huterox_wire.header import unpack_header
from huterox_wire.kinds import Kind
from huterox_wire.meta import OpenedMeta

if TYPE_CHECKING:
    import numpy as np

_OPEN = int(Kind.OPEN)
_CALL = int(Kind.CALL)
_ADMIN = int(Kind.ADMIN)


def aconnect(endpoint: str | None = None, *, tenant: str | None = None, timeout: float = 60.0) -> "AsyncClient":
    """Connect to a switchboard: `async with huterox.aconnect() as client`, or `client = await huterox.aconnect()`.

    Arguments and errors are those of `connect`.
    """
    return AsyncClient(find_endpoint(endpoint), tenant=tenant, timeout=timeout)


class AsyncClient:
    """A connection to a switchboard for one event loop. `Client` documents the verbs; here they are awaited."""

    def __init__(
        self, endpoint: str, *, tenant: str | None = None, timeout: float = 60.0, limits: Limits | None = None
    ) -> None:
        self.endpoint = endpoint
        self.tenant = tenant or ""
        self.timeout_s = timeout
        self._limits = limits or Limits()
        self._opened: AsyncConnection | None = None

    def __repr__(self) -> str:
        return f"<huterox.AsyncClient of {self.endpoint}, tenant {self.tenant or 'default'!r}>"

    def __await__(self) -> Generator[Any, None, "AsyncClient"]:
        return self._connect().__await__()

    async def __aenter__(self) -> "AsyncClient":
        return await self._connect()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _connect(self) -> "AsyncClient":
        check_listening(self.endpoint)
        self._opened = AsyncConnection(self.endpoint, self._limits, asyncio.get_running_loop())
        try:
            await self.check_answering()
        except BaseException:
            await self.close()
            raise
        return self

    @property
    def _connection(self) -> AsyncConnection:
        if self._opened is None:
            raise RuntimeError("not connected: use `async with huterox.aconnect(...)` or await it")
        return self._opened

    async def close(self) -> None:
        """Cancel what is under way and disconnect."""
        if self._opened is not None:
            self._opened.close()

    async def check_answering(self) -> None:
        """Raise Unavailable unless the switchboard answers soon."""
        timeout_s = min(self.timeout_s, CONNECT_S_MAX)
        try:
            await self.admin("status", timeout=timeout_s)
        except DeadlineExceeded as exc:
            raise no_switchboard(self.endpoint, f"silent for {timeout_s:g} s") from exc

    # --- services -----------------------------------------------------------------------------------------------------

    async def service(self, name: str, *, tenant: str | None = None) -> "AsyncService":
        """The virtual container of this name, to be called."""
        meta = encode_opening(name, self.tenant if tenant is None else tenant)
        call = self._connection.core.prepare(_OPEN, 0, meta, (), self.timeout_s)
        return AsyncService(self._connection, decode_opening(await self._connection.run(call)), self.timeout_s)

    async def create(self, name: str, *, model: str, tier: str = "shared", tenant: str | None = None) -> Row:
        tenant = self.tenant if tenant is None else tenant
        return await self._row("create", name=name, model=model, tier=tier, tenant=tenant)

    async def delete(self, name: str, *, tenant: str | None = None) -> Row:
        return await self._row("delete", name=name, tenant=self.tenant if tenant is None else tenant)

    async def services(self, *, tenant: str | None = None) -> list[Row]:
        return await self._rows("services", tenant=tenant)

    async def usage(self, *, tenant: str | None = None) -> list[Row]:
        return usage_rows(await self.services(tenant=tenant))

    # --- models -------------------------------------------------------------------------------------------------------

    async def deploy(self, model: str | PathLike[str] | Mapping[str, Any]) -> Row:
        return await self._row("deploy", model=read_model(model))

    async def undeploy(self, name: str, *, force: bool = False) -> Row:
        return await self._row("undeploy", name=name, force=force)

    async def models(self) -> list[Row]:
        return await self._rows("models")

    # --- the operator's view and hand ---------------------------------------------------------------------------------

    async def status(self) -> Row:
        return await self._row("status")

    async def containers(self) -> list[Row]:
        return await self._rows("ps")

    async def nodes(self) -> list[Row]:
        return await self._rows("nodes")

    async def events(self, *, after: int = 0, limit: int = 1000, subject: str | None = None) -> list[Row]:
        events: list[Row] = (await self._row("events", after=after, limit=limit, subject=subject))["events"]
        return events

    async def evict(self, container: str) -> Row:
        return await self._row("evict", container=container)

    async def logs(self, name: str, *, offset: int = -65536, limit: int = 65536, tenant: str | None = None) -> Row:
        tenant = self.tenant if tenant is None else tenant
        return await self._row("logs", name=name, tenant=tenant, offset=offset, limit=limit)

    async def admin(self, verb: str, /, *, timeout: float | None = None, **args: Any) -> Any:
        timeout_s = self.timeout_s if timeout is None else timeout
        call = self._connection.core.prepare(_ADMIN, 0, encode_admin(verb, args), (), timeout_s)
        return decode_admin(await self._connection.run(call))

    async def _row(self, verb: str, **args: Any) -> Row:
        row: Row = await self.admin(verb, **args)
        return row

    async def _rows(self, verb: str, **args: Any) -> list[Row]:
        rows: list[Row] = await self.admin(verb, **args)
        return rows


class AsyncService:
    """One virtual container. `Service` documents inputs and results; here calls are awaited."""

    def __init__(self, connection: AsyncConnection, opened: OpenedMeta, timeout_s: float) -> None:
        # NumPy is imported with the first service: the operator's verbs do without it.
        from huterox.codec import decode_result, encode_call

        self._encode_call = encode_call
        self._decode_result = decode_result
        self._connection = connection
        self._timeout_s = timeout_s
        self._handle = opened.handle
        self.name = opened.service
        self.tenant = opened.tenant
        self.model = opened.model
        self.tier = opened.tier

    def __repr__(self) -> str:
        return f"<huterox.AsyncService {self.name!r} of tenant {self.tenant!r}, model {self.model!r}, {self.path}>"

    @property
    def path(self) -> str:
        """How calls travel now."""
        return "routed"

    async def __call__(self, /, **inputs: Any) -> dict[str, Any]:
        """Call `predict` and wait for the result."""
        return await self._result(self._prepare("predict", inputs, None, stream=False))

    async def call(self, method: str = "predict", /, *, timeout: float | None = None, **inputs: Any) -> dict[str, Any]:
        """Hot path. Call a method by name and wait for the result. Cancelling the task cancels the call."""
        return await self._result(self._prepare(method, inputs, timeout, stream=False))

    def submit(
        self, method: str = "predict", /, *, timeout: float | None = None, **inputs: Any
    ) -> "asyncio.Task[dict[str, Any]]":
        """Start a call as a task of its own. The inputs have been copied when this returns."""
        call = self._prepare(method, inputs, timeout, stream=False)
        call.frames = [bytes(frame) for frame in call.frames]
        return asyncio.get_running_loop().create_task(self._result(call))

    async def stream(
        self, method: str = "predict", /, *, timeout: float | None = None, **inputs: Any
    ) -> AsyncIterator[dict[str, Any]]:
        """Iterate over the parts of a streamed result as they come. The call starts with the first iteration.

        Args:
            timeout: in seconds, for the whole stream.
        """
        connection = self._connection
        call = self._prepare(method, inputs, timeout, stream=True)
        connection.start(call)
        fresh = True
        try:
            while True:
                while not await connection.wait(call):
                    fresh = False
                    yield self._decode_result(call.take_part())
                try:
                    last = self._decode_result(call.outcome())
                    break
                except NotFound:
                    if not fresh or (again := await self._renewed(call)) is None:
                        raise
                    call, fresh = again, False
                    connection.start(call)
            if last:
                yield last
        finally:
            connection.cancel(call)

    def empty(self, shape: int | Sequence[int], dtype: Any = "float32") -> "np.ndarray[Any, Any]":
        """Memory to fill and to pass to a call: an uninitialised array on a 64-byte boundary."""
        from huterox.memory import empty_aligned

        return empty_aligned(shape, dtype)

    def _prepare(self, method: str, inputs: dict[str, Any], timeout: float | None, *, stream: bool) -> Call:
        """Hot path."""
        meta, tensors = self._encode_call(method, inputs)
        timeout_s = self._timeout_s if timeout is None else timeout
        return self._connection.core.prepare(_CALL, self._handle, meta, tensors, timeout_s, stream=stream)

    async def _result(self, call: Call) -> dict[str, Any]:
        """Hot path."""
        try:
            message = await self._connection.run(call)
        except NotFound:
            again = await self._renewed(call)
            if again is None:
                raise
            message = await self._connection.run(again)
        return self._decode_result(message)

    async def _renewed(self, call: Call) -> Call | None:
        """The same call under a new handle, not yet sent. None: the handle was good."""
        core = self._connection.core
        opening = core.prepare(_OPEN, 0, encode_opening(self.name, self.tenant), (), call.timeout_s)
        opened = decode_opening(await self._connection.run(opening))
        if opened.handle == unpack_header(call.frames[0]).handle:
            return None
        self._handle = opened.handle
        return core.renew(call, opened.handle, self._connection.now_s())
