"""Calls to a busy model join those that wait, without a detour; the same comes of them as with one."""

import random
from typing import Any

import pytest
from tests.connector.harness import CALLER, Harness, call_header, forwarded, refused

from huterox_connector.core import effects as asked
from huterox_connector.core import events as happened
from huterox_wire.header import pack_header
from huterox_wire.kinds import Kind
from huterox_wire.route import CALLER as CALLER_IN_ROUTE


def busy(**config: Any) -> tuple[Harness, bytes, int]:
    """A model whose only container has as many calls as it takes: 2, 3 and 4."""
    harness = Harness(calls_per_container_max=3, **config)
    node = harness.node()
    harness.service("bert")
    harness.service("other", model="bert", tenant="t2")
    container = harness.load(node, "bert", 1)
    assert all(harness.hit("bert", request_id) for request_id in (2, 3, 4))
    return harness, node, container


def join(
    harness: Harness, service: str, request_id: int, now_s: float = 0.0, caller: bytes = CALLER, nbytes: int = 40
) -> list[asked.Effect] | None:
    return harness.board.join(caller, [call_header(harness.handles[service], request_id)], nbytes, now_s)


def test_call_that_has_joined_is_forwarded_in_its_turn_with_the_time_that_is_left() -> None:
    harness, node, container = busy()
    assert join(harness, "bert", 5) == []
    assert join(harness, "other", 1, 0.1, b"polite") == []
    assert join(harness, "bert", 6, 0.1) == []
    harness.answer(node, 2)
    harness.answer(node, 3)
    first, second = forwarded(harness.on(happened.ContainerFreed(container), 1.0))
    assert [first.route[CALLER_IN_ROUTE], second.route[CALLER_IN_ROUTE]] == [CALLER, b"polite"]
    assert (first.budget_us, second.budget_us) == (9_000_000, pytest.approx(9_100_000, abs=1))
    late = {refusal.request_id: refusal.error.details["waited_for"] for refusal in refused(harness.tick(10.2))}
    assert late[6] == "turn"


def test_call_that_finds_room_is_forwarded_at_once() -> None:
    harness, node, _ = busy()
    harness.answer(node, 2)
    effects = join(harness, "bert", 5)
    assert effects is not None
    assert [e.frames for e in forwarded(effects)] == [[call_header(harness.handles["bert"], 5)]]


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        bytes(39),
        bytes(40),
        pack_header(Kind.CALL, request_id=9, handle=4711),
        pack_header(Kind.CALL, 1 << 15, 0, 9, 1),
        pack_header(Kind.CANCEL, request_id=9),
    ],
    ids=["empty", "short", "garbage", "no such service", "unknown flag", "no call"],
)
def test_what_is_no_sound_call_to_a_service_does_not_join(frame: bytes) -> None:
    harness, _, _ = busy()
    assert harness.board.join(CALLER, [frame], len(frame), 0.0) is None
    assert len(harness.board._faults) == 0


@pytest.mark.parametrize(
    ("config", "request_id"),
    [
        pytest.param({}, 2, id="its request id is in flight"),
        pytest.param({}, 50, id="its request id waits"),
        pytest.param({"waiting_nbytes_max": 60}, 5, id="too many bytes wait"),
        pytest.param({"calls_max": 4}, 5, id="too many calls"),
        pytest.param({"calls_per_caller_max": 3}, 5, id="too many of this caller"),
        pytest.param({"waiting_per_group_max": 1}, 5, id="no place in the line"),
    ],
)
def test_what_has_no_place_does_not_join_and_nothing_has_changed(config: dict[str, int], request_id: int) -> None:
    harness, _, _ = busy(**config)
    if config.get("calls_per_caller_max") is None:
        assert join(harness, "bert", 50) == []
    before = [len(harness.board._faults), harness.board._faults._nbytes]
    assert join(harness, "bert", request_id) is None
    assert [len(harness.board._faults), harness.board._faults._nbytes] == before
    (refusal,) = refused(harness.call("bert", request_id))  # the closer look tells why
    assert refusal.error.code in ("Busy", "Conflict")


def test_absent_model_is_not_joined_but_loaded() -> None:
    harness = Harness()
    harness.node()
    harness.service("bert")
    assert join(harness, "bert", 1) is None


def test_nothing_joins_while_the_switchboard_stops() -> None:
    harness, _, _ = busy()
    harness.board.stopping = True
    assert join(harness, "bert", 5) is None


def test_who_joins_a_full_line_pushes_out_the_newest_of_who_has_most() -> None:
    harness, _, _ = busy(waiting_per_group_max=3)
    for request_id in (5, 6, 7):
        assert join(harness, "bert", request_id) == []
    effects = join(harness, "other", 1, caller=b"polite")
    assert effects is not None
    (loser,) = refused(effects)
    assert (loser.caller, loser.request_id, loser.error.code) == (CALLER, 7, "Busy")


def told(effects: list[asked.Effect]) -> list[Any]:
    return [
        (e.kernel, e.route, e.budget_us)
        if isinstance(e, asked.Forward)
        else (e.caller, e.request_id, e.error.code, e.error.details)
        for e in effects
        if isinstance(e, asked.Forward | asked.Refuse)
    ]


@pytest.mark.parametrize("seed", range(40))
def test_joining_leads_to_what_the_detour_leads_to(seed: int) -> None:
    chance = random.Random(seed)
    quick, slow = (busy(waiting_per_group_max=6, calls_max=16, calls_per_caller_max=9) for _ in range(2))
    joined = 0
    for number in range(120):
        now_s = number * 0.01
        if chance.random() < 0.4 and (in_flight := sorted(quick[0].board.calls._table)):
            caller, request_id = chance.choice(in_flight)
            results = []
            for harness, node, container in (quick, slow):
                harness.answer(node, request_id, caller=caller)
                results.append(told(harness.on(happened.ContainerFreed(container), now_s)))
        else:
            service, caller = chance.choice(("bert", "other")), chance.choice((CALLER, b"b", b"c"))
            request_id = chance.choice((number + 10, number + 9))
            frames = [call_header(quick[0].handles[service], request_id)]
            event = happened.CallMissed(caller, request_id, quick[0].handles[service], 10_000_000, list(frames), 40)
            effects = quick[0].board.join(caller, list(frames), 40, now_s)
            joined += effects is not None
            results = [told(quick[0].on(event, now_s) if effects is None else effects), told(slow[0].on(event, now_s))]
        assert results[0] == results[1]
        assert list(quick[0].board._faults._waiting) == list(slow[0].board._faults._waiting)
    assert joined > 20
