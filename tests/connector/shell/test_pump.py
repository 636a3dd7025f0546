"""What the switch works off between two looks at its sockets, without a daemon: its clock is the real one."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq
from tests.connector.harness import Harness, call_header

from huterox_connector.config import ConnectorConfig
from huterox_connector.core.effects import Forward
from huterox_connector.handlers.pace import REST_S_MAX
from huterox_connector.shell.switch import Switch


class Loop:
    """Notes what is to be done later."""

    def __init__(self) -> None:
        self.later: list[tuple[float, Callable[[], None]]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        pass

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        self.later.append((delay_s, callback))


class Switched:
    """A switch whose answers are counted and not sent."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", harness: Harness) -> None:
        config = ConnectorConfig(front="inproc://front", back="inproc://back", store="")
        self.switch: Any = Switch(context, config, harness.board)
        self.switch._loop = self.loop = Loop()
        self.refused: list[bytes] = []
        self.performed: list[Any] = []
        self.switch._send_front = lambda caller, frames: self.refused.append(caller)
        self.switch.perform = self.performed.extend

    def comes(self, caller: bytes, frame: bytes = b"garbage", count: int = 1) -> None:
        for _ in range(count):
            self.switch._on_caller(caller, zmq.Frame(frame), ())

    def work_off(self) -> bool:
        done: bool = self.switch._work_off()
        return done


@pytest.fixture
def harness() -> Harness:
    return Harness(calls_per_container_max=1)


@pytest.fixture
def switched(harness: Harness) -> Iterator[Switched]:
    with zmq.Context() as context:
        switched = Switched(context, harness)
        yield switched
        switched.switch._front.close(linger=0)
        switched.switch._back.close(linger=0)
        for monitor in switched.switch._monitors:
            monitor._socket.close(linger=0)


def test_flood_of_one_who_is_alone_is_worked_off_without_a_rest(switched: Switched) -> None:
    switched.comes(b"flood", count=2000)
    while not switched.work_off():
        pass
    assert switched.refused.count(b"flood") == 2000
    assert switched.loop.later == []


def test_flood_is_left_waiting_for_a_while_where_others_have_something_to_do(switched: Switched) -> None:
    switched.comes(b"flood", count=2000)
    switched.work_off()
    switched.comes(b"polite")
    while not switched.work_off():
        pass
    ((rest_s, end_rest),) = switched.loop.later
    assert 0 < rest_s <= REST_S_MAX
    before = switched.refused.count(b"flood")
    assert before < 2000
    switched.comes(b"polite")
    assert switched.work_off()
    assert switched.refused.count(b"polite") == 2
    assert switched.refused.count(b"flood") == before, "it rests"
    end_rest()
    switched.work_off()
    assert switched.refused.count(b"flood") > before


def test_call_to_a_busy_model_joins_the_line_and_takes_no_turn(switched: Switched, harness: Harness) -> None:
    node = harness.node()
    harness.service("bert")
    harness.load(node, "bert", 1, now_s=time.monotonic())
    assert harness.hit("bert", 2, now_s=time.monotonic())
    switched.comes(b"polite", call_header(harness.handles["bert"], 3))
    assert len(switched.switch._turns) == 0
    assert harness.board._faults.holds(b"polite", 3)
    harness.answer(node, 2)
    switched.comes(b"polite", call_header(harness.handles["bert"], 4))
    (forward,) = switched.performed
    assert isinstance(forward, Forward)
    assert int.from_bytes(bytes(forward.frames[0])[8:16], "little") == 3
