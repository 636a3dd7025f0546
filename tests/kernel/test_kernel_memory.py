"""A real kernel: what is charged to containers and to the node, whoever comes and goes."""

from typing import Any

import pytest

from huterox_wire.nodes import ContainerReport, HeartbeatMeta

from .conftest import Switchboard

pytestmark = [pytest.mark.system, pytest.mark.timeout(90)]

MIB = 1024 * 1024
A, B, C = (1 << 32 | number for number in (1, 2, 3))
SOON = {"footprint_period_s": 0.1, "preload_learned": False}


def report_of(beat: HeartbeatMeta, container: int) -> ContainerReport:
    return next(report for report in beat.containers if report.container == container)


def beats_until(switchboard: Switchboard, done: Any) -> HeartbeatMeta:
    """The first heartbeat from now on that is as wanted."""
    switchboard.heartbeats.clear()
    found: list[HeartbeatMeta] = switchboard.until(lambda: [beat for beat in switchboard.heartbeats if done(beat)])
    return found[0]


def test_what_siblings_are_charged_is_the_same_when_one_of_them_ends(switchboard: Switchboard) -> None:
    switchboard.start(**SOON)
    for container in (A, B, C):
        switchboard.created(container, "memory.py:Holds", params={"mb": 20})
        switchboard.result(container)
    before = beats_until(switchboard, lambda beat: beat.base_bytes and len(beat.containers) == 3)
    assert 10 * MIB < before.base_bytes < 150 * MIB
    for container in (B, C):
        switchboard.tell_close(container)
        switchboard.event(container, "gone")
    switchboard.result(A)  # it runs, so it is measured again
    after = beats_until(switchboard, lambda beat: len(beat.containers) == 1)
    for _ in range(3):
        after = beats_until(switchboard, lambda _: True)
    was, now = report_of(before, A).host_bytes, report_of(after, A).host_bytes
    assert 20 * MIB <= was < 40 * MIB
    assert abs(now - was) < 2 * MIB
    assert abs(after.base_bytes - before.base_bytes) < 4 * MIB


def test_what_only_its_own_processes_share_is_the_containers(switchboard: Switchboard) -> None:
    """A worker that forks shares all that it has with its child: none of it is private to one process."""
    switchboard.start(**SOON)
    switchboard.created(A, "memory.py:Holds", params={"mb": 100})
    alone = beats_until(switchboard, lambda beat: report_of(beat, A).host_bytes > 100 * MIB)
    switchboard.result(A, "fork")
    for _ in range(4):
        with_child = beats_until(switchboard, lambda beat: report_of(beat, A).host_bytes)
        assert report_of(with_child, A).host_bytes >= report_of(alone, A).host_bytes - 12 * MIB
    assert with_child.base_bytes < alone.base_bytes + 30 * MIB


def test_memory_of_lanes_is_charged_to_their_container(switchboard: Switchboard) -> None:
    switchboard.start(**SOON)
    switchboard.created(A)
    before = beats_until(switchboard, lambda beat: report_of(beat, A).host_bytes)
    caller = switchboard.caller(A)
    blocks = [caller.end.claim(8 * MIB) for _ in range(4)]  # it has been given pages, and nobody has looked at them
    was = report_of(before, A).host_bytes
    lanes = beats_until(switchboard, lambda beat: report_of(beat, A).host_bytes > was + 26 * MIB)
    assert report_of(lanes, A).host_bytes < was + 40 * MIB  # a little was charged before there was any
    assert len(blocks) == 4


def test_a_worker_that_grows_is_charged_for_it(switchboard: Switchboard) -> None:
    switchboard.start(**SOON)
    switchboard.created(A, "memory.py:Holds")
    before = beats_until(switchboard, lambda beat: report_of(beat, A).host_bytes)
    switchboard.result(A, "take", mb=64)
    switchboard.heartbeat_of(A, lambda report: report.host_bytes > report_of(before, A).host_bytes + 63 * MIB)
    switchboard.result(A, "take", mb=0)
    switchboard.heartbeat_of(A, lambda report: report.host_bytes < report_of(before, A).host_bytes + 5 * MIB)


def test_the_base_is_told_before_the_first_container_is_ready(switchboard: Switchboard) -> None:
    switchboard.start(**{**SOON, "footprint_period_s": 60.0})
    switchboard.created(A)
    assert any(beat.base_bytes > 10 * MIB for beat in switchboard.heartbeats)
