"""Lanes of callers: promised, handed over, watched, ended, counted.

The kernel makes a lane and gives it to both sides, the caller over the hand-over socket and the worker over its control
socket. Then calls pass it by: what it keeps is a watch, to end the lane, and the connection, to see the caller's end.
What a lane did the worker counts in the container's ledger, which no caller can write.

    caller gone, lane broken, container draining ─▶ the worker lets go ─▶ the last counts are added up, the slot is free
    container gone ─▶ all its lanes are dead, and their callers hear of it
"""

import os
import socket
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable, Collection, Sequence
from typing import Final, NamedTuple

from msgspec import Struct

from huterox_kernel.core.events import Asked, Event, LaneBroke, LanesDrained
from huterox_kernel.core.hangs import Sight
from huterox_kernel.core.leases import CONTAINER_LANES_MAX, Lane, LeaseTable, Phase
from huterox_kernel.shell.guard import Guard
from huterox_kernel.shell.handover import Connection, Handover
from huterox_kernel.shell.link import Link
from huterox_kernel.worker.control import AddLane, ControlError, DrainLanes, DropLane, LaneBroken, LaneDropped
from huterox_shm.errors import ShmError, TooManyTokens
from huterox_shm.lane import LaneConfig, LaneWatch, create_lane
from huterox_shm.ledger import Ledger, create_ledger
from huterox_wire.errors import Busy, HuteroxError, Unavailable
from huterox_wire.kinds import Kind
from huterox_wire.leases import LaneGranted, LeasedMeta, LeaseOrderMeta, decode_hello, encode_granted
from huterox_wire.message import encode
from huterox_wire.meta import encode_meta, error_meta
from huterox_wire.nodes import LaneUsage

Post = Callable[[int, Struct, Sequence[int]], None]
"""Sends a packet to a container's worker; the descriptors stay the giver's. Raises OSError."""


class LanesReport(NamedTuple):
    """What is told of a container's callers' lanes."""

    lane_count: int  # of those that have a caller
    call_count: int  # in flight
    usage: list[LaneUsage]
    services: list[int]  # whose callers these are, each once


NO_LANES: Final = LanesReport(0, 0, [], [])


class _Held(NamedTuple):
    """What the kernel holds of a lane that has a caller."""

    watch: LaneWatch
    connection: Connection


class Leases:
    """All callers' lanes of a kernel.

    Args:
        sock: where lanes are fetched, listening; None: callers have no lanes.
        uids: users who may have lanes, beside root and the kernel's own.
        feed: takes events for the core.
    """

    def __init__(
        self,
        loop: AbstractEventLoop,
        link: Link,
        table: LeaseTable,
        sock: socket.socket | None,
        uids: Collection[int],
        post: Post,
        feed: Callable[[Event], None],
    ) -> None:
        self._link = link
        self._table = table
        self._post = post
        self._feed = feed
        self._path = sock.getsockname() if sock is not None else ""
        self._handover = Handover(loop, sock, uids, self._on_hello, self._on_hangup) if sock is not None else None
        self._guard = Guard(loop, self._on_stuffed)
        self._ledgers: dict[int, Ledger] = {}
        self._held: dict[int, _Held] = {}  # by lane
        self._fetched: dict[Connection, Lane] = {}

    def start(self) -> None:
        """Serve the hand-over socket from now on."""
        if self._handover is not None:
            self._handover.start()

    def look(self) -> None:
        """See to it that callers find the hand-over socket."""
        if self._handover is not None:
            self._handover.look()

    def close(self) -> None:
        """At the kernel's end: all lanes are dead."""
        for container in list(self._ledgers):
            self.end(container)
        if self._handover is not None:
            self._handover.close()
        self._guard.close()

    # Containers.

    def open(self, container: int) -> int:
        """Make a container's ledger. The descriptor returned is for the worker; the giver closes it.

        Raises:
            LaneFull, OSError: the system has no memory or descriptors for it.
        """
        theirs = create_ledger(CONTAINER_LANES_MAX)
        try:
            self._ledgers[container] = Ledger.attach(os.dup(theirs))
        except BaseException:
            os.close(theirs)
            raise
        self._table.open(container)
        return theirs

    def admit(self, container: int) -> None:
        """Callers may have lanes from now on."""
        self._table.admit(container)

    def refuse(self, container: int) -> None:
        """No new lanes; those that are there go on."""
        self._table.refuse(container)

    def drain(self, container: int) -> None:
        """No new lanes, and no new calls in those that are there; `LanesDrained` comes when the last has gone."""
        draining = self._table.drain(container)
        for lane in draining:
            self._held[lane.lane].watch.drain()
        if draining:
            self._post(container, DrainLanes(), ())
        self._tell_if_drained(container)

    def drain_service(self, container: int, service: int) -> None:
        """No lanes for this service any more, and no new calls in those that it has; other services' go on."""
        draining = self._table.drain_service(container, service)
        for lane in draining:
            self._held[lane.lane].watch.drain()
        if draining:
            self._post(container, DrainLanes([lane.lane for lane in draining]), ())

    def report(self, container: int) -> LanesReport:
        """What the container's lanes are and did, until now; the final truth once its process has ended."""
        usage = self._table.usage(container)
        if usage is None:
            return NO_LANES
        ledger = self._ledgers[container]
        counted = [(lane, ledger.read(lane.slot)) for lane in self._table.lanes(container)]
        open_lanes = [lane for lane, _ in counted if lane.phase is not Phase.ENDED]
        return LanesReport(
            len(open_lanes),
            sum(max(0, counts.calls_taken - counts.calls_done) for _, counts in counted),
            usage.report([(lane.service, counts) for lane, counts in counted], time.monotonic_ns() // 1000),
            list(dict.fromkeys(lane.service for lane in open_lanes)),
        )

    def sights(self, container: int) -> list[Sight]:
        """What is seen from outside of how the worker serves its callers' lanes."""
        if (ledger := self._ledgers.get(container)) is None:
            return []
        sights = []
        for lane in self._table.lanes(container):
            counts, held = ledger.read(lane.slot), self._held.get(lane.lane)
            moved = counts.calls_taken + counts.calls_done + counts.activity_us
            unheard = held is not None and held.watch.is_unheard()
            sights.append(Sight(ledger.running_until(lane.slot), moved, unheard, True))
        return sights

    def discard(self, container: int) -> None:
        """The container has ended, and what its lanes did has been read for the last time; callers hear by `end`."""
        ledger = self._ledgers.pop(container, None)
        if ledger is not None:
            ledger.close()

    def end(self, container: int) -> None:
        """The container's lanes are over."""
        self.discard(container)
        for lane in self._table.close(container):
            self._part(lane)
            self._guard.let_go(lane.lane)

    # From a caller's wish to its lane.

    def promise(self, order: LeaseOrderMeta, asked: Asked) -> None:
        """Answer a LEASE."""
        try:
            if self._handover is None:
                raise Unavailable("this kernel gives callers no lanes", reason="off")
            token = self._table.promise(order, time.monotonic())
            meta = encode_meta(LeasedMeta(self._path, token, order.container))
        except TooManyTokens as exc:
            self.refuse_asked(asked, Busy(f"too many callers want lanes: {exc}", reason="full"))
        except HuteroxError as exc:
            self.refuse_asked(asked, exc)
        else:
            self._link.send_frames(asked.route, encode(Kind.REPLY, asked.request_id, asked.handle, 0, meta))

    def refuse_asked(self, asked: Asked, error: HuteroxError) -> None:
        """Answer a LEASE with an error."""
        self._link.send_frames(asked.route, encode(Kind.ERROR, asked.request_id, asked.handle, 0, error_meta(error)))

    def _on_hello(self, connection: Connection, packet: bytes) -> None:
        assert self._handover is not None
        try:
            lane = self._table.redeem(decode_hello(packet).token, time.monotonic())
        except HuteroxError as exc:
            self._handover.refuse(connection, exc)
            return
        try:
            self._make(lane, connection)
        except (ShmError, OSError, ValueError) as exc:
            self._table.let_go(lane)
            self._handover.refuse(connection, Unavailable(f"no lane can be made: {exc}", reason="full"))

    def _make(self, lane: Lane, connection: Connection) -> None:
        """Raises ShmError, OSError, ValueError: there is no lane, and nobody has heard of it."""
        assert self._handover is not None
        self._ledgers[lane.container].clear(lane.slot)
        descriptors = create_lane(LaneConfig(lane.ring_entries, lane.half_nbytes, lane.half_nbytes), lane.lane)
        try:
            watch = LaneWatch.attach(descriptors.duplicate())
            try:
                self._post(lane.container, AddLane(lane.lane, lane.slot, lane.title), descriptors)
            except BaseException:
                watch.close()
                raise
            self._held[lane.lane] = _Held(watch, connection)
            self._guard.add(lane.lane, watch)
            self._fetched[connection] = lane
            try:
                packet = encode_granted(LaneGranted(lane.container, lane.lane))
                self._handover.grant(connection, packet, descriptors)
            except (ShmError, OSError):  # the caller has gone already; the worker may have heard of the lane
                self._drop(lane)
        finally:
            descriptors.close()

    # A lane's end.

    def _on_hangup(self, connection: Connection) -> None:
        """The caller has gone, or said more than it may."""
        self._drop(self._fetched[connection])

    def _on_stuffed(self, number: int) -> None:
        """Somebody hung in this lane's doorbell, or would have."""
        lane = next((lane for lane in self._fetched.values() if lane.lane == number), None)
        if lane is not None:
            self._feed(LaneBroke(lane.container, f"{lane.title}: its caller has stuffed a doorbell"))
            self._drop(lane)

    def _drop(self, lane: Lane) -> None:
        """End a lane, and have the worker let go of it."""
        if self._table.end(lane):
            self._part(lane)
            self._post(lane.container, DropLane(lane.lane), ())

    def _part(self, lane: Lane) -> None:
        """Let go of what the kernel holds of a lane; both sides hear that it is over.

        The watch stays with the guard until the worker has let go as well, and rings there no more.
        """
        held = self._held.pop(lane.lane, None)
        if held is None:
            return
        held.watch.mark_dead()
        self._fetched.pop(held.connection, None)
        if self._handover is not None:
            self._handover.end(held.connection)

    def on_worker(self, container: int, message: LaneBroken | LaneDropped) -> None:
        """What a worker says of a lane. Raises ControlError: it has no such lane."""
        lane = self._table.find(container, message.lane)
        if lane is None:
            raise ControlError(f"it speaks of lane {message.lane}, which it does not have")
        if self._table.end(lane):
            self._part(lane)
        if isinstance(message, LaneBroken):
            self._feed(LaneBroke(container, f"{lane.title}: {message.reason}"))
            return
        usage = self._table.usage(container)
        assert usage is not None
        usage.add(lane.service, self._ledgers[container].read(lane.slot))
        self._table.let_go(lane)
        self._guard.let_go(lane.lane)
        self._tell_if_drained(container)

    def _tell_if_drained(self, container: int) -> None:
        if self._table.is_drained(container):
            self._feed(LanesDrained(container))
