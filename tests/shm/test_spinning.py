"""Looks before sleeps: when they are worth it, what ends them, and what a hint that lies can do."""

import os
import threading
import time

import pytest

from huterox_shm import spinning
from huterox_shm.layout import REPLIES_TOLD, REQUESTS_TOLD
from huterox_shm.spinning import STREAK_NS, WORTH_NS, Spinner

LONG_US = 20_000_000
"""A look that only news can end."""


@pytest.fixture(autouse=True)
def two_processors(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved, for what a spinner decides."""
    now = [10**12]
    monkeypatch.setattr(spinning, "monotonic_ns", lambda: now[0])
    return now


class Looked:
    """An end that counts looks, and has nothing to tell."""

    def __init__(self):
        self.looks = 0

    def spin(self, until_ns):
        self.looks += 1
        return False


def looks(spinner, now_ns):
    end = Looked()
    spinner.look([end], now_ns)
    return bool(end.looks)


def test_hint_tells_of_calls_until_they_are_taken(ends):
    caller, container = ends
    assert not container.told
    caller.publish_call(None, caller.claim(1), 1)
    assert not container.told
    caller.flush()
    assert container.told
    assert container.spin(0)
    container.take()
    assert not container.told


def test_hint_tells_of_answers_until_they_are_taken(ends):
    caller, container = ends
    caller.publish_call(None, caller.claim(1), 1)
    caller.flush()
    container.take()
    assert not caller.told
    container.publish_reply(4, 1, 1, 0, 0)
    container.flush()
    assert caller.told
    assert len(caller.take()) == 1
    assert not caller.told


def test_hint_that_lies_is_believed_once(ends):
    header = ends[0].header
    header[REQUESTS_TOLD] = 77
    header[REPLIES_TOLD] = 2**64 - 1
    for end in ends:
        assert end.told
        assert end.take() == []
        assert not end.told


def test_nobody_looks_before_a_sleep_was_short(clock):
    spinner = Spinner(50)
    assert not looks(spinner, clock[0])
    begun_ns = clock[0]
    clock[0] += WORTH_NS - 1
    spinner.slept(begun_ns)
    assert looks(spinner, clock[0])


def test_nobody_looks_after_a_long_sleep(clock):
    spinner = Spinner(50)
    spinner.slept(clock[0])
    assert looks(spinner, clock[0])
    begun_ns = clock[0]
    clock[0] += WORTH_NS
    spinner.slept(begun_ns)
    assert not looks(spinner, clock[0])


def test_looks_end_in_a_sleep_after_a_while(clock):
    spinner = Spinner(50)
    spinner.slept(clock[0])
    clock[0] += STREAK_NS - 1
    assert looks(spinner, clock[0])
    clock[0] += 1
    assert not looks(spinner, clock[0])
    spinner.slept(clock[0])
    assert looks(spinner, clock[0])


def test_no_time_no_looks(clock):
    spinner = Spinner(0)
    spinner.slept(clock[0])
    assert not looks(spinner, clock[0])


def test_one_processor_no_looks(clock, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0})
    spinner = Spinner(50)
    spinner.slept(clock[0])
    assert not looks(spinner, clock[0])


def test_no_lane_no_looks(clock):
    spinner = Spinner(LONG_US)
    spinner.slept(clock[0])
    assert not spinner.look([], clock[0])


@pytest.mark.parametrize("count", [1, 2], ids=["one-end", "several"])
def test_look_ends_when_something_is_told(ends, count):
    caller, container = ends
    spinner = Spinner(LONG_US)
    begun_ns = time.monotonic_ns()
    spinner.slept(begun_ns)
    seen = []
    looker = threading.Thread(target=lambda: seen.append(spinner.look([caller, container][2 - count :], begun_ns)))
    looker.start()
    caller.publish_call(None, caller.claim(1), 1)
    caller.flush()
    looker.join(10.0)
    assert seen == [True]
    assert len(container.take()) == 1


@pytest.mark.parametrize("count", [1, 2], ids=["one-end", "several"])
def test_look_in_vain_ends_by_itself(ends, count):
    spinner = Spinner(1)
    spinner.slept(time.monotonic_ns())
    assert not spinner.look(ends[2 - count :], time.monotonic_ns())
