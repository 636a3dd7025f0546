"""Calls in a worker: inputs that are kept, streams, cancelling, room, the lane."""

import gc
from collections.abc import Callable

import numpy as np
import pytest

from huterox_shm.errors import LaneDead
from huterox_shm.lane import ERROR, PART, REPLY
from huterox_wire.errors import (
    Busy,
    Cancelled,
    DeadlineExceeded,
    InvalidInput,
    TooLarge,
)
from huterox_wire.meta import CallMeta, encode_meta

from .conftest import Bench, now_us, packed

Make = Callable[..., Bench]
MIB = 1024 * 1024


# Inputs that are kept.


def test_an_input_is_released_with_the_answer_when_nobody_keeps_it(bench: Make) -> None:
    worker = bench()
    worker.send(x=np.zeros(1000))
    worker.run()
    ((kind, _, _, released),) = worker.take()
    assert (kind, released) == (REPLY, True)
    assert worker.lent_count() == 0


def test_an_input_that_the_model_keeps_is_released_when_its_last_view_is_gone(bench: Make) -> None:
    worker = bench()
    for index in range(3):
        worker.send("keep", x=np.full(100, index, np.float64))
        worker.run()
        ((_, _, answer, released),) = worker.take()
        assert (answer["result"], released) == (index + 1, False)
    assert worker.lent_count() == 3
    worker.result(x=np.full(5000, 9.0))  # would fall onto what is kept, if that were free
    assert worker.result("forget") == {"result": 3.0}
    worker.run()
    worker.take()
    assert worker.lent_count() == 0
    assert not worker.calls.kept


def test_an_input_caught_in_a_cycle_is_released_when_that_is_collected(bench: Make) -> None:
    worker = bench()
    gc.collect()
    gc.disable()
    try:
        worker.result("knot", x=np.zeros(10))
        assert worker.lent_count() == 1
        gc.collect()
    finally:
        gc.enable()
    worker.run()
    worker.take()
    assert worker.lent_count() == 0


# Streams.


def test_a_generator_streams_its_parts_and_ends_with_an_empty_reply(bench: Make) -> None:
    worker = bench("plain.py:Slow")
    worker.send("count", parts=3, stream=True)
    worker.run()
    answers = worker.take()
    assert [(kind, values) for kind, _, values, _ in answers] == [
        (PART, {"index": 0}),
        (PART, {"index": 1}),
        (PART, {"index": 2}),
        (REPLY, {}),
    ]


def test_a_generator_called_without_stream_says_so_and_does_not_run(bench: Make) -> None:
    with pytest.raises(InvalidInput, match=r"call it with stream\(\)"):
        bench("plain.py:Slow").result("count", parts=3)


def test_a_plain_method_called_as_a_stream_just_replies(bench: Make) -> None:
    worker = bench()
    worker.send("plus", x=np.zeros(1), stream=True)
    worker.run()
    assert [kind for kind, _, _, _ in worker.take()] == [REPLY]


def test_a_generator_that_raises_ends_the_stream_with_its_error(bench: Make) -> None:
    worker = bench("plain.py:Slow")
    worker.send("fail_midway", parts=2, stream=True)
    worker.run()
    answers = worker.take()
    assert [kind for kind, _, _, _ in answers] == [PART, PART, ERROR]
    assert "the well ran dry" in answers[-1][2].message


def test_a_stream_is_cancelled_between_two_parts(bench: Make) -> None:
    worker = bench("plain.py:Slow")
    call_id = worker.send("count", parts=1000, stream=True)
    worker.caller.cancel(call_id)
    worker.caller.flush()
    worker.run()
    answers = worker.take()
    assert isinstance(answers[-1][2], Cancelled)
    assert len(answers) < 1000


def test_a_stream_ends_when_its_time_is_over(bench: Make) -> None:
    worker = bench("plain.py:Slow")
    worker.send("count", parts=1000, seconds=0.01, stream=True, deadline_us=now_us() + 100_000)
    worker.run()
    answers = worker.take()
    assert isinstance(answers[-1][2], DeadlineExceeded)
    assert 1 <= len(answers) < 100


def test_calls_that_come_during_a_stream_are_served_after_it(bench: Make) -> None:
    worker = bench("plain.py:Slow")
    first = worker.send("count", parts=2, stream=True)
    second = worker.send("predict", seconds=0.0)
    worker.run()
    assert [call_id for _, call_id, _, _ in worker.take()] == [first, first, first, second]


# Cancelling and deadlines.


def test_a_queued_call_is_cancelled_before_it_starts(bench: Make) -> None:
    worker = bench("plain.py:Slow")
    first, second, third = (worker.send(seconds=0.0) for _ in range(3))
    worker.caller.cancel(second)
    worker.caller.flush()
    worker.run()
    answers = {call_id: values for _, call_id, values, _ in worker.take()}
    assert isinstance(answers[second], Cancelled)
    assert answers[first] == answers[third] == {"result": 0.0}
    assert worker.lent_count() == 0


def test_cancelling_a_call_that_has_ended_does_nothing(bench: Make) -> None:
    worker = bench()
    call_id = worker.send("plus", x=np.zeros(1))
    worker.run()
    worker.caller.cancel(call_id)
    worker.caller.flush()
    worker.run()
    assert [kind for kind, _, _, _ in worker.take()] == [REPLY]
    assert worker.result("plus", x=np.zeros(1))["result"].tolist() == [1.0]


def test_a_call_whose_time_is_over_is_not_started(bench: Make) -> None:
    worker = bench("plain.py:Warm")
    worker.send(deadline_us=now_us() - 5000)
    worker.run()
    ((_, _, error, released),) = worker.take()
    assert isinstance(error, DeadlineExceeded)
    assert error.details == {"executed": "no"}
    assert released


def test_a_call_in_time_is_served(bench: Make) -> None:
    worker = bench("plain.py:Warm")
    worker.send(deadline_us=now_us() + 60_000_000)
    worker.run()
    assert worker.take()[0][2] == {"result": 1}


# Room.


def test_a_result_that_can_never_fit_is_too_large_and_names_the_limit(bench: Make) -> None:
    worker = bench(half_mb=1)
    with pytest.raises(TooLarge) as caught:
        worker.result("zeros", nbytes=2 * MIB)
    assert caught.value.details["need"] > 2 * MIB
    assert caught.value.details["limit"] == MIB
    assert worker.result("zeros", nbytes=MIB // 2)["result"].nbytes == MIB // 2


def test_an_answer_waits_until_the_caller_releases(bench: Make) -> None:
    worker = bench(half_mb=1)
    worker.send("zeros", nbytes=700_000)
    worker.run()
    ((*_, offset, _),) = worker.caller.take()
    worker.send("zeros", nbytes=700_001)
    worker.caller.release(offset)
    worker.caller.flush_releases()
    worker.run()
    assert worker.take()[0][2]["result"].nbytes == 700_001


def test_an_answer_for_which_the_caller_keeps_no_room_ends_at_its_deadline(bench: Make) -> None:
    worker = bench(half_mb=1)
    worker.result("plus", x=np.zeros(1))
    worker.send("zeros", nbytes=400_000)
    worker.run()
    worker.take(keep=True)
    worker.send("zeros", nbytes=700_000, deadline_us=now_us() + 50_000)
    worker.run()
    ((_, _, error, _),) = worker.take()
    assert isinstance(error, Busy)
    assert error.details["held_count"] == 1


def test_a_long_stream_goes_through_a_small_lane(bench: Make) -> None:
    import threading

    worker = bench("plain.py:Slow", half_mb=1)
    worker.send("blocks", parts=40, nbytes=300_000, stream=True)
    seen: list[int] = []

    def read() -> None:
        while len(seen) < 41:
            if worker.caller.wait(5.0):
                seen.extend(kind for kind, _, _, _ in worker.take())

    reader = threading.Thread(target=read)
    reader.start()
    worker.run()
    reader.join(20.0)
    assert seen == [PART] * 40 + [REPLY]


# The lane itself.


def test_counters_tell_calls_and_errors(bench: Make) -> None:
    worker = bench("plain.py:Faulty")
    worker.send()
    worker.send("unknown")
    worker.run()
    counters = worker.caller.counters()
    assert (counters.calls_taken, counters.calls_done, counters.errors) == (2, 2, 2)
    assert counters.busy_us > 0


def test_an_answer_tells_how_long_the_worker_was_busy(bench: Make) -> None:
    worker = bench("plain.py:Slow")
    worker.result(seconds=0.02)
    assert worker.busy_us == pytest.approx([worker.caller.counters().busy_us], rel=0.5)
    assert 20_000 <= worker.busy_us[0] < 10_000_000


def test_an_error_tells_how_long_the_worker_was_busy(bench: Make) -> None:
    worker = bench("plain.py:Faulty")
    worker.send()
    worker.run()
    worker.take()
    assert 0 <= worker.busy_us[0] <= worker.caller.counters().busy_us


def test_the_parts_of_a_stream_tell_times_that_add_up(bench: Make) -> None:
    worker = bench("plain.py:Slow")
    worker.send("count", parts=3, seconds=0.01, stream=True)
    worker.run()
    worker.take()
    assert all(busy_us >= 10_000 for busy_us in worker.busy_us[:3])
    assert sum(worker.busy_us) == pytest.approx(worker.caller.counters().busy_us, rel=0.5)


def test_a_call_that_was_cancelled_in_the_queue_took_no_time(bench: Make) -> None:
    worker = bench("plain.py:Slow")
    worker.caller.cancel(worker.send())
    worker.caller.flush()
    worker.run()
    worker.take()
    assert worker.busy_us == [0]


def test_the_call_that_is_begun_stands_in_the_header_while_the_model_runs(bench: Make) -> None:
    worker = bench()
    seen: list[int] = []
    worker.model._instance.watch = lambda: seen.append(worker.caller.begun)  # type: ignore[attr-defined]
    call_id = worker.send("watched")
    worker.run()
    worker.take()
    assert seen == [call_id]


def test_a_dead_lane_ends_the_service(bench: Make) -> None:
    worker = bench()
    worker.caller.mark_dead()
    with pytest.raises(LaneDead):
        worker.calls.step(1)


def test_meta_is_copied_before_it_is_checked(bench: Make) -> None:
    """Params must not change under the model when the caller writes over its block."""
    worker = bench()
    frame = packed(CallMeta("anything", {"blob": b"a" * 200}), [])
    assert encode_meta(CallMeta("anything", {"blob": b"a" * 200})) in frame
    call_id = worker.put(frame)
    worker.run()
    assert worker.take() == [(REPLY, call_id, {"blob": b"a" * 200}, True)]
