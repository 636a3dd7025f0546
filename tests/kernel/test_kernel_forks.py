"""What a model forks is no second worker, whatever way it comes back."""

import signal
from typing import Any

import numpy as np
import psutil
import pytest

from .caller import Caller
from .conftest import Switchboard
from .numbered import Numbered

pytestmark = [pytest.mark.system, pytest.mark.timeout(90)]

A, B = 1 << 32 | 1, 1 << 32 | 2
CAME_BACK = 70
SAYS = "A process that the model forked came back"


def answers_right(switchboard: Switchboard, caller: Caller, numbered: Numbered | None = None) -> None:
    """Twenty calls of each kind: a second worker answered some of them, or took them away."""
    short = [(index, numbered.send(x=np.full(3, index))) for index in range(20)] if numbered else []
    sent = [(index, caller.send("predict", x=np.full(3, index))) for index in range(20)]
    routed = [(index, switchboard.call(A, "predict", x=np.full(3, index))) for index in range(20)]
    for index, call_id in sent:
        assert caller.answer(call_id)["result"].tolist() == [index + 1] * 3
    for index, call in short:
        assert numbered is not None
        assert numbered.answer(call)["result"].tolist() == [index + 1] * 3
    for index, request_id in routed:
        (answer,) = switchboard.parts_and_answer(request_id)
        assert answer.values["result"].tolist() == [index + 1] * 3


def parts(switchboard: Switchboard, method: str) -> list[int]:
    *streamed, _ = switchboard.parts_and_answer(switchboard.call(A, method, stream=True))
    return [part.values["result"] for part in streamed]


@pytest.mark.parametrize("past_python", [False, True], ids=["os.fork", "fork in C"])
def test_a_child_that_comes_back_to_the_worker_ends_there(switchboard: Switchboard, past_python: bool) -> None:
    switchboard.start()
    switchboard.created(A, "forks.py:Forks", params={"past_python": past_python})
    caller = switchboard.caller(A)
    numbered = Numbered(switchboard.caller(A))
    x = np.ones(2, np.int64)
    numbered.result("predict", x=x)
    ways: dict[str, Any] = {
        "returns": lambda: [caller.result("returns", x=x)["result"][0]],
        "returns, routed": lambda: [switchboard.result(A, "returns", x=x)["result"][0]],
        "returns, numbered": lambda: [numbered.result("returns", x=x)["result"][0] for _ in range(3)],
        "gives": lambda: [caller.result("gives")["pid"]],
        "raises": lambda: [caller.result("raises")["result"]],
        "exits": lambda: [caller.result("exits")["result"]],
        "streams": lambda: parts(switchboard, "streams"),
        "streams_once": lambda: parts(switchboard, "streams_once")[1:],
        "grandchild": lambda: [caller.result("grandchild")["result"]],
        "odd_result": lambda: [switchboard.result(A, "odd_result")["pid"]],
    }
    for way, run in ways.items():
        for pid in run():
            assert pid, way
            assert caller.result("wait", pid=int(pid)) == {"result": CAME_BACK}, way
        answers_right(switchboard, caller, numbered)
    assert SAYS in switchboard.admin("logs", container=A)["text"]

    assert numbered.result("lets_go_of_a_result", x=x)["result"].tolist() == [0, 1, 2, 3]
    ended = caller.result("wait", pid=caller.result("left")["result"])
    assert ended == {"result": -signal.SIGSEGV if past_python else CAME_BACK}  # it has no ring to answer in
    answers_right(switchboard, caller, numbered)

    (pid,) = set(
        switchboard.result(A, "allocates")["result"].tolist()
    )  # the child is refused, and comes back with that
    assert caller.result("wait", pid=pid) == {"result": CAME_BACK}
    if not past_python:  # there Python itself may wait in the child, for a thread that only the worker has
        assert caller.result("wait", pid=caller.result("from_thread")["result"]) == {"result": 0}
    assert caller.result("lets_go", x=np.zeros(4096)) == {"result": 3}
    assert caller.result("works", x=np.arange(5000.0)) == {"result": 12497500.0}
    answers_right(switchboard, caller, numbered)


@pytest.mark.parametrize("past_python", [False, True], ids=["os.fork", "fork in C"])
@pytest.mark.parametrize("at_load", ["return", "raise"])
def test_a_child_that_comes_back_from_a_load_ends_there(
    switchboard: Switchboard, at_load: str, past_python: bool
) -> None:
    switchboard.start()
    ready = switchboard.created(A, "forks.py:Forks", params={"at_load": at_load, "past_python": past_python})
    (child,) = psutil.Process(ready.pid).children()
    switchboard.until(lambda: child.status() == psutil.STATUS_ZOMBIE)
    answers_right(switchboard, switchboard.caller(A))
    assert SAYS in switchboard.admin("logs", container=A)["text"]
    assert [event.what for event in switchboard.events] == ["loading", "ready"]
