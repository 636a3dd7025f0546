"""A thread that is interrupted at any step of a call: the next call answers, in every thread, and nothing is left."""

import gc
import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from tests.clients.containers import WAIT_S, ContainerDouble
from tests.clients.interrupts import Strike, Struck, sweep
from tests.clients.lanes import descriptor_count, eventually

import huterox
from huterox import sockets
from huterox.lane import LaneConnection

LARGE = np.arange(40_000, dtype=np.int32)


@pytest.fixture(params=["routed", "lane"])
def service(request: pytest.FixtureRequest, double: Any, containers: Any) -> Iterator[huterox.Service]:
    with huterox.connect(double.endpoint, timeout=WAIT_S, lanes=request.param == "lane") as client:
        service = client.service("echo")
        assert service.path == request.param
        yield service


@pytest.fixture
def other() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as other:
        yield other


def call(service: huterox.Service) -> None:
    service(x=np.arange(5), flag=True)


def call_large(service: huterox.Service) -> None:
    assert service(x=LARGE)["x"][-1] == LARGE[-1]


def submit(service: huterox.Service) -> None:
    service.submit(x=np.arange(5)).result(WAIT_S)


def submit_told(service: huterox.Service) -> None:
    told: list[Any] = []
    future = service.submit(x=1)
    future.add_done_callback(told.append)
    future.result(WAIT_S)
    assert told


def submit_cancelled(service: huterox.Service) -> None:
    future = service.submit(x=1)
    if not future.cancel():
        future.result(WAIT_S)


def stream(service: huterox.Service) -> None:
    assert [part["index"] for part in service.stream("parts", count=3)] == [0, 1, 2]


def stream_left(service: huterox.Service) -> None:
    with service.stream("parts", count=5) as parts:
        next(parts)


def empty(service: huterox.Service) -> None:
    array = service.empty((3, 4), "float32")
    array[:] = 5
    service(x=array)


def empty_twice(service: huterox.Service) -> None:
    """The first one's block is given back in the midst of the second."""
    empty(service)
    empty(service)


def call_of_new_form(service: huterox.Service) -> None:
    """A shape that comes for the first time; the check calls with it again."""
    global fresh
    fresh = next(shapes)
    service(x=np.full(fresh, 3))


shapes = ((*(1,) * ones, rows, columns) for ones in range(7) for rows in range(1, 32) for columns in range(1, 32))
"""Thousands, all of them small: what is copied out of the lane leaves nothing there."""

fresh = next(shapes)


def fail(service: huterox.Service) -> None:
    with pytest.raises(huterox.ModelError):
        service.call("fail")


class Checker:
    """The same client goes on as before, whatever has happened in it."""

    def __init__(self, service: huterox.Service, other: ThreadPoolExecutor, containers: list[ContainerDouble]) -> None:
        self._container = containers[0] if containers else None
        self._service = service
        self._other = other
        self._connection = service._routed._connection  # type: ignore[attr-defined]
        self._lane = service._lease.lane
        self._number = 0
        self._path = service.path

    def __call__(self, where: str) -> None:
        try:
            self._calls()
            eventually(self._is_clean)
        except BaseException as exc:
            raise AssertionError(f"after an interrupt at {where}: {exc!r}; {self._state()}") from exc

    def _calls(self) -> None:
        for run in (self._call, lambda: self._other.submit(self._call).result(WAIT_S)):
            run()
        assert self._service.path == self._path
        assert self._service._lease.lane is self._lane

    def _call(self) -> None:
        self._number += 1
        x = np.full(fresh, self._number)
        assert np.array_equal(self._service.call(x=x, timeout=3.0)["x"], x)

    def _is_clean(self) -> bool:
        return not any(self._state().values())

    def _state(self) -> dict[str, Any]:
        """What is left of calls that are over."""
        channels = [self._connection] if self._lane is None else [self._connection, self._lane]
        state: dict[str, Any] = {}
        for channel in channels:
            name = type(channel).__name__
            state |= {
                f"{name} in flight": channel.core.in_flight_count,
                f"{name} bytes": getattr(channel.core, "_nbytes", 0),
                f"{name} followers": [*channel._followers, *channel._following],
                f"{name} foreign": channel.core.foreign_count,
                f"{name} torn": channel._torn,
                f"{name} untold": [*channel._ended, *channel.core.news],
            }
        if self._lane is not None:
            end = self._lane._end
            if end.releases_pending or self._lane.core._gone:
                self._call()  # they go with the next call
            state |= {
                "request blocks": dict(end.out),
                "owned": end.owned_count,
                "kept": dict(end._kept),
                "held": dict(self._lane.core.held),
                "rooms": list(self._lane._rooms),
                "reply blocks": len(self._container.lane.out) - end.releases_pending,
            }
        return state


ACTIONS = [call, call_large, call_of_new_form, submit, submit_told, submit_cancelled, stream, stream_left]
ACTIONS += [empty, empty_twice, fail]


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.__name__)
def test_a_call_interrupted_at_any_line_leaves_the_client_whole(
    service: huterox.Service,
    other: ThreadPoolExecutor,
    containers: list[ContainerDouble],
    action: Callable[[huterox.Service], None],
) -> None:
    assert _sweep(service, other, containers, action) > 20


STEP = 61
STEPS_MIN = 100 if sys.version_info < (3, 13) else 20  # 3.13 has fewer and larger byte codes
"""A prime: the short sweep meets each of the longer functions somewhere."""


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.__name__)
def test_a_call_interrupted_between_two_byte_codes(
    service: huterox.Service,
    other: ThreadPoolExecutor,
    containers: list[ContainerDouble],
    action: Callable[[huterox.Service], None],
) -> None:
    assert _sweep(service, other, containers, action, "opcode", STEP) > STEPS_MIN


@pytest.mark.soak
@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.__name__)
def test_a_call_interrupted_between_any_two_byte_codes(
    service: huterox.Service,
    other: ThreadPoolExecutor,
    containers: list[ContainerDouble],
    action: Callable[[huterox.Service], None],
) -> None:
    assert _sweep(service, other, containers, action, "opcode") > 100


def _sweep(
    service: huterox.Service,
    other: ThreadPoolExecutor,
    containers: list[ContainerDouble],
    action: Callable[[huterox.Service], None],
    event: str = "line",
    step: int = 1,
) -> int:
    for _ in range(3):
        action(service)  # forms are told, threads run
    check = Checker(service, other, containers)
    check("nothing")
    count = sweep(lambda: action(service), check, event, step)
    gc.collect()
    check("all")
    return count


def test_whoever_takes_the_lock_next_mends_what_an_interrupt_has_left_and_is_not_disturbed(
    lane: LaneConnection, other: ThreadPoolExecutor
) -> None:
    def in_other(value: int) -> None:
        assert other.submit(lane.call, "predict", {"x": value}, WAIT_S).result(WAIT_S) == {"x": value}

    for nth in itertools.count(1):
        array = lane.empty((3, 4), "float32")
        lane.call("predict", {"x": array}, WAIT_S)
        del array
        with Strike(nth) as strike, lane._section:
            kept = lane.core.empty((3, 4), "float32")  # the block of the other one is given back first
            del kept
            lane.core.tend()
        with suppress(RuntimeError):
            while True:
                lane._lock.release()
        in_other(nth)
        if not strike.where:
            break
    assert nth > 30


@pytest.mark.parametrize(("whose", "step"), [("connection", 1), ("lane", 11), ("leases", 1)])
def test_a_second_interrupt_while_a_thread_sets_right_what_the_first_has_left(
    double: Any, containers: Any, other: ThreadPoolExecutor, whose: str, step: int
) -> None:
    gc.disable()  # what strikes in a garbage collection Python swallows
    try:
        for nth in itertools.count(1, step):
            with huterox.connect(double.endpoint, timeout=WAIT_S, lanes=whose != "connection") as client:
                strike = _interrupt_twice(client, whose, nth)
                service = client.service("echo")
                assert other.submit(service.call, x=nth, timeout=3.0).result(WAIT_S) == {"x": nth}, strike.where
            if not strike.where:
                break
    finally:
        gc.enable()
    assert nth > 10


def _interrupt_twice(client: huterox.Client, whose: str, nth: int) -> Strike:
    """In the midst of a method of the connection, of a lane or of the leases, and at the nth line of what follows."""
    service = client.service("echo")
    lane, leases = service._lease.lane, client._leases
    assert lane is not None or whose == "connection"
    struck: Any
    struck, method, act = {
        "connection": (client._connection, "_begin", service),
        "lane": (lane, "_publish", service),
        "leases": (leases, "_wake", lambda: leases._on_end(service._lease, lane)),  # type: ignore[arg-type]
    }[whose]
    recover, first = struck._recover, getattr(struck, method)
    strike = Strike(nth)

    def interrupted(*args: Any, **kwargs: Any) -> None:
        setattr(struck, method, first)
        raise Struck

    def recover_interrupted(*args: Any) -> None:
        with strike:
            recover(*args)

    setattr(struck, method, interrupted)
    struck._recover = recover_interrupted
    with suppress(BaseException):  # a tracer that raises where an error is suppressed can bring that one back
        act()
    struck._recover = recover
    return strike


# --- opening and closing ----------------------------------------------------------------------------------------------


def _open_and_close(double: Any, lanes: bool) -> None:
    with huterox.connect(double.endpoint, timeout=WAIT_S, lanes=lanes) as client:
        service = client.service("echo")
        assert service.path == "lane" if lanes else "routed"
        assert service(x=1) == {"x": 1}
        assert service.submit(x=2).result(WAIT_S) == {"x": 2}


def _sweep_opening(double: Any, containers: list[ContainerDouble], lanes: bool, step: int) -> None:
    """A client that was interrupted while it was made, opened a service or was closed, and is then dropped."""

    def close_containers() -> None:
        while containers:
            containers.pop().close()

    def check(where: str) -> None:
        try:
            _open_and_close(double, lanes)
            close_containers()
            eventually(lambda: _left() <= before)
        except BaseException as exc:
            raise AssertionError(f"after an interrupt at {where}: {exc!r}; {_left()}, before {before}") from exc

    for _ in range(2):
        _open_and_close(double, lanes)
    close_containers()
    before = _left()
    check("nothing")
    gc.disable()  # what strikes in a garbage collection Python swallows; `_left` collects
    try:
        assert sweep(lambda: _open_and_close(double, lanes), check, step=step) > 100
    finally:
        gc.enable()


def _left() -> tuple[int, int]:
    gc.collect()
    sockets.bury()
    return threading.active_count(), descriptor_count()


@pytest.mark.parametrize("lanes", [False, True])
def test_a_client_interrupted_while_it_opens_or_closes_leaves_nothing(
    double: Any, containers: list[ContainerDouble], lanes: bool
) -> None:
    _sweep_opening(double, containers, lanes, step=97)


@pytest.mark.parametrize("is_started", [False, True])
@pytest.mark.parametrize("lanes", [False, True])
def test_a_client_can_be_closed_whose_thread_was_interrupted_while_it_was_started(
    double: Any, containers: list[ContainerDouble], monkeypatch: pytest.MonkeyPatch, lanes: bool, is_started: bool
) -> None:
    start = threading.Thread.start

    def strike(thread: threading.Thread) -> None:
        is_ours = thread.name.startswith("huterox") and threading.current_thread() is threading.main_thread()
        if is_started or not is_ours:
            start(thread)
        if is_ours:
            raise Struck

    client = huterox.connect(double.endpoint, timeout=WAIT_S, lanes=lanes)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", strike)
        with pytest.raises(Struck):
            client.service("echo").submit(x=1)
        with suppress(Struck):
            client.close()
    client.close()
    _open_and_close(double, lanes)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings(
    "ignore:unclosed <socket:ResourceWarning"
)  # whose making was interrupted: its end closes it
@pytest.mark.parametrize("lanes", [False, True])
def test_a_client_interrupted_at_any_line_of_opening_or_closing_leaves_nothing(
    double: Any, containers: list[ContainerDouble], lanes: bool
) -> None:
    _sweep_opening(double, containers, lanes, step=1)
