"""Leader and followers: many threads wait for answers that come over one thing which only one of them may read.

Problem: a socket or a ring belongs to one thread at a time, yet a blocking call should not pay for a hop to another
thread and back. Idea: a lock that is never held while waiting guards it. A thread that waits for its answer takes the
lead if nobody has it: it polls the descriptors outside the lock, then takes in what is there, for everybody, under the
lock. The others sleep until the leader (or any thread that sends, because sending reads too) has their answer, or
until the lead is passed on to them.

A descriptor is only a hint: whoever has sent, or takes the lead, reads before anyone polls.

Calls that nobody may be waiting for (futures, streams) are looked after by a background thread. It wakes every few
milliseconds while there are such calls, and takes the lead only when no other thread has read since its last look.

Signal handlers run in the main thread alone, and there even in the midst of a step in C: what a socket has given may be
lost (`huterox.sockets`). So while calls of other threads are under way, the main thread reads no socket: it is unfit to
lead, and follows whoever else waits, or the background thread. It leaves it to them, too, to tell the owners of those
calls.

Dead: a call ends at its deadline whatever the other side does. What is full, and what goes over the wire or through
memory, is for the subclass to say: it fills in the hooks of the last section. Interrupts and the end: `Channel`.
"""

import abc
import os
import select
import threading
import weakref
from collections import deque
from collections.abc import Sized
from contextlib import suppress
from math import ceil, inf
from threading import get_ident
from time import monotonic
from typing import Any, Final, Generic

from huterox.background import Background, Errand
from huterox.pending import C, Core
from huterox_shm.descriptors import close_all, open_eventfd
from huterox_wire.errors import HuteroxError, InvalidInput

POLL_S_MAX: Final = 3600.0
RECOVERIES_MAX: Final = 100
"""So many interrupts in a row are passed over while a thread sets right what the first of them has left."""

_RESTLESS_S: Final = 0.01
_POLLIN: Final = select.POLLIN


def let_go(lock: "threading.RLock") -> None:
    """Release a lock as often as this thread has taken it."""
    with suppress(RuntimeError):
        while True:
            lock.release()


class _Section:
    """A channel's lock, for what happens rarely. Hot paths do the same by hand."""

    __slots__ = ("_channel",)

    def __init__(self, channel: "Leading[Any]") -> None:
        self._channel = channel

    def __enter__(self) -> None:
        channel = self._channel
        if channel._pid != os.getpid():
            raise channel._forked()
        channel._lock.acquire()
        if channel._torn:
            channel._enter_torn()
        channel._torn = True

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        channel = self._channel
        if kind is None or issubclass(kind, channel._clean):
            channel._torn = False
        channel._lock.release()


class Leading(abc.ABC, Generic[C]):
    """Who of a process's threads reads, and who is told."""

    core: Core[C]
    _restless: Sized = ()
    """While this is not empty, who polls looks every few milliseconds: what may happen to it rings no bell."""

    _notice_fd = -1
    """A descriptor that tells of something else than answers: `_on_notice`."""
    _noticed = False

    _clean: tuple[type[Exception], ...] = (HuteroxError,)
    """These are raised only where everything that the lock guards is as it should be."""

    def __init__(self, core: Core[C]) -> None:
        """The subclass has opened what `_register_descriptors` needs. Owns one descriptor until `close`."""
        self.core = core
        self._pid = os.getpid()
        self._main = threading.main_thread().ident or 0
        self._lock = threading.RLock()  # an interrupted thread may hold it, and must be able to give it back
        self._torn = False  # what the lock guards is being changed, or whoever did that was interrupted
        self._fds: list[int] = []
        weakref.finalize(self, close_all, self._fds).atexit = False
        self._wake_fd = open_eventfd(self._fds)
        self._poller = select.poll()
        self._poller.register(self._wake_fd, _POLLIN)
        self._register_descriptors(self._poller)
        # Guarded by the lock, all of these.
        self._led = 0  # the thread that has the lead
        self._polled_for: C | Errand | None = None  # what the leader waits for, while it polls
        self._followers: dict[C | Errand, list[threading.Lock]] = {}
        self._following: dict[int, tuple[C | Errand, threading.Lock]] = {}  # by thread
        self._unread = False  # there may be messages that the descriptor will not tell of
        self._wanted = False  # somebody waited for the lead when it was last given up
        self._reads = 0
        self._ended: list[C] = []  # calls with an owner that has not been told yet
        self._departures: list[threading.Lock] = []  # released when the last leader of a closed channel leaves
        self._section = _Section(self)
        self._background = Background(self)
        self._nesting = threading.local()
        self._is_closed = False
        self.abandoned: deque[C] = deque()  # calls to cancel; the only field that a garbage collector may write

    # --- the lead -----------------------------------------------------------------------------------------------------

    def _take_lead(self, call: C | Errand) -> "threading.Lock | None":
        """None: this thread leads now. Otherwise the lock that is released when there is news."""
        me = get_ident()
        if not call.foreign and me != self._main:
            self.core.share(call)  # type: ignore[arg-type]
        is_fit = not self.core.foreign_count or me != self._main
        if is_fit and not self._led:
            self._led = me
            self._unread = True  # read before polling
            self._polled_for = call
            return None
        wake = threading.Lock()
        wake.acquire()
        self._following[me] = (call, wake)
        self._followers.setdefault(call, []).append(wake)
        if not self._led:
            self._pass_on()
        elif is_fit and self._polled_for is self._background.errand:
            os.eventfd_write(self._wake_fd, 1)
        return wake

    def _lead(self, call: C | Errand, until_s: float) -> None:
        """Hot path. Poll and read for everybody until there is news of `call`, or there are owners to be told."""
        over = False
        while not over:
            if not self._unread:
                self._poll(min(until_s, self.core.next_deadline_s) - monotonic())
            with self._lock:
                if self._torn:
                    self._enter_torn()
                self._torn = True
                over = self._turn(call, until_s)
                self._torn = False

    def _poll(self, wait_s: float) -> None:
        """Hot path. Wait for the subclass's descriptors or for `_wake_fd`, without the lock."""
        if self._restless:
            wait_s = min(wait_s, _RESTLESS_S)
        wait_ms = ceil(min(max(wait_s, 0.0), POLL_S_MAX) * 1e3)
        for fd, events in self._poller.poll(wait_ms):
            if fd == self._wake_fd:
                with suppress(BlockingIOError):
                    os.eventfd_read(fd)
            elif fd == self._notice_fd:
                self._noticed = True
            elif events != _POLLIN:
                self._on_hangup(fd)

    def _turn(self, call: C | Errand, until_s: float) -> bool:
        """Hot path. Take in what has come; give up the lead (True) if it is no longer needed or hinders others."""
        self._polled_for = None
        if self.core.foreign_count and get_ident() == self._main:
            self._unread = True
            self._resign()
            return True
        self._read()
        if self._noticed:
            self._on_notice()
            self._noticed = False
        now_s = monotonic()
        if now_s >= self.core.next_deadline_s or self.abandoned:
            self._tidy(now_s)
        if (
            call.ended
            or call.parts
            or now_s >= until_s
            or (self._ended and self._may_tell())
            or (call is self._background.errand and self._background_may_rest())
        ):
            self._resign()
            return True
        self._polled_for = call
        return False

    def _may_tell(self) -> bool:
        """Inside a callback, owners are not told by this thread: callbacks do not nest."""
        if self._settling():
            self._background.look_after()
            return False
        return self._next_ended() is not None

    def _next_ended(self) -> C | None:
        """Hot path. An ended call whose owner this thread may tell."""
        is_main = get_ident() == self._main
        for call in self._ended:
            if not (is_main and self._is_for_others(call)):
                return call
        return None

    def _is_for_others(self, call: C) -> bool:
        """Whether the main thread leaves it to others to tell this call's owner."""
        return (call.foreign or (call.owner is not None and call.owner.is_watched)) and not self._background.is_stopped

    def _settling(self) -> bool:
        """Whether this thread is inside a callback."""
        return getattr(self._nesting, "settling", False)

    def _resign(self) -> None:
        """Hot path."""
        self._led = 0
        self._polled_for = None
        self._wanted = bool(self._followers) and self._pass_on()
        while self._departures:
            self._departures.pop().release()

    def _pass_on(self) -> bool:
        """Wake one follower, if nobody leads, so that it takes the lead. False: there is none that may."""
        if self._led or not self._followers:
            return False
        if (fit := self._fit_follower()) is None:
            self._background.look_now()
            return False
        self._forget(*fit)
        fit[1].release()
        return True

    def _fit_follower(self) -> "tuple[C | Errand, threading.Lock] | None":
        """One that may read."""
        unfit = self._following.get(self._main) if self.core.foreign_count else None
        for call, wakes in self._followers.items():
            for wake in wakes:
                if unfit is None or wake is not unfit[1]:
                    return call, wake
        return None

    def _follow(self, call: C, wake: "threading.Lock", until_s: float) -> None:
        """Sleep until a leader has news of `call` or passes the lead on."""
        wait_s = min(until_s, call.deadline_s) - monotonic()
        woken = wake.acquire(timeout=min(max(wait_s, 0.0), POLL_S_MAX))
        with self._section:
            self._following.pop(get_ident(), None)
            if not woken:
                self._forget(call, wake)
                self._tidy(monotonic())
                self._pass_on()

    def _forget(self, call: C | Errand, wake: "threading.Lock") -> None:
        wakes = self._followers.get(call, [])
        if wake in wakes:
            wakes.remove(wake)
            if not wakes:
                del self._followers[call]

    # --- the background thread ----------------------------------------------------------------------------------------

    def lead_in_background(self, reads: int) -> tuple[bool, int]:
        """One look of the background thread: lead unless somebody else has read since it counted `reads`.

        Returns:
            Whether it did, and nobody wanted the lead afterwards; and the new count.
        """
        errand = self._background.errand
        with self._section:
            self._tidy(monotonic())
            is_read = self._reads != reads and not (self._followers and self._fit_follower() is None)
            if self._led or is_read or not self.core.unattended_count:
                return False, self._reads
            self._take_lead(errand)
        try:
            self._lead(errand, inf)
        except BaseException:
            self._recover()
            raise
        return not self._wanted, self._reads

    def rest_in_background(self) -> bool:
        """Whether there is nothing to look after; if so, `look_after` will wake the background thread."""
        with self._section:
            return not (self.core.unattended_count or self._ended) and self._background.rest()

    def wake_background(self) -> None:
        """Have the background thread look at once."""
        with self._section:
            self._background.look_after()
            if self._polled_for is self._background.errand:
                os.eventfd_write(self._wake_fd, 1)

    def _background_may_rest(self) -> bool:
        """The background thread leads only while nobody waits and there is something to look after."""
        if self._followers:
            return self._fit_follower() is not None
        return not self.core.unattended_count

    # --- news, under the lock -----------------------------------------------------------------------------------------

    def _tell(self, call: C) -> None:
        """Hot path. The call has ended, or has one more part."""
        if call.owner is not None and call.ended:
            self._ended.append(call)
        if self._followers and (wakes := self._followers.pop(call, None)) is not None:
            for wake in wakes:
                wake.release()
        if call is self._polled_for:
            os.eventfd_write(self._wake_fd, 1)

    def _tell_news(self) -> None:
        """Hot path. Of all calls that have ended or have one more part. Nothing is lost if this is begun again."""
        news = self.core.news
        for call in news:
            self._tell(call)
        news.clear()

    def _leave_unread(self) -> None:
        """There is more to read than was read under this hold of the lock, and no descriptor may tell of it."""
        self._unread = True
        if self._polled_for is not None:
            os.eventfd_write(self._wake_fd, 1)

    def _tidy(self, now_s: float) -> None:
        """End what is late or abandoned."""
        ended = self.core.expire(now_s)
        while self.abandoned:
            call = self.abandoned.popleft()
            if self.core.cancel(call):
                ended.append(call)
        for call in ended:
            self._send_cancel(call)
        if ended:
            self._tell_news()
            self._read_if_any()

    def _forked(self) -> InvalidInput:
        # Checked before the lock is touched: another thread may have held it at the moment of the fork.
        return InvalidInput(
            f"this client belongs to process {self._pid}; after a fork, call huterox.connect() in the new process"
        )

    def _enter_torn(self) -> None:
        """Under the lock, where `_torn` is still said."""
        if " count=1 " not in repr(self._lock):
            raise InvalidInput(
                "a signal handler has called a client in the midst of a call of that client; let the handler set a"
                " flag, or raise"
            )
        self._mend()

    # --- what a subclass fills in -------------------------------------------------------------------------------------

    @abc.abstractmethod
    def _mend(self) -> None:
        """Under the lock, which somebody has left by an exception: set right what it guards."""

    @abc.abstractmethod
    def settle_ended(self) -> None:
        """Tell the owners of ended calls that this thread may tell."""

    @abc.abstractmethod
    def _recover(self, call: C | None = None) -> None:
        """This thread leaves by an exception: it gives back what it has."""

    @abc.abstractmethod
    def _register_descriptors(self, poller: "select.poll") -> None:
        """Register what a leader polls for, with POLLIN; with 0 what is only to be heard of when it hangs up."""

    @abc.abstractmethod
    def _read_if_any(self) -> None:
        """Hot path, under the lock. Read if there is anything; due after every send. Otherwise `_unread` is False."""

    @abc.abstractmethod
    def _read(self) -> None:
        """Hot path, under the lock. Take in what has come, count it in `_reads`, clear `_unread` or `_leave_unread`,
        and `_tell` of each call that has ended or has one more part."""

    @abc.abstractmethod
    def _send_cancel(self, call: C) -> None:
        """Under the lock. Tell the other side that nobody waits for this call any more. Never waits, never raises."""

    def _on_notice(self) -> None:
        """Under the lock. The notice descriptor has told of something."""

    def _on_hangup(self, fd: int) -> None:
        """A descriptor has hung up. Called by the leader without the lock."""
        self._poller.unregister(fd)
