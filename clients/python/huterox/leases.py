"""The lanes of a sync client: one for each service, sought, kept and let go by one thread.

Problem: asking for a lane takes a round trip and a hand-over, which no call should wait for longer than it likes; and a
lane that nobody uses must be let go when its kernel drops it, for its memory lasts as long as the last process that has
it mapped. Idea: one daemon thread, which exists only while there is something to do. It makes one attempt after the
other, and in between it sleeps in a poll of all lanes' connections to their kernels, whose end is the end of the lane.

What a call sees of all this is `Lease.lane`. When to seek is decided in `huterox.lease`. Full: a client holds
`Limits.lanes_max` lanes; further services stay routed. Dead: every attempt is bounded in time; a service without a lane
is routed. After a fork the child has no lanes.
"""

import logging
import os
import select
import threading
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial, wraps
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Concatenate, Final, ParamSpec, TypeVar

from huterox.background import wait_for
from huterox.connection import Connection
from huterox.core import Limits
from huterox.leading import RECOVERIES_MAX, let_go
from huterox.lease import LEASE_S, OPENING_WAIT_S, LaneOptions, Seeking, decode_lease_answer, encode_lease, is_local
from huterox_shm.descriptors import close_all, open_eventfd
from huterox_wire.errors import Busy, HuteroxError
from huterox_wire.kinds import Kind
from huterox_wire.meta import OpenedMeta

if TYPE_CHECKING:
    from huterox.fetching import Fetched
    from huterox.lane import LaneConnection

_LEASE: Final = int(Kind.LEASE)
_LOG: Final = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")


class Lease:
    """A service's lane, or the way to one. Shared by all `Service` objects of the service.

    Attributes:
        handle: what the switchboard calls the service now.
        lane: the lane to call through, None: calls are routed.
        seeking: tells when a routed success should be followed by `seek`.
    """

    __slots__ = ("handle", "lane", "seeking", "service", "tenant", "_leases")

    def __init__(self, leases: "Leases", opened: OpenedMeta) -> None:
        self._leases = leases
        self.service = opened.service
        self.tenant = opened.tenant
        self.handle = opened.handle
        self.lane: LaneConnection | None = None
        self.seeking = Seeking()

    def seek(self, wait_s: float = 0.0, *, opening: bool = False) -> None:
        """Have a lane sought, if that is due, and wait for it a little."""
        self._leases.seek(self, wait_s, opening)

    def let_go(self, lane: "LaneConnection") -> None:
        """No new calls through this lane: it said that it takes none. Those in flight in it go on."""
        self._leases.let_go(self, lane)

    def move(self, handle: int) -> None:
        """The service was deleted and created again: this is the new one, and a lane to the old one has to go."""
        self._leases.move(self, handle)


class _Attempt:
    """One search for a lane. `settled` is released when it has ended."""

    __slots__ = ("lease", "settled")

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.settled = threading.Event()


def _whole(method: Callable[Concatenate["Leases", P], R]) -> Callable[Concatenate["Leases", P], R]:
    """For what a user's thread may be in: whatever interrupts it, nothing is left half done."""

    @wraps(method)
    def run(self: "Leases", /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(self, *args, **kwargs)
        except BaseException:
            self._recover()
            raise

    return run


class Leases:
    """All leases of one client."""

    def __init__(self, connection: Connection, options: LaneOptions, limits: Limits) -> None:
        self._connection = connection
        self._options = options
        self._limits = limits
        self._pid = os.getpid()
        # An interrupted thread may hold it, and must be able to take it and give it back: see `channel`.
        self._lock = threading.RLock()
        # Guarded by the lock.
        self._leases: dict[tuple[str, str], Lease] = {}
        self._attempts: deque[_Attempt] = deque()
        self._lanes: set[LaneConnection] = set()
        self._over: list[LaneConnection] = []  # to be closed
        self._given_up = not options.seek
        self._closed = False
        self._is_closed = False
        self._threads: list[threading.Thread] = []  # one at most
        self._wake_fds: list[int] = []  # one, once there was something to do
        # The thread's own.
        self._poller = select.poll()
        self._watched: dict[int, LaneConnection] = {}
        _LEASES.add(self)
        weakref.finalize(self, _on_gone, os.getpid(), self._threads, self._wake_fds).atexit = False

    @_whole
    def of(self, opened: OpenedMeta) -> Lease:
        """The lease of a service that has just been opened."""
        key = (opened.tenant, opened.service)
        with self._lock:
            lease = self._leases.get(key)
            if lease is None:
                lease = self._leases[key] = Lease(self, opened)
                if self._given_up:
                    lease.seeking.give_up()
        if lease.handle != opened.handle:
            self.move(lease, opened.handle)
        return lease

    def open(self, opened: OpenedMeta, wait_s: float) -> Lease:
        """The same, and where the switchboard is on this host a lane with it, if there is one at once."""
        lease = self.of(opened)
        if is_local(self._connection.endpoint):
            lease.seek(min(wait_s, OPENING_WAIT_S), opening=True)
        return lease

    # --- asked by calls ---------------------------------------------------------------------------------------------

    def seek(self, lease: Lease, wait_s: float, opening: bool) -> None:
        """See `Lease.seek`."""
        attempt = self._begin(lease, opening)
        if attempt is not None and wait_s > 0 and threading.current_thread() not in self._threads:
            attempt.settled.wait(wait_s)

    @_whole
    def _begin(self, lease: Lease, opening: bool) -> _Attempt | None:
        """Begin an attempt, if one is due."""
        with self._lock:
            if self._closed or monotonic() < lease.seeking.due_s:
                return None
            attempt = _Attempt(lease)
            self._attempts.append(attempt)  # first: what is in there is sought, whatever comes
            lease.seeking.begin(opening=opening)
            try:
                self._wake()
            except (OSError, RuntimeError) as exc:  # no descriptors, no threads: a call that went well must not fail
                self._attempts.remove(attempt)
                lease.seeking.refused(exc, monotonic())
                return None
            return attempt

    @_whole
    def let_go(self, lease: Lease, lane: "LaneConnection") -> None:
        """See `Lease.let_go`. Does nothing the second time."""
        with self._lock:
            if lease.lane is lane:
                lease.seeking.lost(monotonic())
                lease.lane = None

    @_whole
    def move(self, lease: Lease, handle: int) -> None:
        """See `Lease.move`."""
        with self._lock:
            lease.handle = handle
            lane = lease.lane
        if lane is not None:
            self.let_go(lease, lane)
            lane.leave()

    @_whole
    def _on_end(self, lease: Lease, lane: "LaneConnection") -> None:
        """A lane is over, with all of its calls. Any thread may tell."""
        self.let_go(lease, lane)
        with self._lock:
            if lane in self._lanes:
                if lane not in self._over:
                    self._over.append(lane)
                self._wake()
                self._lanes.discard(lane)  # last: then it need not be done again

    def _wake(self) -> None:
        """Under the lock. There is something to do. Starts the thread if there is none."""
        if self._closed:
            return
        if not self._wake_fds:
            open_eventfd(self._wake_fds)
        self._poller.register(self._wake_fds[0], select.POLLIN)
        os.eventfd_write(self._wake_fds[0], 1)
        if not self._threads:
            args = (weakref.ref(self), self._wake_fds)
            thread = threading.Thread(target=_run, args=args, name="huterox-lease", daemon=True)
            self._threads.append(thread)
            try:
                thread.start()
            except Exception:
                self._threads.clear()
                raise

    def _recover(self) -> None:
        """A thread of the user's leaves by an exception: what it has begun is gone on with, and the lock is free. A
        second exception that comes meanwhile is passed over."""
        for _ in range(RECOVERIES_MAX):
            try:
                self._go_on()
                let_go(self._lock)
                return
            except BaseException:  # noqa: BLE001 - another interrupt
                continue
        let_go(self._lock)

    def _go_on(self) -> None:
        self._lock.acquire()
        if self._pid == os.getpid() and not self._closed:
            for attempt in self._attempts:
                attempt.lease.seeking.due_s = inf
            if self._threads and not self._threads[0].is_alive():
                self._threads.clear()
            if self._attempts or self._over or self._lanes:
                with suppress(OSError, RuntimeError):
                    self._wake()

    # --- the thread -------------------------------------------------------------------------------------------------

    def turn(self) -> "select.poll | None":
        """Do what there is to do. Returns what to sleep in; None: the thread has ended."""
        while True:
            with self._lock:
                if threading.current_thread() not in self._threads:
                    return None  # whoever started this was interrupted, and has started another
                if self._closed or not (self._attempts or self._over or self._lanes):
                    self._threads.clear()
                    if self._closed:
                        self._close_wake_fd()
                    return None
                attempt = self._attempts.popleft() if self._attempts else None
                over, self._over = self._over, []
            for lane in over:
                self._unwatch(lane)
                lane.close()
            if attempt is not None:
                self._make(attempt)
            elif not over:
                return self._poller

    def notice(self, events: list[tuple[int, int]]) -> None:
        """There is something to do, or a kernel lets go of a lane."""
        for fd, _ in events:
            if fd in self._wake_fds:
                with suppress(BlockingIOError):
                    os.eventfd_read(fd)
            elif (lane := self._watched.pop(fd, None)) is not None:
                self._poller.unregister(fd)
                lane.hang_up()

    def _unwatch(self, lane: "LaneConnection") -> None:
        for fd in [fd for fd, watched in self._watched.items() if watched is lane]:
            del self._watched[fd]
            self._poller.unregister(fd)

    def _make(self, attempt: _Attempt) -> None:
        """Ask for a lane. Whatever happens, `seeking` and whoever waits learn how it ended."""
        lease = attempt.lease
        if lease.lane is not None:
            attempt.settled.set()  # sought twice: whoever began was interrupted
            return
        try:
            self._take(lease, self._fetch(lease.handle))
        except Exception as exc:  # noqa: BLE001 - the thread is needed by other lanes, and calls are routed meanwhile
            if not isinstance(exc, HuteroxError | OSError):
                _LOG.exception("no lane for service %s/%s", lease.tenant, lease.service)
            with self._lock:
                if lease.seeking.refused(exc, monotonic()):
                    self._give_up()
        finally:
            attempt.settled.set()

    def _fetch(self, handle: int) -> "Fetched":
        # Shared memory is imported with the first lane: who does without lanes does without it.
        from huterox.fetching import fetch_lane, host_id

        if len(self._lanes) >= self._limits.lanes_max:
            raise Busy(f"this client holds {self._limits.lanes_max} lanes, which is its limit")
        meta = encode_lease(host_id(), os.getpid(), self._options)
        call = self._connection.core.prepare(_LEASE, handle, meta, (), LEASE_S)
        self._connection.run(call)
        return fetch_lane(decode_lease_answer(call.outcome()), LEASE_S)

    def _take(self, lease: Lease, fetched: "Fetched") -> None:
        """The lane is the lease's from now on, and watched."""
        from huterox.lane import LaneConnection

        lane = LaneConnection(fetched.end, fetched.liveness, self._limits, partial(self._on_end, lease))
        fd = fetched.liveness.fileno()
        self._watched[fd] = lane
        self._poller.register(fd, 0)  # it says nothing: only its end is of interest
        with self._lock:
            late = self._closed
            if not late:
                self._lanes.add(lane)
                lease.seeking.granted(monotonic())
                lease.lane = lane
        if late:
            lane.close()

    def _give_up(self) -> None:
        """Under the lock. No lane will be had here any more."""
        self._given_up = True
        for lease in self._leases.values():
            lease.seeking.give_up()

    # --- the end ----------------------------------------------------------------------------------------------------

    @_whole
    def close(self) -> None:
        """Close all lanes, which ends the calls in them; no attempts from now on. May be called twice, and after a
        fork; a second call finishes one that was interrupted."""
        with self._lock:
            if self._is_closed:
                return
            self._give_up()
            if self._threads:
                self._wake()
            self._closed = True
            for lease in self._leases.values():
                lease.lane = None
            for attempt in self._attempts:
                attempt.settled.set()
            self._attempts.clear()
            lanes = [*self._lanes, *self._over]
        for lane in lanes:
            lane.close()
        with self._lock:
            self._lanes.clear()
            self._over.clear()
            self._is_closed = True

    @_whole
    def join(self) -> None:
        """After `close`, and after the connection's: wait for the thread, then let go of the last descriptor."""
        for thread in list(self._threads):
            wait_for(thread)
        with self._lock:
            if not self._threads:
                self._close_wake_fd()

    def forget(self) -> None:
        """In a forked child: everything belongs to the parent. Its connection refuses the calls that this routes."""
        self._lock = threading.RLock()  # another thread may have held it at the moment of the fork
        self._closed = self._is_closed = True
        self._give_up()
        for lease in self._leases.values():
            lease.lane = None
        for lane in (*self._lanes, *self._over):
            lane.forget()
        self._close_wake_fd()

    def _close_wake_fd(self) -> None:
        close_all(self._wake_fds)


def _run(weakly: "weakref.ref[Leases]", wake_fds: list[int]) -> None:
    """The thread. While it sleeps it keeps nothing alive: a client may be dropped without `close`."""
    while (leases := weakly()) is not None:
        poller = leases.turn()
        del leases
        if poller is None:
            return
        events = poller.poll()
        del poller
        if (leases := weakly()) is not None:
            leases.notice(events)
            del leases
    close_all(wake_fds)


def _on_gone(pid: int, threads: list[threading.Thread], wake_fds: list[int]) -> None:
    """In a garbage collection. Wakes the thread, which ends."""
    if pid != os.getpid():
        return
    if threads and wake_fds:
        os.eventfd_write(wake_fds[0], 1)
    else:
        close_all(wake_fds)


_LEASES: "weakref.WeakSet[Leases]" = weakref.WeakSet()


def _forget_in_child() -> None:
    for leases in list(_LEASES):
        leases.forget()


os.register_at_fork(after_in_child=_forget_in_child)
