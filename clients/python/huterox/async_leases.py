"""The lanes of an asyncio client: one for each service, sought in tasks of their own. Twin of `huterox.leases`.

The hand-over waits for a kernel, so it happens in a thread of the loop's executor; everything else in the loop. A lane
watches its connection to the kernel itself.
"""

import asyncio
import logging
import os
import weakref
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from huterox.async_connection import AsyncConnection
from huterox.core import Limits
from huterox.lease import (
    LEASE_S,
    OPENING_WAIT_S,
    LaneOptions,
    Seeking,
    decode_lease_answer,
    encode_lease,
    is_local,
)
from huterox_wire.errors import Busy, HuteroxError
from huterox_wire.kinds import Kind
from huterox_wire.meta import OpenedMeta

if TYPE_CHECKING:
    from huterox.async_lane import AsyncLane
    from huterox.fetching import Fetched

_LEASE: Final = int(Kind.LEASE)
_LOG: Final = logging.getLogger(__name__)


class AsyncLease:
    """A service's lane, or the way to one. See `Lease`."""

    __slots__ = ("handle", "lane", "seeking", "service", "tenant", "_leases")

    def __init__(self, leases: "AsyncLeases", opened: OpenedMeta) -> None:
        self._leases = leases
        self.service = opened.service
        self.tenant = opened.tenant
        self.handle = opened.handle
        self.lane: AsyncLane | None = None
        self.seeking = Seeking()

    def seek(self) -> None:
        """Have a lane sought, if that is due."""
        self._leases.seek(self, opening=False)

    async def wait(self, wait_s: float) -> None:
        """The same, and wait for it a little."""
        await self._leases.wait(self, wait_s, opening=False)

    def let_go(self, lane: "AsyncLane") -> None:
        """No new calls through this lane: it said that it takes none. Those in flight in it go on."""
        self._leases.let_go(self, lane)

    def move(self, handle: int) -> None:
        """The service was deleted and created again: this is the new one, and a lane to the old one has to go."""
        self._leases.move(self, handle)


class AsyncLeases:
    """All leases of one client, in its loop's thread."""

    def __init__(
        self, connection: AsyncConnection, options: LaneOptions, limits: Limits, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._connection = connection
        self._options = options
        self._limits = limits
        self._loop = loop
        self._leases: dict[tuple[str, str], AsyncLease] = {}
        self._lanes: set[AsyncLane] = set()
        self._attempts: set[asyncio.Task[None]] = set()
        self._given_up = not options.seek
        self._closed = False
        _LEASES.add(self)

    async def open(self, opened: OpenedMeta, wait_s: float) -> AsyncLease:
        """The lease of a service that has just been opened, and a lane with it, if there is one at once."""
        key = (opened.tenant, opened.service)
        lease = self._leases.get(key)
        if lease is None:
            lease = self._leases[key] = AsyncLease(self, opened)
            if self._given_up:
                lease.seeking.give_up()
        if lease.handle != opened.handle:
            self.move(lease, opened.handle)
        if is_local(self._connection.endpoint):
            await self.wait(lease, min(wait_s, OPENING_WAIT_S), opening=True)
        return lease

    # --- asked by calls ---------------------------------------------------------------------------------------------

    def seek(self, lease: AsyncLease, *, opening: bool) -> "asyncio.Task[None] | None":
        """Begin an attempt, if one is due."""
        if self._closed or monotonic() < lease.seeking.due_s:
            return None
        lease.seeking.begin(opening=opening)
        attempt = self._loop.create_task(self._make(lease))
        self._attempts.add(attempt)
        attempt.add_done_callback(self._attempts.discard)
        return attempt

    async def wait(self, lease: AsyncLease, wait_s: float, *, opening: bool) -> None:
        """Begin an attempt, if one is due, and wait for its end for so long."""
        attempt = self.seek(lease, opening=opening)
        if attempt is not None:
            await asyncio.wait({attempt}, timeout=wait_s)

    def let_go(self, lease: AsyncLease, lane: "AsyncLane") -> None:
        """See `AsyncLease.let_go`. Does nothing the second time."""
        if lease.lane is lane:
            lease.lane = None
            lease.seeking.lost(monotonic())

    def move(self, lease: AsyncLease, handle: int) -> None:
        """See `AsyncLease.move`."""
        lease.handle = handle
        if (lane := lease.lane) is not None:
            self.let_go(lease, lane)
            lane.leave()

    def _on_end(self, lease: AsyncLease, lane: "AsyncLane") -> None:
        """A lane is over, with all of its calls."""
        self.let_go(lease, lane)
        if lane in self._lanes:
            self._lanes.discard(lane)
            self._loop.call_soon(lane.close)

    # --- one attempt --------------------------------------------------------------------------------------------------

    async def _make(self, lease: AsyncLease) -> None:
        """Ask for a lane. Whatever happens, `seeking` learns how it ended."""
        try:
            self._take(lease, await self._fetch(lease.handle))
        except Exception as exc:  # noqa: BLE001 - nobody awaits this for its result: calls are routed meanwhile
            if not isinstance(exc, HuteroxError | OSError):
                _LOG.exception("no lane for service %s/%s", lease.tenant, lease.service)
            if lease.seeking.refused(exc, monotonic()):
                self._give_up()

    async def _fetch(self, handle: int) -> "Fetched":
        # Shared memory is imported with the first lane: who does without lanes does without it.
        from huterox.fetching import fetch_lane, host_id

        if len(self._lanes) >= self._limits.lanes_max:
            raise Busy(f"this client holds {self._limits.lanes_max} lanes, which is its limit")
        meta = encode_lease(host_id(), os.getpid(), self._options)
        message = await self._connection.run(self._connection.core.prepare(_LEASE, handle, meta, (), LEASE_S))
        handover: asyncio.Future[Fetched] = self._loop.run_in_executor(
            None, fetch_lane, decode_lease_answer(message), LEASE_S
        )
        try:
            return await asyncio.shield(handover)
        except asyncio.CancelledError:
            handover.add_done_callback(_close_late)
            raise

    def _take(self, lease: AsyncLease, fetched: "Fetched") -> None:
        """The lane is the lease's from now on."""
        from huterox.async_lane import AsyncLane

        if self._closed:
            fetched.close()
            return
        lane = AsyncLane(fetched.end, fetched.liveness, self._limits, partial(self._on_end, lease), self._loop)
        self._lanes.add(lane)
        lease.seeking.granted(monotonic())
        lease.lane = lane

    def _give_up(self) -> None:
        """No lane will be had here any more."""
        self._given_up = True
        for lease in self._leases.values():
            lease.seeking.give_up()

    # --- the end ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close all lanes, which ends the calls in them; no attempts from now on."""
        lanes = list(self._lanes)
        self._drop()
        for lane in lanes:
            lane.close()

    async def join(self) -> None:
        """After `close`, and after the connection's: wait for attempts that are under way."""
        if self._attempts:
            await asyncio.wait(self._attempts)

    def forget(self) -> None:
        """In a forked child: everything belongs to the parent. Its connection refuses the calls that this routes."""
        lanes = list(self._lanes)
        self._drop()
        for lane in lanes:
            lane.forget()

    def _drop(self) -> None:
        self._closed = True
        self._give_up()
        self._lanes.clear()
        for lease in self._leases.values():
            lease.lane = None


def _close_late(handover: "asyncio.Future[Any]") -> None:
    """Nobody wants this lane any more."""
    if not handover.cancelled() and handover.exception() is None:
        handover.result().close()


_LEASES: "weakref.WeakSet[AsyncLeases]" = weakref.WeakSet()


def _forget_in_child() -> None:
    for leases in list(_LEASES):
        leases.forget()


os.register_at_fork(after_in_child=_forget_in_child)
