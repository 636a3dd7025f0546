"""The thread that looks after calls which nobody may be waiting for."""

import threading
import weakref
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from huterox.leading import Leading

_TICK_S: Final = 0.002
_JOIN_S: Final = 2.0


def wait_for(thread: threading.Thread) -> None:
    """Wait a while for the end of a thread, unless it is this one, or whoever began to start it was interrupted."""
    with suppress(RuntimeError):
        thread.join(_JOIN_S)


class Errand:
    """What the background thread leads for, in the place of a call: it never ends."""

    ended = False
    parts = None
    deadline_s = inf
    foreign = True


class Background:
    """A daemon thread, started with the first future or stream; asleep while there are none.

    It looks every few milliseconds whether somebody reads, and does it itself only where nobody else does: a
    thread that submits and collects results in a loop is never disturbed by it, and a done-callback comes a tick late
    at worst.
    """

    def __init__(self, channel: "Leading[Any]") -> None:
        # Weakly: a client that is dropped without `close` must not live on by its thread.
        self._channel = weakref.ref(channel, self._on_gone)
        self._thread: threading.Thread | None = None
        self._alarm = threading.Lock()
        self._alarm.acquire()
        self._asleep = False
        self.is_resting = True
        """Whether `look_after` has something to do."""
        self.is_stopped = False
        self.errand = Errand()

    def look_after(self) -> None:
        """Hot path. There is a call to look after. The channel's lock is held."""
        self.is_resting = False
        if self._asleep:
            self._asleep = False
            self._alarm.release()
        elif self._thread is None and not self.is_stopped:
            self._thread = threading.Thread(target=self._run, name="huterox-reader", daemon=True)
            self._thread.start()

    def look_now(self) -> None:
        """Somebody waits for this thread to read. The channel's lock is held."""
        self.look_after()
        with suppress(RuntimeError):
            self._alarm.release()

    def rest(self) -> bool:
        """Fall asleep until `look_after`; False when there is no time for that. The channel's lock is held."""
        self._asleep = self.is_resting = not self.is_stopped
        return self._asleep

    def mend(self) -> None:
        """After an exception in the midst of `look_after` or `rest`. The channel's lock is held."""
        self._asleep = False
        with suppress(RuntimeError):
            self._alarm.release()  # once too often does no harm: it looks, and rests again
        if self._thread is not None and not self._thread.is_alive() and not self.is_stopped:
            self._thread = None
        self.look_after()

    def stop(self) -> None:
        """End the thread and wait for it, unless it is the one that calls this."""
        self.is_stopped = True
        if (channel := self._channel()) is not None:
            channel.wake_background()
        if self._thread is not None:
            wait_for(self._thread)

    def _on_gone(self, _: object) -> None:
        self.is_stopped = True
        with suppress(RuntimeError):
            self._alarm.release()

    def _run(self) -> None:
        self._serve()
        if (channel := self._channel()) is not None:
            channel.settle_ended()  # those that the end of the channel has ended

    def _serve(self) -> None:
        led, reads = False, 0
        while not self.is_stopped and self._thread is threading.current_thread():
            if (channel := self._channel()) is None:
                return
            rests = channel.rest_in_background()
            del channel
            if rests:
                self._alarm.acquire()
            elif not led:
                self._alarm.acquire(timeout=_TICK_S)
            if (channel := self._channel()) is None:
                return
            led, reads = channel.lead_in_background(reads)
            channel.settle_ended()
            del channel
