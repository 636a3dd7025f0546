"""When an idle switchboard looks at time, and when a busy one does."""

from typing import Any

import pytest

from huterox_connector.shell.ticker import REST_S, Ticker

TICK_S = 0.05


class Loop:
    """A loop whose time goes on when it is told."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._timers: list[tuple[float, Any, Any]] = []

    def call_later(self, delay_s: float, callback: Any) -> Any:
        timer = (self.now_s + delay_s, callback, self)
        self._timers.append(timer)
        return Handle(self._timers, timer)

    def go_on(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        while due := sorted((timer for timer in self._timers if timer[0] <= end_s), key=lambda timer: timer[0]):
            self._timers.remove(due[0])
            self.now_s = due[0][0]
            due[0][1]()
        self.now_s = end_s


class Handle:
    def __init__(self, timers: list[Any], timer: Any) -> None:
        self._timers, self._timer = timers, timer

    def cancel(self) -> None:
        if self._timer in self._timers:
            self._timers.remove(self._timer)


class Switch:
    def __init__(self) -> None:
        self.loop = Loop()
        self.waits = False
        self.ticks: list[float] = []
        self.ticker = Ticker(self.loop, TICK_S, self.tick, lambda: self.waits)  # type: ignore[arg-type]
        self.ticker.start()

    def tick(self) -> None:
        self.ticks.append(self.loop.now_s)
        if self.ticker.rests:  # as what a tick leads to does
            self.ticker.stir()


@pytest.fixture
def switch() -> Switch:
    return Switch()


def test_nothing_that_waits_is_looked_at_seldom(switch: Switch) -> None:
    switch.loop.go_on(10.0)
    assert len(switch.ticks) == pytest.approx(10.0 / REST_S, abs=1)


def test_what_waits_has_all_its_ticks_from_the_moment_on_that_it_came(switch: Switch) -> None:
    switch.loop.go_on(10.13)
    assert switch.ticker.rests
    switch.ticks.clear()
    switch.waits = True
    switch.ticker.stir()
    switch.loop.go_on(1.0)
    assert switch.ticks[:15] == pytest.approx([10.13 + TICK_S * number for number in range(1, 16)], abs=1e-6)


def test_what_comes_and_waits_for_nothing_changes_nothing(switch: Switch) -> None:
    for _ in range(100):
        switch.loop.go_on(0.1)
        if switch.ticker.rests:
            switch.ticker.stir()
    assert len(switch.ticks) == pytest.approx(10.0 / REST_S, abs=1)


def test_what_begins_to_wait_in_a_tick_has_its_ticks_too(switch: Switch) -> None:
    switch.loop.go_on(5.0)
    switch.waits = True
    switch.loop.go_on(REST_S)
    switch.ticks.clear()
    switch.loop.go_on(1.0)
    assert len(switch.ticks) == pytest.approx(1.0 / TICK_S, abs=1)


def test_a_stopped_one_is_silent(switch: Switch) -> None:
    switch.ticker.stop()
    switch.loop.go_on(10.0)
    assert not switch.ticks
