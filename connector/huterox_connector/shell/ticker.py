"""When to look at time: often while anything waits for it, seldom while nothing does.

An idle switchboard would otherwise wake twenty times a second to find that nothing is due. What comes in is looked at
as it comes: a call that waits has its ticks at once.
"""

from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable
from typing import Final

REST_S: Final = 0.5


class Ticker:
    """Calls `tick` every `tick_s`, or every REST_S while `is_waiting` says that nothing is."""

    def __init__(
        self, loop: AbstractEventLoop, tick_s: float, tick: Callable[[], None], is_waiting: Callable[[], bool]
    ) -> None:
        self._loop = loop
        self._tick_s = tick_s
        self._rest_s = max(tick_s, REST_S)
        self._tick = tick
        self._is_waiting = is_waiting
        self._timer: TimerHandle | None = None
        self.rests = False

    def start(self) -> None:
        self._set(self._tick_s)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self.rests = None, False

    def stir(self) -> None:
        """Something has come in: go back to work where it waits for time. To be called while it rests."""
        if self._is_waiting():
            self.stop()
            self._set(self._tick_s)

    def _set(self, delay_s: float) -> None:
        self._timer = self._loop.call_later(delay_s, self._run)

    def _run(self) -> None:
        self.rests = False
        self._tick()
        self.rests = not self._is_waiting()
        self._set(self._rest_s if self.rests else self._tick_s)
