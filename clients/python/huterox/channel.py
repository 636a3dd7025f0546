"""The threads of one process around one source of answers: they wait, give up, are interrupted and close.

Who of them reads: see `huterox.leading`. Foreign code (done-callbacks) runs without lock and lead, and may call back
into this channel.

Interrupted: an exception may come between any two steps of a thread (Ctrl-C, a signal handler that raises). So who
takes the lock says that what it guards is being changed (`_torn`), and who takes it next and finds that still said sets
it right first (`_mend`). Every method that a user's thread may be in ends, whatever comes, by giving back what the
thread has: the lock, the lead, its place among the followers (`_recover`). Such a method only calls the one that does
the work, since CPython guards the first step of a `try` by no other `try` of the same function. What can be done
neither half nor twice (to send a message, to ring a doorbell) is one step, in C.

After a fork the child is refused.
"""

import abc
import os
import threading
from contextlib import suppress
from math import inf
from threading import get_ident
from time import monotonic
from typing import Final

from huterox.leading import RECOVERIES_MAX, Leading, let_go
from huterox.pending import C, Owner
from huterox_shm.descriptors import close_all

_JOIN_S: Final = 2.0


class Channel(Leading[C]):
    """The threads of one process around one source of answers."""

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

    def abandon(self, call: C) -> None:
        """Have a call cancelled soon. Takes no lock, so that a garbage collector may call it at any moment."""
        self.abandoned.append(call)
        with suppress(OSError, ValueError):  # closed meanwhile
            os.eventfd_write(self._wake_fd, 1)

    # --- whom to tell -------------------------------------------------------------------------------------------------

    def settle_ended(self) -> None:
        """Tell the owners of ended calls. A callback that ends further calls leaves them to the background thread, and
        so does the main thread with calls of others: what an interrupt leaves of a future may hold up who waits."""
        nesting = self._nesting
        if self._settling():
            self.wake_background()
            return
        try:
            nesting.settling = True
            while (call := self._next_ended()) is not None:
                self.settle(call)
                with suppress(ValueError):  # another thread has told it, and removed it
                    self._ended.remove(call)
            nesting.settling = False
            if self._ended:
                self.wake_background()
        except BaseException:
            nesting.settling = False
            self._recover()
            self.wake_background()
            raise

    def settle(self, call: C) -> bool:
        """Tell the owner of an ended call, in this thread. False: another thread does, or has."""
        owner: Owner[C] | None = call.owner
        if owner is None:
            return False
        if get_ident() == self._main and self._is_for_others(call):
            self.wake_background()
            return False
        try:
            if not self.claim(call):
                return False
            owner.settle(call)
        except BaseException:
            self.hand_over(call, owner)
            raise
        return True

    def claim(self, call: C) -> bool:
        """Keep others from telling the owner of a call. False: another thread does, or has, or the parent does. Who is
        interrupted before it has told the owner itself calls `hand_over`."""
        if self._pid != os.getpid():
            return False
        with self._lock:
            owner, call.owner = call.owner, None
        return owner is not None

    def hand_over(self, call: C, owner: Owner[C]) -> None:
        """This thread was interrupted while it told an owner: the background thread tells it again."""
        for _ in range(RECOVERIES_MAX):
            try:
                self._recover()
                with self._section:
                    if call.ended:
                        call.owner = owner
                        self._ended.append(call)
                self.wake_background()
                break
            except Exception:  # noqa: BLE001 - as in `_recover`
                break
            except BaseException:  # noqa: BLE001 - another interrupt
                continue

    # --- interrupted --------------------------------------------------------------------------------------------------

    def _recover(self, call: C | None = None) -> None:
        """This thread leaves by an exception: it gives back what it has, and the call ends. A second exception that
        comes meanwhile is passed over."""
        if self._pid != os.getpid():
            return
        for _ in range(RECOVERIES_MAX):
            try:
                with suppress(Exception):  # whoever takes the lock next goes on
                    self._give_back(call)
                let_go(self._lock)
                return
            except BaseException:  # noqa: BLE001 - another interrupt
                continue
        let_go(self._lock)

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
            for call, wake in self._following.values():
                if wake not in self._followers.get(call, ()):
                    with suppress(RuntimeError):  # it may be awake, or not have been woken
                        wake.release()
            self._leave_unread()
            self._background.mend()
        self._torn = False

    # --- the end ------------------------------------------------------------------------------------------------------

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

    # --- what a subclass fills in -------------------------------------------------------------------------------------

    @abc.abstractmethod
    def _mend_core(self) -> None:
        """Under the lock. Set right what is not the channel's own, and take in what has come (`_read`)."""

    @abc.abstractmethod
    def _close_transport(self) -> None:
        """Close what the subclass has opened. Nobody leads or reads any more."""
