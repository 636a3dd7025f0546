"""The sync shell of a lane: many threads call one container through shared memory.

It is a `Channel` (see there for who reads and who sleeps) whose answers come by an eventfd. That one is
level-triggered, so nothing is read on suspicion.

A wake-up of the container costs more than a small call. So while the container has work, submitted calls are shown to
it in batches: when enough are queued, when somebody waits for an answer, or by the background thread a tick later.

The end: the container drains or dies (the lane's state says so, and its doorbell rings), or the kernel does (the
liveness socket hangs up). Calls that the container had not touched go elsewhere, by `LaneGone` to a waiting caller and
by the future itself otherwise; the others end as WorkerLost.
"""

import os
import select
import socket
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from threading import get_ident
from time import monotonic, monotonic_ns
from typing import Any, Final

import numpy as np

from huterox.channel import Channel
from huterox.core import Limits
from huterox.lane_call import Answer, LaneCall
from huterox.lane_core import LaneCore, drop_lane
from huterox.lane_futures import LaneFuture, LaneStream, Router
from huterox.lease import LaneGone
from huterox_shm.errors import LaneDead, LaneFull, PeerProtocolError, ShmError
from huterox_shm.lane import DEAD, CallerEnd
from huterox_shm.spinning import Spinner
from huterox_wire.errors import HuteroxError

_QUEUED_MAX: Final = 16
"""So many calls are shown to a container that has work; one that has none sees the first at once."""

_CLEAN: Final = (ShmError, LaneGone, HuteroxError)
"""What a call that was not published raises."""

_ROOM_LOOK_S: Final = 0.05

_RESTLESS_NS: Final = 1_000_000
"""Who sleeps over an answer for longer than this can wait for the interpreter as well."""

_sleepers: dict["LaneConnection", int] = {}
"""The lanes of this process whose leader sleeps, and since when."""


def _is_any_restless(now_ns: int) -> bool:
    """Whether a thread sleeps that will soon want the interpreter, which a look would keep from it."""
    return any(now_ns - begun_ns < _RESTLESS_NS for begun_ns in tuple(_sleepers.values()))


class LaneConnection(Channel[LaneCall]):
    """One lane, for all threads of this process.

    Args:
        end: taken over, and closed by `close`.
        liveness: the kernel's connection for this lane, taken over.
        on_end: told once, in any thread, when the lane is over and no call is in flight in it. The lane's lock is held:
            it must not call back, and has `close` called later.
    """

    core: LaneCore
    _clean = _CLEAN

    def __init__(
        self, end: CallerEnd, liveness: socket.socket, limits: Limits, on_end: Callable[["LaneConnection"], None]
    ) -> None:
        weakref.finalize(self, drop_lane, end, liveness).atexit = False
        self._end = end
        self._liveness = liveness
        self._waits = limits.lane_waits
        self._spinner = Spinner(limits.lane_spin_us)
        self._ends = (end,)
        self._on_end: Callable[[LaneConnection], None] | None = on_end
        self._rooms: list[LaneCall] = []  # waited for by those whose call found no room
        super().__init__(LaneCore(end, limits))
        self._publish = self.core.publish
        self._errand = self._background.errand
        self._restless = self.core.watched  # a result may be dropped while the container waits for its room

    # --- calls ------------------------------------------------------------------------------------------------------

    @property
    def open(self) -> bool:
        """Whether new calls are taken."""
        return self.core.open

    def call(self, method: str, inputs: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Hot path. Call and wait for the result.

        Raises:
            LaneGone: the call has not happened, and is for another way.
            HuteroxError: what ended it instead.
        """
        call = LaneCall()
        try:
            self._run(call, method, inputs, timeout_s)
        except BaseException:
            self._recover(call)
            raise
        return self.core.outcome(call)

    def _run(self, call: LaneCall, method: str, inputs: Mapping[str, Any], timeout_s: float) -> None:
        """Hot path."""
        try:
            with self._lock:
                if self._torn:
                    self._enter_torn()
                self._torn = True
                try:
                    self._publish(call, method, inputs, timeout_s, monotonic())
                    self.core.flush()
                except _CLEAN:
                    self._torn = False
                    raise
                self._unread = False
                lead = not self._led
                if lead:
                    self._led = get_ident()
                    self._polled_for = call
                self._torn = False
        except _CLEAN as exc:
            self._start_later(exc, call, method, inputs, timeout_s)
            lead = False
        self._stay(call, lead)

    def submit(self, method: str, inputs: Mapping[str, Any], timeout_s: float, router: Router) -> LaneFuture:
        """Hot path. Start a call. `router` takes it up should the container end without having touched it.

        Raises:
            LaneGone, HuteroxError: it has not been started.
        """
        future = LaneFuture(self, router)
        try:
            self._submit(future, method, inputs, timeout_s)
        except BaseException:
            self._recover(future)
            raise
        return future

    def _submit(self, future: LaneFuture, method: str, inputs: Mapping[str, Any], timeout_s: float) -> None:
        """Hot path."""
        lock = self._lock
        lock.acquire()  # a with statement costs twice as much
        if self._torn:
            self._enter_torn()
        self._torn = True
        full = None
        try:
            core = self.core
            self._publish(future, method, inputs, timeout_s, monotonic())
            queued = core.queued_count
            if queued >= _QUEUED_MAX or len(self._end.calls) == queued:
                core.flush()
            if self._background.is_resting:
                self._background.look_after()
        except _CLEAN as exc:
            full = exc
        self._torn = False
        lock.release()
        if full is not None:
            self._start_later(full, future, method, inputs, timeout_s)

    def stream(self, method: str, inputs: Mapping[str, Any], timeout_s: float, router: Router) -> LaneStream:
        """Start a call whose result comes in parts. Raises as `submit`."""
        call = LaneCall()
        call.parts = deque()
        call.keeps_request = True
        stream = LaneStream(self, call, router)
        try:
            self._start_now_or_later(call, method, inputs, timeout_s)
        except BaseException:
            self._recover(call)
            raise
        return stream

    def _start_now_or_later(self, call: LaneCall, method: str, inputs: Mapping[str, Any], timeout_s: float) -> None:
        try:
            self._start(call, method, inputs, timeout_s)
        except ShmError as exc:
            self._start_later(exc, call, method, inputs, timeout_s)

    def _start(self, call: LaneCall, method: str, inputs: Mapping[str, Any], timeout_s: float) -> None:
        """Publish a call that somebody waits for later."""
        with self._section:
            self._publish(call, method, inputs, timeout_s, monotonic())
            self.core.flush()
            self._background.look_after()

    def own(self, call: LaneCall, owner: Any) -> bool:
        """Have `owner` told of the call's end. False: it has ended, and nobody else is told."""
        if self._pid != os.getpid():  # nobody reads here
            call.error = call.error if call.ended else self._forked()
            call.ended = True
            return False
        try:
            with self._section:
                call.foreign = call.foreign or get_ident() != self._main
                call.owner = None if call.ended else owner
                return not call.ended
        except BaseException:
            self._recover()
            raise

    def take_part(self, call: LaneCall) -> Answer:
        """The next part of a streamed reply, which is there."""
        try:
            with self._section:
                return self.core.take_part(call)
        except BaseException:
            self._recover()
            raise

    def empty(self, shape: int | Sequence[int], dtype: Any) -> np.ndarray[Any, Any]:
        """See `LaneCore.empty`."""
        try:
            with self._section:
                return self.core.empty(shape, dtype)
        except BaseException:
            self._recover()
            raise

    def _start_later(
        self, exc: Exception, call: LaneCall, method: str, inputs: Mapping[str, Any], timeout_s: float
    ) -> None:
        """A call that could not be started at once: wait for room, as long as its time lasts; or say why not."""
        if not isinstance(exc, ShmError):
            raise exc
        until_s = monotonic() + timeout_s
        while True:
            if isinstance(exc, LaneDead | PeerProtocolError):
                self._look(is_mad=isinstance(exc, PeerProtocolError))
                if call.ended:  # it was in the ring already, and has been told its end
                    return
                raise LaneGone() from exc
            if not isinstance(exc, LaneFull):
                raise exc
            left_s = until_s - monotonic()
            if not self._waits or left_s <= 0:
                raise self.core.full(exc) from None
            self._wait_for_room(min(until_s, monotonic() + _ROOM_LOOK_S))
            try:
                self._start(call, method, inputs, max(until_s - monotonic(), 1e-6))
                return
            except ShmError as again:
                exc = again

    def _wait_for_room(self, until_s: float) -> None:
        """Until an answer has come, which gives a place and perhaps a block back; a dropped array rings no bell."""
        room = LaneCall()
        try:
            with self._section:
                self._rooms.append(room)
            self.wait(room, until_s)
            self._leave_room(room)
        except BaseException:
            self._recover()
            self._leave_room(room)
            raise

    def _leave_room(self, room: LaneCall) -> None:
        with self._section:
            if room in self._rooms:
                self._rooms.remove(room)

    # --- the channel's hooks ----------------------------------------------------------------------------------------

    def _register_descriptors(self, poller: "select.poll") -> None:
        poller.register(self._end.fileno(), select.POLLIN)
        poller.register(self._liveness.fileno(), 0)

    def _poll(self, wait_s: float) -> None:
        """Hot path. Look, where no other thread of this process is kept from running by that, or sleep."""
        begun_ns = monotonic_ns()
        if (
            not (self._followers or (_sleepers and _is_any_restless(begun_ns)) or self._polled_for is self._errand)
            and self._spinner.look(self._ends, begun_ns)
        ):  # fmt: skip
            return
        _sleepers[self] = begun_ns
        try:
            super()._poll(wait_s)
        finally:
            _sleepers.pop(self, None)
        self._spinner.slept(begun_ns)

    def _read_if_any(self) -> None:
        self._unread = False

    def _read(self) -> None:
        """Hot path."""
        self._reads += 1
        self._unread = False
        core = self.core
        try:
            if core.queued_count:
                core.flush()
            news = core.take()
            if (core.dropped or self._end.releases_pending > core.releases_max) and self._end.calls:
                core.tell_releases()
        except LaneDead:
            self._lose(graceful=True)
            return
        except PeerProtocolError:
            self._lose(graceful=False)
            return
        if news:
            if self._rooms:
                self._tell_rooms()
            self._tell_news()
        if not self._end.calls and not core.open:
            self._lose(graceful=True)

    def _tell_rooms(self) -> None:
        for room in self._rooms:
            room.ended = True
            self._tell(room)
        self._rooms.clear()

    def _lose(self, graceful: bool) -> None:
        """The lane is over: end what is in flight. Under the lock."""
        if self._on_end is None:
            return
        self.core.lose(graceful)
        self._tell_rooms()
        self._tell_news()
        self._on_end(self)
        self._on_end = None

    def _give_back(self, call: LaneCall | None) -> None:
        if self._led == get_ident():
            _sleepers.pop(self, None)
        super()._give_back(call)

    def _mend_core(self) -> None:
        with suppress(ShmError):  # the lane is over, or mad: `_read` says so
            self.core.mend()
        self._read()

    def _send_cancel(self, call: LaneCall) -> None:
        if call.call_id:
            self.core.send_cancel(call)

    def _look(self, is_mad: bool = False) -> None:
        """Take in what there is, without waiting for more. `is_mad`: the container wrote nonsense, so that is all."""
        try:
            with self._section:
                if not self.core.closed:
                    if is_mad:
                        self.core.queued_count = 0  # nothing more is shown to it
                    self._read()
                    if is_mad:
                        self._lose(graceful=False)
            if self._ended:
                self.settle_ended()
        except BaseException:
            self._recover()
            raise

    def leave(self) -> None:
        """Take no new calls; the lane is over when those in flight have ended. Any thread, any number of times."""
        self.core.leave()
        self._look()

    def hang_up(self) -> None:
        """The kernel has closed its side: the lane is over. Any thread, any number of times."""
        try:
            with self._section:
                if self.core.closed or self._on_end is None:
                    return
                with suppress(ShmError):
                    while self.core.take():  # what was answered is as good as ever
                        self._tell_news()
                # Marked dead by the kernel: the container's last word is final. Otherwise it is the kernel that has
                # died.
                self._lose(graceful=self._end.state == DEAD)
            if self._ended:
                self.settle_ended()
        except BaseException:
            self._recover()
            raise

    def _on_hangup(self, fd: int) -> None:
        with suppress(KeyError):
            self._poller.unregister(fd)
        self.hang_up()

    def _close_transport(self) -> None:
        self._on_end = None
        with suppress(OSError):  # a forked child's copy must not hide this end
            self._liveness.shutdown(socket.SHUT_RDWR)
        self._liveness.close()
        self._end.close()
        self.core.let_go()

    def forget(self) -> None:
        """In a forked child: everything belongs to the parent, and what is asked of this lane is refused."""
        self._lock = threading.RLock()  # another thread may have held it at the moment of the fork
        _sleepers.pop(self, None)
        self._on_end = None
        self._liveness.close()
        self._end.close()
