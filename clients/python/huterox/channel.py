"""Leader and followers: many threads wait for answers that come over one thing which only one of them may read.

Problem: a socket or a ring belongs to one thread at a time, yet a blocking call should not pay for a hop to another
thread and back. Idea: a lock that is never held while waiting guards it. A thread that waits for its answer takes the
lead if nobody has it: it polls the descriptors outside the lock, then takes in what is there, for everybody, under the
lock. The others sleep until the leader (or any thread that sends, because sending reads too) has their answer, or
until the lead is passed on to them.

A descriptor is only a hint: whoever has sent, or takes the lead, reads before anyone polls.

Calls that nobody may be waiting for (futures, streams) are looked after by a background thread. It wakes every few
milliseconds while there are such calls, and takes the lead only when no other thread has read since its last look.

Foreign code (done-callbacks) runs without lock and lead, and may call back into this channel.

Interrupted: an exception may come between any two steps of a thread (Ctrl-C, a signal handler that raises). So who
takes the lock says that what it guards is being changed (`_torn`), and who takes it next and finds that still said sets
it right first (`_mend`). Every method that a user's thread may be in ends, whatever comes, by giving back what the
thread has: the lock, the lead, its place among the followers (`_recover`). Such a method only calls the one that does
the work, since CPython guards the first step of a `try` by no other `try` of the same function. What can be done
neither half nor twice (to send a message, to ring a doorbell) is one step, in C.

Dead: a call ends at its deadline whatever the other side does. After a fork the child is refused. What is full, and
what goes over the wire or through memory, is for the subclass to say: it fills in the hooks of the last section.
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
from typing import Any, Final, Generic, Protocol, TypeVar

from huterox.background import Background, Errand
from huterox_shm.descriptors import close_all, open_eventfd
from huterox_wire.errors import HuteroxError, InvalidInput

_POLL_S_MAX: Final = 3600.0
_RESTLESS_S: Final = 0.01
_JOIN_S: Final = 2.0
_RECOVERIES_MAX: Final = 100
_POLLIN: Final = select.POLLIN


class Pending(Protocol):
    """What a channel knows of a call under way.

    Attributes:
        ended: the call has ended.
        parts: pieces of a streamed reply that nobody has taken yet. None for a call that takes none.
        deadline_s: when it ends by itself, on the monotonic clock; infinite until it is under way.
        unattended: nobody may be waiting for it (a future, a stream), so somebody must read on its behalf.
        owner: whom the channel tells of the end.
    """

    ended: bool
    parts: Any
    deadline_s: float
    unattended: bool
    owner: Any


C = TypeVar("C", bound=Pending)
P_contra = TypeVar("P_contra", contravariant=True)


class Owner(Protocol[P_contra]):
    """Who is told that a call has ended when no thread waits for it. Called without the lock; once per call, and again
    where the thread that told it was interrupted."""

    def settle(self, call: P_contra, /) -> None: ...


class Core(Protocol[C]):
    """The calls of a channel, as their sans-IO core keeps them. All of it under the channel's lock.

    Attributes:
        next_deadline_s: no call ends by itself before this.
        unattended_count: of the calls in flight.
        in_flight_count: how many calls are under way.
        closed: no more calls are taken.
        news: calls that have ended or have one more part, until the channel has told whoever waits and clears it.
    """

    next_deadline_s: float
    news: list[C]

    @property
    def unattended_count(self) -> int: ...

    @property
    def in_flight_count(self) -> int: ...

    @property
    def closed(self) -> bool: ...

    def cancel(self, call: C) -> bool:
        """Give a call up. False: it had ended before."""

    def expire(self, now_s: float) -> list[C]:
        """End the calls whose time is over."""

    def close(self) -> list[C]:
        """Take no more calls and end those under way."""


class _Section:
    """A channel's lock, for what happens rarely. Hot paths do the same by hand."""

    __slots__ = ("_channel",)

    def __init__(self, channel: "Channel[Any]") -> None:
        self._channel = channel

    def __enter__(self) -> None:
        channel = self._channel
        channel._lock.acquire()
        if channel._torn:
            channel._enter_torn()
        channel._torn = True

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        channel = self._channel
        if kind is None or issubclass(kind, channel._clean):
            channel._torn = False
        channel._lock.release()


class Channel(abc.ABC, Generic[C]):
    """The threads of one process around one source of answers."""

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
        self._lock = (
            threading.RLock()
        )  # an interrupted thread may hold it, and must be able to take it and give it back
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

    # --- calls ---------------------------------------------------------------------------------------------------

    def _stay(self, call: C, lead: bool) -> None:
        """Hot path. Wait until a call has ended that this thread has sent; `lead`: it has taken the lead for that."""
        try:
            if lead:
                self._lead(call, inf)
            if self._ended:
                self.settle_ended()
            if not call.ended:
                self.wait(call)
        except BaseException:
            self._recover(call)
            raise

    def wait(self, call: C, until_s: float = inf) -> None:
        """Wait until the call has ended, or a part of it has come, or the monotonic clock shows `until_s`."""
        if self._pid != os.getpid():
            raise self._forked()
        try:
            while not self._is_news(call, until_s):
                pass
        except BaseException:
            self._recover()
            raise

    def _is_news(self, call: C, until_s: float) -> bool:
        """Wait for it, as leader or as follower, once."""
        with self._lock:
            if self._torn:
                self._enter_torn()
            self._torn = True
            if call.ended or call.parts or monotonic() >= until_s:
                # A lead that was passed on to this thread meanwhile must not end here.
                self._pass_on()
                self._torn = False
                return True
            wake = self._take_lead(call)
            self._torn = False
        if wake is None:
            self._lead(call, until_s)
        else:
            self._follow(call, wake, until_s)
        if self._ended:
            self.settle_ended()
        return False

    def cancel(self, call: C) -> bool:
        """Give a call up. False: it had ended before."""
        if self._pid != os.getpid():
            return False
        try:
            with self._section:
                if not self.core.cancel(call):
                    return False
                self._send_cancel(call)
                self._tell_news()
                self._read_if_any()
        except BaseException:
            self._recover(call)
            raise
        if self._ended:
            self.settle_ended()
        return True

    def claim(self, call: C) -> bool:
        """Keep others from telling the owner of a call. False: another thread does, or has. Who is interrupted before
        it has told the owner itself calls `hand_over`."""
        with self._lock:
            owner, call.owner = call.owner, None
        return owner is not None

    def settle(self, call: C) -> bool:
        """Tell the owner of an ended call, in this thread. False: another thread does, or has."""
        owner: Owner[C] | None = call.owner
        if owner is None:
            return False
        try:
            if not self.claim(call):
                return False
            owner.settle(call)
        except BaseException:
            self.hand_over(call, owner)
            raise
        return True

    def hand_over(self, call: C, owner: Owner[C]) -> None:
        """This thread was interrupted while it told an owner: the background thread tells it again."""
        self._recover()
        with self._section:
            if call.ended:
                call.owner = owner
                self._ended.append(call)
        self.wake_background()

    def settle_ended(self) -> None:
        """Tell the owners of ended calls. A callback that ends further calls leaves them to the background thread."""
        nesting = self._nesting
        if self._settling():
            self.wake_background()
            return
        try:
            nesting.settling = True
            while self._ended:
                call = self._ended[0]
                self.settle(call)
                with suppress(ValueError):  # another thread has told it, and removed it
                    self._ended.remove(call)
            nesting.settling = False
        except BaseException:
            nesting.settling = False
            self._recover()
            self.wake_background()
            raise

    def abandon(self, call: C) -> None:
        """Have a call cancelled soon. Takes no lock, so that a garbage collector may call it at any moment."""
        self.abandoned.append(call)
        with suppress(OSError, ValueError):  # closed meanwhile
            os.eventfd_write(self._wake_fd, 1)

    # --- the lead ---------------------------------------------------------------------------------------------------

    def _take_lead(self, call: C | Errand) -> "threading.Lock | None":
        """None: this thread leads now. Otherwise the lock that is released when there is news."""
        if not self._led:
            self._led = get_ident()
            self._unread = True  # read before polling
            self._polled_for = call
            return None
        wake = threading.Lock()
        wake.acquire()
        self._following[get_ident()] = (call, wake)
        self._followers.setdefault(call, []).append(wake)
        if self._polled_for is self._background.errand:
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
        wait_ms = ceil(min(max(wait_s, 0.0), _POLL_S_MAX) * 1e3)
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
            or (self._ended and not self._leave_to_background())
            or (call is self._background.errand and self._background_may_rest())
        ):
            self._resign()
            return True
        self._polled_for = call
        return False

    def _leave_to_background(self) -> bool:
        """Inside a callback, owners are not told by this thread: callbacks do not nest."""
        if not self._settling():
            return False
        self._background.look_after()
        return True

    def lead_in_background(self, reads: int) -> tuple[bool, int]:
        """One look of the background thread: lead unless somebody else has read since it counted `reads`.

        Returns:
            Whether it did, and nobody wanted the lead afterwards; and the new count.
        """
        errand = self._background.errand
        with self._section:
            self._tidy(monotonic())
            if self._led or self._reads != reads or not self.core.unattended_count:
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
        return bool(self._followers) or not self.core.unattended_count

    def _resign(self) -> None:
        """Hot path."""
        self._led = 0
        self._polled_for = None
        self._wanted = bool(self._followers)
        if self._wanted:
            self._pass_on()
        while self._departures:
            self._departures.pop().release()

    def _pass_on(self) -> None:
        """Wake one follower, if nobody leads, so that it takes the lead."""
        if self._led or not self._followers:
            return
        call, wakes = next(iter(self._followers.items()))
        wakes.pop().release()
        if not wakes:
            del self._followers[call]

    def _follow(self, call: C, wake: "threading.Lock", until_s: float) -> None:
        """Sleep until a leader has news of `call` or passes the lead on."""
        wait_s = min(until_s, call.deadline_s) - monotonic()
        woken = wake.acquire(timeout=min(max(wait_s, 0.0), _POLL_S_MAX))
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

    # --- interrupted ------------------------------------------------------------------------------------------------

    def _enter_torn(self) -> None:
        """Under the lock, where `_torn` is still said."""
        if " count=1 " not in repr(self._lock):
            raise InvalidInput(
                "a signal handler has called a client in the midst of a call of that client; let the handler set a"
                " flag, or raise"
            )
        self._mend()

    def _recover(self, call: C | None = None) -> None:
        """This thread leaves by an exception: it gives back what it has, and the call ends. A second exception that
        comes meanwhile is passed over."""
        if self._pid != os.getpid():
            return
        for _ in range(_RECOVERIES_MAX):
            try:
                self._give_back(call)
                break
            except Exception:  # noqa: BLE001 - whoever takes the lock next goes on
                break
            except BaseException:  # noqa: BLE001 - another interrupt
                continue
        with suppress(RuntimeError):
            while True:
                self._lock.release()

    def _give_back(self, call: C | None) -> None:
        self._lock.acquire()  # also where this thread has it already
        me = get_ident()
        if self._torn:
            self._mend()
        self._torn = True
        if self._led == me:
            self._resign()
        if (following := self._following.get(me)) is not None:
            self._forget(*following)
            del self._following[me]
        if call is not None and not self._is_closed and self.core.cancel(call):
            self._send_cancel(call)
            self._tell_news()
            self._read_if_any()  # due after every send
        self._pass_on()
        self._torn = False

    def _mend(self) -> None:
        """Under the lock, which somebody has left by an exception: set right what it guards. May be done twice."""
        if not self._is_closed:
            self._mend_core()
            for call in list(self._followers):
                if not self._followers[call]:
                    del self._followers[call]
                elif call is not self._background.errand and (call.ended or call.parts):
                    self._tell(call)  # type: ignore[arg-type]
            self._leave_unread()
            self._background.mend()
        self._torn = False

    def _forked(self) -> InvalidInput:
        # Checked before the lock is touched: another thread may have held it at the moment of the fork.
        return InvalidInput(
            f"this client belongs to process {self._pid}; after a fork, call huterox.connect() in the new process"
        )

    def _settling(self) -> bool:
        """Whether this thread is inside a callback."""
        return getattr(self._nesting, "settling", False)

    # --- news, under the lock ---------------------------------------------------------------------------------------

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

    # --- the end ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the calls that are under way and let go of everything. May be called twice, and after a fork; a second
        call finishes one that was interrupted."""
        if self._pid != os.getpid() or self._is_closed:
            return  # in a fork, everything belongs to the parent
        try:
            self._close()
        except BaseException:
            self._recover()
            raise

    def _close(self) -> None:
        with self._section:
            for call in self.core.close():
                self._send_cancel(call)
            self._tell_news()
            departure = threading.Lock()
            departure.acquire()
            if self._led:
                self._departures.append(departure)
                os.eventfd_write(self._wake_fd, 1)
            else:
                departure.release()
        self._background.stop()
        departure.acquire(timeout=_JOIN_S)
        self.settle_ended()
        with self._section:
            if self._is_closed:
                return  # by another thread
            self._close_transport()
            self._wake_fd = -1  # `abandon` may still come, and the number be somebody else's soon
            self._is_closed = True
            close_all(self._fds)

    # --- what a subclass fills in -----------------------------------------------------------------------------------

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
    def _mend_core(self) -> None:
        """Under the lock. Set right what is not the channel's own, and take in what has come (`_read`)."""

    @abc.abstractmethod
    def _send_cancel(self, call: C) -> None:
        """Under the lock. Tell the other side that nobody waits for this call any more. Never waits, never raises."""

    def _on_notice(self) -> None:
        """Under the lock. The notice descriptor has told of something."""

    def _on_hangup(self, fd: int) -> None:
        """A descriptor has hung up. Called by the leader without the lock."""
        self._poller.unregister(fd)

    @abc.abstractmethod
    def _close_transport(self) -> None:
        """Close what the subclass has opened. Nobody leads or reads any more."""
