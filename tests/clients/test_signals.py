"""Signal handlers that raise inside pyzmq, where it runs them: after each frame that it receives or sends."""

import concurrent.futures
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np
import pytest
import zmq
import zmq.utils.garbage
from tests.clients.containers import WAIT_S
from tests.clients.interrupts import Strike, Struck
from tests.clients.lanes import eventually

import huterox
from huterox.connection import Connection
from huterox.core import Limits
from huterox.sockets import Dealer, Inbox, Outbox

LARGE = np.arange(40_000, dtype=np.int32)
"""Such a message has several frames."""

MAIN = threading.main_thread()


class Handler:
    """In the place of a socket's method: does what that does, and at its `nth` time in the main thread raises, before
    or after that.

    Attributes:
        count: how often the main thread has come here.
    """

    def __init__(self, method: Callable[..., Any]) -> None:
        self._method = method
        self._nth = 0
        self._before = False
        self.count = 0

    def arm(self, nth: int, *, before: bool = False) -> None:
        self.count = 0
        self._nth = nth
        self._before = before

    @property
    def has_struck(self) -> bool:
        return 0 < self._nth <= self.count

    def __call__(self, *args: Any) -> Any:
        if threading.current_thread() is not MAIN:
            return self._method(*args)
        self.count += 1
        strikes = self.count == self._nth
        if strikes and self._before:
            raise Struck("before")
        try:
            return self._method(*args)
        finally:
            if strikes:
                raise Struck("after")


class Bench:
    """A client whose socket can be struck."""

    def __init__(self, client: huterox.Client, double: Any) -> None:
        self.service = client.service("echo")
        self.double = double
        self.connection: Connection = self.service._routed._connection  # type: ignore[attr-defined]
        self.service(x=LARGE)  # pyzmq's thread for frames that are not copied runs
        self.receive = self.connection._inbox._receive = Handler(self.connection._inbox._receive)
        self.send = self.connection._outbox._send_one = Handler(self.connection._outbox._send_one)

    def check(self, other: ThreadPoolExecutor) -> None:
        """Everything goes on, for all threads, and nothing is left."""
        self.receive.arm(0)
        self.send.arm(0)
        for value in (1, LARGE):
            assert np.array_equal(self.service.call(x=value, timeout=3.0)["x"], value)
            result = other.submit(self.service.call, x=value, timeout=3.0).result(WAIT_S)
            assert np.array_equal(result["x"], value)
        core = self.connection.core
        eventually(lambda: not (core.in_flight_count or core.foreign_count or core._nbytes))
        assert not (self.connection._torn or self.connection._inbox._frames or self.connection._ended)


@pytest.fixture
def bench(double: Any) -> Iterator[Bench]:
    with huterox.connect(double.endpoint, timeout=WAIT_S, lanes=False) as client:
        yield Bench(client, double)


@pytest.fixture
def service_of(double: Any, containers: Any) -> Iterator[Callable[[bool], huterox.Service]]:
    with ExitStack() as stack:

        def service_of(lanes: bool) -> huterox.Service:
            client = stack.enter_context(huterox.connect(double.endpoint, timeout=WAIT_S, lanes=lanes))
            service = client.service("echo")
            assert service.path == ("lane" if lanes else "routed")
            return service

        yield service_of


@pytest.fixture
def other() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as other:
        yield other


def call(bench: Bench) -> None:
    bench.service(x=1)


def call_large(bench: Bench) -> None:
    assert bench.service(x=LARGE)["x"][-1] == LARGE[-1]


def submit(bench: Bench) -> None:
    futures = [bench.service.submit(x=value) for value in (1, LARGE, 2)]
    for future in futures:
        future.result(WAIT_S)


def stream(bench: Bench) -> None:
    assert [part["index"] for part in bench.service.stream("parts", count=3)] == [0, 1, 2]


def stream_left(bench: Bench) -> None:
    with bench.service.stream("parts", count=5) as parts:
        next(parts)


ACTIONS = [call, call_large, submit, stream, stream_left]


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("what", ["receive", "send"])
@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.__name__)
def test_a_handler_that_raises_at_any_frame_leaves_the_client_whole(
    bench: Bench, other: ThreadPoolExecutor, action: Callable[[Bench], None], what: str, before: bool
) -> None:
    handler: Handler = getattr(bench, what)
    for nth in itertools.count(1):
        handler.arm(nth, before=before)
        with suppress(Struck, huterox.Unavailable):
            action(bench)
        if not handler.has_struck:
            break
        bench.check(other)
    assert nth > 1


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_of_the_main_threads_own_futures_one_at_most_is_lost_and_says_so(
    bench: Bench, other: ThreadPoolExecutor, before: bool
) -> None:
    values = [1, LARGE, 2, LARGE, LARGE, 3]
    for nth in itertools.count(1):
        bench.double.go.clear()
        futures = [bench.service.submit("held", x=value) for value in values]
        eventually(lambda: len(bench.double._held) == len(values))
        with suppress(Struck), bench.connection._section:
            bench.double.go.set()
            eventually(lambda: not bench.double._held)
            bench.receive.arm(nth, before=before)
            eventually(lambda: bench.connection._read() or not bench.connection.core.in_flight_count)
        has_struck = bench.receive.has_struck
        bench.receive.arm(0)
        lost = 0
        for future, value in zip(futures, values, strict=True):
            try:
                assert np.array_equal(future.result(3.0)["x"], value)
            except huterox.Unavailable as error:
                assert error.details["executed"] == "maybe"
                lost += 1
        assert lost <= 1
        if not has_struck:
            assert not lost
            break
        bench.check(other)
    assert nth > len(values)


def test_the_main_thread_receives_nothing_while_calls_of_other_threads_are_under_way(
    bench: Bench, other: ThreadPoolExecutor
) -> None:
    held = other.submit(bench.service.call, "held", x=LARGE)
    eventually(lambda: bench.double._held)
    bench.receive.arm(1)
    for value in (1, LARGE):
        assert np.array_equal(bench.service(x=value)["x"], value)
        assert np.array_equal(bench.service.submit(x=value).result(WAIT_S)["x"], value)
    assert len(list(bench.service.stream("parts", count=3))) == 3
    assert bench.receive.count == 0
    bench.double.go.set()
    assert held.result(WAIT_S)["x"][-1] == LARGE[-1]


def test_nor_while_futures_of_other_threads_are_that_nobody_waits_for(bench: Bench, other: ThreadPoolExecutor) -> None:
    held: Future[Any] = other.submit(bench.service.submit, "held", x=LARGE).result(WAIT_S)
    bench.receive.arm(1)
    for value in (1, LARGE):
        assert np.array_equal(bench.service(x=value)["x"], value)
        assert np.array_equal(bench.service.submit(x=value).result(WAIT_S)["x"], value)
    assert bench.receive.count == 0
    bench.double.go.set()
    assert held.result(WAIT_S)["x"][-1] == LARGE[-1]


def test_nor_while_another_thread_waits_for_a_future_of_the_main_thread(
    bench: Bench, other: ThreadPoolExecutor
) -> None:
    held = bench.service.submit("held", x=LARGE)
    waiting = other.submit(held.result, WAIT_S)
    eventually(lambda: bench.connection.core.foreign_count)
    bench.receive.arm(1)
    for value in (1, LARGE):
        assert np.array_equal(bench.service(x=value)["x"], value)
    assert bench.receive.count == 0
    bench.double.go.set()
    assert waiting.result(WAIT_S)["x"][-1] == LARGE[-1]


def test_a_main_thread_that_reads_leaves_it_to_others_once_they_have_calls(
    bench: Bench, other: ThreadPoolExecutor
) -> None:
    def call_and_go() -> bool:
        eventually(lambda: bench.connection._polled_for is not None)  # the main thread leads
        bench.receive.arm(1)
        held = other.submit(bench.service.call, "held", x=LARGE)
        eventually(lambda: len(bench.double._held) == 2)
        for _ in range(10):
            assert bench.service(x=1) == {"x": 1}
        bench.double.go.set()
        return bool(held.result(WAIT_S)["x"][-1] == LARGE[-1])

    going = other.submit(call_and_go)
    assert bench.service.call("held", x=2) == {"x": 2}
    assert going.result(WAIT_S)
    assert bench.receive.count <= 2  # none but its own, after the other one's


def test_a_handler_that_raises_disturbs_no_call_of_another_thread(bench: Bench, other: ThreadPoolExecutor) -> None:
    stop = threading.Event()

    def go_on() -> int:
        count = 0
        while not stop.is_set():
            futures = [bench.service.submit(x=value, timeout=5.0) for value in (count, LARGE)]
            assert np.array_equal(bench.service.call(x=LARGE, timeout=5.0)["x"], LARGE)
            assert futures[0].result(WAIT_S) == {"x": count}
            assert np.array_equal(futures[1].result(WAIT_S)["x"], LARGE)
            count += 1
        return count

    going = [other.submit(go_on) for _ in range(2)]
    try:
        for nth in range(60):
            handler = bench.receive if nth % 2 else bench.send
            handler.arm(1 + nth % 3, before=nth % 5 == 0)
            for action in (call, call_large, submit):
                with suppress(Struck, huterox.Unavailable):
                    action(bench)
            handler.arm(0)
    finally:
        stop.set()
    assert all(thread.result(WAIT_S) > 0 for thread in going)
    bench.check(other)


def test_interrupts_inside_the_standard_library_leave_pyzmqs_thread_for_uncopied_frames(
    bench: Bench, other: ThreadPoolExecutor
) -> None:
    thread = zmq.utils.garbage.gc.thread
    for nth in itertools.count(1):
        with Strike(nth, "opcode", (threading.__file__,)) as strike:
            call_large(bench)
            zmq.Frame(bytes(10**6), copy=False)
        if not strike.where:
            break
        assert zmq.utils.garbage.gc.thread is thread, strike.where
    assert thread in threading.enumerate()
    bench.check(other)


# --- futures ----------------------------------------------------------------------------------------------------------

STDLIB = (threading.__file__, str(concurrent.futures._base.__file__))


@pytest.mark.parametrize("whose", ["main", "other"])
@pytest.mark.parametrize("lanes", [False, True], ids=["routed", "lane"])
def test_a_main_thread_interrupted_inside_a_future_holds_up_nobody_else(
    service_of: Callable[[bool], huterox.Service], other: ThreadPoolExecutor, lanes: bool, whose: str
) -> None:
    service = service_of(lanes)
    for nth in itertools.count(1):
        futures = [service.submit(x=1) if whose == "main" else other.submit(service.submit, x=1).result(WAIT_S)]
        waiting = [other.submit(concurrent.futures.wait, futures, WAIT_S), other.submit(futures[0].result, WAIT_S)]
        with Strike(nth, "opcode", STDLIB) as strike:
            futures[0].result(WAIT_S)
        assert not waiting[0].result(WAIT_S).not_done, strike.where
        assert waiting[1].result(WAIT_S) == {"x": 1}, strike.where
        assert other.submit(futures[0].result, WAIT_S).result(WAIT_S) == {"x": 1}, strike.where
        if not strike.where:
            break


def test_closing_in_the_main_thread_tells_the_futures_of_others(bench: Bench, other: ThreadPoolExecutor) -> None:
    future = other.submit(bench.service.submit, "silent").result(WAIT_S)
    told = threading.Event()
    future.add_done_callback(lambda _: told.set())
    waiting = other.submit(future.exception, WAIT_S)
    bench.connection.close()
    assert isinstance(waiting.result(WAIT_S), huterox.Cancelled)
    assert told.wait(WAIT_S)


# --- the sockets alone ------------------------------------------------------------------------------------------------


@pytest.fixture
def pair() -> Iterator[tuple[Any, Any]]:
    with zmq.Context() as context, context.socket(zmq.PAIR) as left, context.socket(zmq.PAIR) as right:
        left.bind("inproc://pair")
        right.connect("inproc://pair")
        left.linger = right.linger = 0
        yield left, right


def _received(inbox: Inbox) -> list[list[bytes]]:
    messages = []
    more = True
    while more:
        more = inbox.fill(1)
        while (message := inbox.first()) is not None:
            messages.append([bytes(frame) for frame in message])
            inbox.drop(message)
    return messages


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_of_messages_received_one_is_lost_at_most_and_none_is_mixed(pair: tuple[Any, Any], before: bool) -> None:
    left, right = pair
    messages = [[b"a"], [b"b1", b"", b"b3"], [b"c1", b"c2"], [b"d"], [b"e1", b"e2"]]
    for nth in range(1, sum(map(len, messages)) + 1):
        inbox = Inbox(right)
        handler = inbox._receive = Handler(inbox._receive)
        handler.arm(nth, before=before)
        for message in messages:
            left.send_multipart(message)
        with pytest.raises(Struck):
            while inbox.fill_in_main(2):
                pass
        handler.arm(0)
        inbox.mend()
        assert inbox.is_doubtful
        received = _received(inbox)
        assert all(message in messages for message in received)
        assert len(received) >= len(messages) - 1
        assert received == sorted(received)


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_a_message_that_was_not_sent_whole_swallows_no_other(pair: tuple[Any, Any], before: bool) -> None:
    left, right = pair
    message: list[Any] = [b"1", b"2", b"3"]
    for nth in range(1, len(message) + 1):
        outbox = Outbox(left)
        outbox.send(message)
        handler = outbox._send_one = Handler(outbox._send_one)
        handler.arm(nth, before=before)
        with pytest.raises(Struck):
            outbox.send(message)
        for _ in range(2):  # interrupted once more while it is mended
            handler.arm(1, before=before)
            with pytest.raises(Struck):
                outbox.send([b"next"])
        handler.arm(0)
        outbox.send([b"next"])
        first, *broken, last = _received(Inbox(right))
        assert (first, last) == (message, [b"next"])
        assert all(frames[-1] == b"" or frames in (message, [b"next"]) for frames in broken)


def test_a_connection_whose_notice_an_interrupt_took_along_counts(tmp_path: Any) -> None:
    endpoint = f"ipc://{tmp_path}/s.ipc"
    dealer = Dealer(endpoint, Limits())
    try:
        with zmq.Context() as context:
            for is_first in (True, False):
                with context.socket(zmq.ROUTER) as router:
                    router.bind(endpoint)
                    assert dealer.monitor.poll(WAIT_S * 1000)
                    if is_first:
                        assert not dealer.has_reconnected()
                        dealer.told()
                    else:
                        real = dealer.monitor.recv
                        handler = Handler(real)
                        for nth in (1, 1):
                            handler.arm(nth)
                            dealer.monitor.recv = handler  # type: ignore[method-assign]
                            with pytest.raises(Struck):
                                dealer.has_reconnected()
                        dealer.monitor.recv = real  # type: ignore[method-assign]
                        assert dealer.has_reconnected()
                        dealer.told()
                        assert not dealer.has_reconnected()
    finally:
        dealer.close()
