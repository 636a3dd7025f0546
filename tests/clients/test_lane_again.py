"""Calls that their container gave back: a future sends them another way, once, whoever asks or is interrupted."""

import gc
import itertools
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from contextlib import closing, suppress
from typing import Any

import pytest
from tests.clients.containers import WAIT_S
from tests.clients.interrupts import Strike

import huterox
from huterox.futures import CallFuture
from huterox.lane_futures import LaneFuture
from huterox.lease import LaneGone


@pytest.fixture
def no_collection():
    """What strikes in a garbage collection Python swallows."""
    gc.disable()
    yield
    gc.enable()


class Again(CallFuture):
    """One that a background thread ends where another was interrupted while it did, as a channel's does."""

    def __init__(self, background: ThreadPoolExecutor) -> None:
        super().__init__()
        self._background = background

    def cancel(self) -> bool:
        try:
            self._be_cancelled()
        except BaseException:
            self._background.submit(self._end_with, None, huterox.Cancelled("interrupted"))
            raise
        return self.cancelled()


class Gone:
    """Stands for a lane whose container has ended before the call, for its core, and for the router."""

    def __init__(self) -> None:
        self.core = self
        self.sent: list[CallFuture] = []
        self.is_late = False
        self._background = ThreadPoolExecutor(1)

    def future(self) -> LaneFuture:
        future = LaneFuture(self, self)
        future.request = (b"", ())
        future.error = LaneGone("the container has ended before the call", 1.0)
        future.ended = True
        future.owner = future
        return future

    def claim(self, call: Any) -> bool:
        owner, call.owner = call.owner, None
        return owner is not None

    def settle(self, call: Any) -> bool:
        owner = call.owner
        if not self.claim(call):
            return False
        try:
            owner.settle(call)
        except BaseException:
            self.hand_over(call, owner)
            raise
        return True

    def hand_over(self, call: Any, owner: Any) -> None:
        call.owner = owner
        self._background.submit(self.settle, call)

    def own(self, call: Any, owner: Any) -> bool:
        call.owner = None
        return False

    def outcome(self, call: Any) -> Any:
        raise call.error

    def submit_again(self, meta: bytes, tensors: Any, deadline_s: float) -> CallFuture:
        again = Again(self._background)
        self.sent.append(again)
        if self.is_late:
            self._background.submit(again.set_result, {"x": 1})
        else:
            again.set_result({"x": 1})
        return again

    def close(self) -> None:
        self._background.shutdown()


def test_a_call_whose_end_two_threads_learn_of_goes_another_way_once():
    gone = Gone()
    future = gone.future()
    future.settle(future)
    future.settle(future)
    assert len(gone.sent) == 1
    assert future.result(1.0) == {"x": 1}


@pytest.mark.parametrize("is_claimed", [False, True])
@pytest.mark.parametrize(
    "ask",
    [
        lambda future: future.result(1.0),
        lambda future: (future.exception(1.0), future.result(1.0))[1],
        lambda future: future.result(1.0) if wait([future], 1.0).done else None,
        lambda future: future.result(1.0) if future.done() else None,
        lambda future: future.result(1.0) if not future.cancel() else None,
    ],
)
def test_who_asks_before_anybody_has_told_of_the_end_sends_the_call_another_way(ask, is_claimed):
    """Between the container's end and the moment in which the thread that has read of it tells the future."""
    gone = Gone()
    future = gone.future()
    if is_claimed:
        gone.claim(future)  # by a thread that then loses its processor
    assert ask(future) == {"x": 1}
    assert len(gone.sent) == 1


@pytest.mark.parametrize("event", ["line", "opcode"])
@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize(
    "ask", [lambda future: future.result(1.0), lambda future: wait([future], 1.0), lambda future: future.cancel()]
)
def test_who_is_interrupted_while_a_call_is_sent_another_way_leaves_nobody_waiting(ask, is_late, event, no_collection):
    with closing(Gone()) as gone, ThreadPoolExecutor(1) as other:
        gone.is_late = is_late
        for nth in itertools.count(1):
            future = gone.future()
            with Strike(nth, event) as strike:
                ask(future)
            with suppress(huterox.Cancelled, CancelledError):
                assert other.submit(future.result, WAIT_S).result(WAIT_S) == {"x": 1}, strike.where
            assert not other.submit(wait, [future], WAIT_S).result(WAIT_S).not_done, strike.where
            if not strike.where:
                break
    assert nth > 10
    assert len(gone.sent) <= nth


class Slow(CallFuture):
    """One that takes all the time that somebody waits for it, on a clock of its own, or is interrupted."""

    def __init__(self, clock: list[float], error: BaseException) -> None:
        super().__init__()
        self._clock = clock
        self._error = error

    def exception(self, timeout=None):
        self._clock[0] += timeout
        raise self._error


def test_who_waits_for_a_call_that_goes_on_elsewhere_can_be_interrupted():
    gone = Gone()
    gone.submit_again = lambda *_: Slow([0.0], KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        gone.future().result(60.0)


@pytest.mark.parametrize("method", [LaneFuture.result, LaneFuture.exception])
def test_waiting_for_a_call_that_goes_on_elsewhere_takes_no_longer_than_asked(method, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("huterox.lane_futures.monotonic", lambda: clock[0])
    gone = Gone()
    gone.submit_again = lambda *_: Slow(clock, TimeoutError())
    with pytest.raises(TimeoutError):
        method(gone.future(), 1000.0)  # no more than that: the test's own time is up before it is twice that
    assert clock == [1000.0]


def test_two_threads_that_tell_one_future_call_its_callbacks_once_each():
    """The other thread takes the last one between this thread's look and its hold."""

    class Taken(list):
        def __bool__(self):
            return True

    future = CallFuture()
    told = []
    future._done_callbacks = Taken([told.append])
    future.set_result({})
    future._end_with({}, None)
    assert told == [future]
