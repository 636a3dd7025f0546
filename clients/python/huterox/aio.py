"""The asyncio shell: the same client with awaitables, for one event loop. Works on any loop that has `add_reader`."""

import asyncio
import os
from collections.abc import Generator, Mapping
from os import PathLike
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any

from huterox.async_connection import AsyncConnection
from huterox.async_leases import AsyncLeases
from huterox.client import CONNECT_S_MAX
from huterox.core import Limits
from huterox.endpoint import check_listening, find_endpoint, no_switchboard
from huterox.lease import LaneOptions, lane_limits, lane_options
from huterox.modelfile import read_model
from huterox.pages import EventPages, Pages
from huterox.verbs import (
    Row,
    decode_admin,
    decode_opening,
    encode_admin,
    encode_opening,
)
from huterox_wire.errors import DeadlineExceeded
from huterox_wire.kinds import Kind

if TYPE_CHECKING:
    from huterox.async_service import AsyncService

_OPEN = int(Kind.OPEN)
_ADMIN = int(Kind.ADMIN)


def aconnect(
    endpoint: str | None = None,
    *,
    tenant: str | None = None,
    timeout: float = 60.0,
    lanes: bool = True,
    lane_mb: int | None = None,
    when_full: str = "wait",
) -> "AsyncClient":
    """Connect to a switchboard: `async with huterox.aconnect() as client`, or `client = await huterox.aconnect()`.

    Arguments and errors are those of `connect`; an event loop never looks before it sleeps.
    """
    endpoint = find_endpoint(endpoint)
    limits = lane_limits(when_full)
    options = lane_options(lanes, lane_mb, os.environ.get("HUTEROX_LANES", ""))
    return AsyncClient(endpoint, tenant=tenant, timeout=timeout, limits=limits, lanes=options)


class AsyncClient:
    """A connection to a switchboard for one event loop. `Client` documents the verbs; here they are awaited."""

    def __init__(
        self,
        endpoint: str,
        *,
        tenant: str | None = None,
        timeout: float = 60.0,
        limits: Limits | None = None,
        lanes: LaneOptions | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.tenant = tenant or ""
        self.timeout_s = timeout
        self._limits = limits or Limits()
        self._options = lanes or LaneOptions()
        self._opened: AsyncConnection | None = None
        self._leases: AsyncLeases | None = None

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
        if self._opened is not None:
            return self
        check_listening(self.endpoint)
        loop = asyncio.get_running_loop()
        self._opened = AsyncConnection(self.endpoint, self._limits, loop)
        self._leases = AsyncLeases(self._opened, self._options, self._limits, loop)
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
        if self._opened is not None and self._leases is not None:
            self._leases.close()
            self._opened.close()
            await self._leases.join()

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
        # NumPy is imported with the first service: the operator's verbs do without it.
        from huterox.async_service import AsyncService

        meta = encode_opening(name, self.tenant if tenant is None else tenant)
        call = self._connection.core.prepare(_OPEN, 0, meta, (), self.timeout_s)
        opened = decode_opening(await self._connection.run(call))
        assert self._leases is not None  # as is the connection
        return AsyncService(self._connection, opened, self.timeout_s, await self._leases.open(opened, self.timeout_s))

    async def create(
        self,
        name: str,
        *,
        model: str,
        tier: str = "shared",
        lend: bool = False,
        in_flight_max: int | None = None,
        info: Mapping[str, str] | None = None,
        tenant: str | None = None,
    ) -> Row:
        return await self._row(
            "create",
            name=name,
            model=model,
            tier=tier,
            lend=lend or None,
            in_flight_max=in_flight_max,
            info=dict(info) if info else None,
            tenant=self.tenant if tenant is None else tenant,
        )

    async def delete(self, name: str, *, tenant: str | None = None) -> Row:
        return await self._row("delete", name=name, tenant=self.tenant if tenant is None else tenant)

    async def services(self, *, tenant: str | None = None) -> list[Row]:
        return await self._rows("services", tenant=tenant)

    async def pin(self, name: str, *, tenant: str | None = None) -> Row:
        return await self._row("pin", name=name, tenant=self.tenant if tenant is None else tenant)

    async def unpin(self, name: str, *, tenant: str | None = None) -> Row:
        return await self._row("unpin", name=name, tenant=self.tenant if tenant is None else tenant)

    async def usage(self, *, by: str = "tenant", tenant: str | None = None) -> list[Row]:
        return await self._rows("usage", by=by, tenant=tenant)

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
        pages = EventPages(after, limit, self.timeout_s, monotonic())
        return await self._collected("events", pages, subject=subject)

    async def evict(self, container: str) -> Row:
        return await self._row("evict", container=container)

    async def drain(self, node: str) -> Row:
        return await self._row("drain", name=node)

    async def resume(self, node: str) -> Row:
        return await self._row("resume", name=node)

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
        return await self._collected(verb, Pages(self.timeout_s, monotonic()), **args)

    async def _collected(self, verb: str, pages: Pages, **args: Any) -> list[Row]:
        while pages.where is not None:
            pages.take(await self.admin(verb, timeout=pages.left_s(monotonic()), **args, **pages.where))
        return pages.rows
