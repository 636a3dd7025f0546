"""The line of one group: in turns, and the one with most loses where it is full."""

from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from huterox_connector.core.line import STALE_MAX, Line
from huterox_connector.core.records import WaitingCall


def call(service: int, caller: bytes, request_id: int) -> WaitingCall:
    return WaitingCall(caller, request_id, cast(Any, SimpleNamespace(id=service)), 9.0, 0.0, [], 1)


def filled(*calls: WaitingCall) -> Line:
    line = Line()
    for each in calls:
        line.append(each)
    return line


def names(line: Line) -> list[tuple[int, bytes, int]]:
    """All that is in it, in turns."""
    return [(w.service.id, w.caller, w.request_id) for w in (line.take_next() for _ in range(len(line)))]


def test_services_take_turns_and_within_them_their_callers_do() -> None:
    flood = [call(1, caller, n) for caller in (b"a", b"b") for n in range(3)]
    line = filled(*flood, call(2, b"polite", 0), call(2, b"polite", 1))
    assert names(line) == [
        (1, b"a", 0),
        (2, b"polite", 0),
        (1, b"b", 0),
        (2, b"polite", 1),
        (1, b"a", 1),
        (1, b"b", 1),
        (1, b"a", 2),
        (1, b"b", 2),
    ]


def test_late_comer_waits_for_one_call_of_each_other_and_not_for_all() -> None:
    line = filled(*(call(1, b"%d" % caller, n) for caller in range(8) for n in range(100)))
    line.append(call(2, b"polite", 0))
    assert line.oldest.caller == b"0"
    assert [line.take_next().caller for _ in range(2)][1] == b"polite"


def test_calls_of_one_caller_keep_their_order_whatever_leaves() -> None:
    calls = [call(1, b"a", n) for n in range(6)]
    line = filled(*calls)
    for gone in (calls[0], calls[3]):
        line.remove(gone)
    assert len(line) == 4
    assert [n for _, _, n in names(line)] == [1, 2, 4, 5]


@pytest.mark.parametrize(
    ("newcomer", "loser"),
    [
        ((2, b"x", 0), (1, b"a", 4)),  # another service: the newest call of the longest one's longest caller
        ((1, b"c", 0), (1, b"a", 4)),  # another caller of the same service
        ((1, b"b", 9), (1, b"a", 4)),  # one that has fewer
        ((1, b"a", 9), (1, b"a", 9)),  # who has most gets no more
    ],
)
def test_who_has_most_in_a_full_line_loses(newcomer: tuple[int, bytes, int], loser: tuple[int, bytes, int]) -> None:
    line = filled(*(call(1, b"a", n) for n in range(5)), *(call(1, b"b", n) for n in range(2)))
    gone = line.who_must_go(call(*newcomer))
    assert (gone.service.id, gone.caller, gone.request_id) == loser


def test_service_that_has_as_much_as_the_longest_loses_its_own_newcomer() -> None:
    line = filled(*(call(1, b"a", n) for n in range(3)), *(call(2, b"b", n) for n in range(3)))
    newcomer = call(2, b"b", 9)
    assert line.who_must_go(newcomer) is newcomer


def test_calls_that_left_do_not_pile_up() -> None:
    line = filled(call(1, b"a", 0))
    for n in range(1, 10 * STALE_MAX):
        line.append(gone := call(1, b"a", n))
        line.remove(gone)
    assert sum(map(len, line._turns[1].values())) <= STALE_MAX + 3


@given(st.lists(st.tuples(st.integers(1, 3), st.sampled_from([b"a", b"b", b"c"]), st.booleans(), st.booleans())))
def test_line_holds_what_came_and_has_not_left(steps: list[tuple[int, bytes, bool, bool]]) -> None:
    line, model = Line(), dict[int, WaitingCall]()
    for number, (service, caller, takes, removes) in enumerate(steps):
        line.append(came := call(service, caller, number))
        model[number] = came
        if takes:
            turns = {w.service.id for w in model.values()}
            taken = line.take_next()
            assert model.pop(taken.request_id) is taken
            of_same = [w for w in model.values() if (w.service.id, w.caller) == (taken.service.id, taken.caller)]
            assert all(w.request_id > taken.request_id for w in of_same)
            assert taken.service.id in turns
        if removes and model:
            line.remove(model.pop(max(model)))
        assert list(line) == list(model.values())
        assert line._of_services == Counter(w.service.id for w in model.values())
        assert line._of_callers == Counter((w.service.id, w.caller) for w in model.values())
    left = names(line)
    assert sorted(n for _, _, n in left) == sorted(model)
