"""Calls over a real lane, run by the worker's own code in this process."""

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from huterox_shm.errors import LaneDead
from huterox_shm.lane import ERROR, PART, REPLY
from huterox_wire.errors import (
    Busy,
    Cancelled,
    DeadlineExceeded,
    HuteroxError,
    InvalidInput,
    ModelError,
    NotFound,
    TooLarge,
)
from huterox_wire.header import pack_header
from huterox_wire.kinds import Flag, Kind
from huterox_wire.meta import CallMeta, TensorSpec, encode_meta
from huterox_wire.nodes import InputSpec
from huterox_wire.payload import DTYPE_OF_NAME

from .conftest import Bench, now_us, packed

Make = Callable[..., Bench]
MIB = 1024 * 1024


# Values.


@pytest.mark.parametrize("dtype", list(DTYPE_OF_NAME))
def test_an_array_of_every_dtype_comes_back_bit_exact(bench: Make, dtype: str) -> None:
    array = np.arange(24).astype(DTYPE_OF_NAME[dtype]).reshape(2, 3, 4)
    result = bench().result(x=array)["x"]
    assert (result.dtype, result.shape, result.tobytes()) == (array.dtype, array.shape, array.tobytes())


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,) * 8])
def test_arrays_of_odd_shapes_come_back(bench: Make, shape: tuple[int, ...]) -> None:
    result = bench().result(x=np.zeros(shape, np.float32))["x"]
    assert (result.shape, result.dtype) == (shape, np.float32)


def test_nan_comes_back_bit_exact(bench: Make) -> None:
    array = np.array([np.nan, -np.nan, np.inf, -0.0])
    assert bench().result(x=array)["x"].tobytes() == array.tobytes()


def test_plain_values_and_bytes_come_back(bench: Make) -> None:
    values = {"text": "ä€", "number": 1.5, "none": None, "list": [1, {"a": True}], "few": b"x", "many": b"y" * 5000}
    assert bench().result("anything", **values) == values


def test_several_arrays_lie_aligned_and_apart(bench: Make) -> None:
    arrays = {f"x{index}": np.full(index * 7 + 1, index, np.uint8) for index in range(5)}
    result = bench().result("anything", **arrays)
    assert all(np.array_equal(result[name], array) for name, array in arrays.items())


def test_what_is_no_mapping_is_called_result(bench: Make) -> None:
    assert np.array_equal(bench(params={"offset": 10}).result("plus", x=np.arange(3), by=2)["result"], [12, 13, 14])


def test_inputs_are_read_only_views_of_the_lane(bench: Make) -> None:
    assert bench().result("writable", x=np.zeros(3)) == {"result": False}


def test_the_gaps_between_results_hold_nothing_of_earlier_answers(bench: Make) -> None:
    worker = bench()
    worker.result("anything", x=np.full(8000, 255, np.uint8))
    worker.send("anything", a=np.zeros(1, np.uint8), b=np.zeros(1, np.uint8))
    worker.run()
    ((_, _, offset, nbytes, _),) = worker.caller.take()
    assert b"\xff" not in bytes(worker.caller.view(offset, nbytes))


# Wrong calls.


def test_an_unknown_method_names_those_that_there_are(bench: Make) -> None:
    with pytest.raises(NotFound, match=r"no method 'train'; it has anything, forget, keep, knot, plus, predict, "):
        bench().result("train")


@pytest.mark.parametrize("name", ["_secret", "__init__", "offset", "kept"])
def test_what_is_private_or_no_method_cannot_be_called(bench: Make, name: str) -> None:
    with pytest.raises(NotFound):
        bench().result(name)


def test_a_missing_input_says_what_the_method_takes(bench: Make) -> None:
    with pytest.raises(InvalidInput, match=r"plus\(\): no input 'x' was given; it takes x \(required\), by") as caught:
        bench().result("plus", by=2)
    assert caught.value.details["missing"] == ["x"]


def test_an_unknown_input_says_what_the_method_takes(bench: Make) -> None:
    with pytest.raises(InvalidInput, match=r"'y' is not known; it takes x \(required\), by") as caught:
        bench().result("plus", x=np.zeros(1), y=1)
    assert caught.value.details["unknown"] == ["y"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((3, 4), np.float64), r"'x': expected float32 of shape \[3, \?\], got float64 of shape \[3, 4\]"),
        (np.zeros((4, 3), np.float32), r"expected float32 of shape \[3, \?\], got float32 of shape \[4, 3\]"),
        (np.zeros(3, np.float32), r"got float32 of shape \[3\]"),
        ([1.0, 2.0], r"got a plain value of type list"),
        (b"abc" * 1000, r"got bytes of shape \[3000\]"),
    ],
)
def test_an_input_that_is_not_as_the_model_file_says_is_refused(bench: Make, value: Any, message: str) -> None:
    worker = bench(inputs={"x": InputSpec("float32", [3, None])})
    with pytest.raises(InvalidInput, match=message):
        worker.result(x=value)


def test_an_input_that_is_as_the_model_file_says_is_taken(bench: Make) -> None:
    worker = bench(inputs={"x": InputSpec("float32", [3, None]), "any": InputSpec(), "blob": InputSpec("bytes")})
    assert worker.result(x=np.zeros((3, 9), np.float32))["x"].shape == (3, 9)
    assert worker.result("anything", any=1, blob=b"few", x=np.zeros((3, 1), np.float32))["blob"] == b"few"


def test_a_shape_that_no_machine_can_have_is_refused(bench: Make) -> None:
    worker = bench()
    worker.send_tensor(TensorSpec("x", "uint8", [2**62, 2**62, 0]), b"")
    worker.run()
    ((_, _, error, _),) = worker.take()
    assert isinstance(error, InvalidInput)


def test_an_input_given_twice_is_refused(bench: Make) -> None:
    worker = bench()
    worker.put(packed(CallMeta("anything", {"x": 1}, [TensorSpec("x", "uint8", [1])]), [b"a"]))
    worker.run()
    ((_, _, error, _),) = worker.take()
    assert isinstance(error, InvalidInput)
    assert "given twice" in error.message


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"x",
        b"\0" * 39,
        bytes(range(256)),
        pack_header(Kind.CALL, Flag.PACKED, 0, 4711, 77, 0, 9999),
        pack_header(Kind.CALL, Flag.PACKED, 0, 4711, 77, 0, 3) + b"\xc1\xc1\xc1",
        pack_header(Kind.CALL, Flag.PACKED, 3, 4711, 77, 0, 1) + b"\x80",
        pack_header(Kind.REGISTER, Flag.PACKED, 0, 4711, 77, 0, 1) + b"\x80",
        pack_header(Kind.CALL, 0, 0, 4711, 77, 0, 1) + b"\x80",
        packed(CallMeta("predict", {}, [TensorSpec("x", "uint8", [1])]), [b"a"]) + b"more",
        packed(CallMeta("predict", {}, [TensorSpec("x", "uint8", [2])]), [b"a"]),
        packed(CallMeta("predict", {}, [TensorSpec("x", "object", [1])]), [b"a"]),
    ],
)
def test_a_malformed_request_is_answered_and_the_next_one_served(bench: Make, frame: bytes) -> None:
    worker = bench()
    if frame:
        worker.put(frame)
        worker.run()
        ((kind, _, error, released),) = worker.take()
        assert kind == ERROR
        assert isinstance(error, HuteroxError)
        assert error.code == "InvalidInput"
        assert released
    assert worker.result("plus", x=np.arange(2))["result"].tolist() == [1, 2]
    assert worker.lent_count() == 0


# Models that raise.


@pytest.mark.parametrize(
    ("method", "text"),
    [
        ("predict", "ValueError: no good"),
        ("exits", "SystemExit: 3"),
        ("interrupts", "KeyboardInterrupt"),
        ("exhausts", "MemoryError: pretended"),
        ("recurses", "RecursionError: maximum recursion depth exceeded"),
        ("gives_objects", "the model returned what is not carried"),
        ("gives_nested_arrays", "an array inside a list or map"),
        ("gives_odd_names", "name must be text"),
        ("awaits", "coroutine function"),
    ],
)
def test_whatever_a_model_does_wrong_is_a_model_error(bench: Make, method: str, text: str) -> None:
    worker = bench("plain.py:Faulty")
    with pytest.raises(ModelError, match=text):
        worker.result(method)
    with pytest.raises(ModelError, match="no good"):
        worker.result()
    assert worker.lent_count() == 0


def test_a_traceback_shows_the_models_frames_only(bench: Make) -> None:
    with pytest.raises(ModelError) as caught:
        bench("plain.py:Faulty").result(x=np.zeros(3))
    text = caught.value.details["traceback"]
    assert 'raise ValueError("no good")' in text
    assert "huterox_kernel" not in text
    assert text.endswith("ValueError: no good\n")


def test_a_long_traceback_is_cut_to_its_end(bench: Make) -> None:
    with pytest.raises(ModelError) as caught:
        bench("plain.py:Faulty").result("raises_at_length")
    text = caught.value.details["traceback"]
    assert len(text.encode()) <= 16 * 1024
    assert text.endswith("the end\n")


def test_an_error_of_the_callers_making_may_come_from_the_model(bench: Make) -> None:
    with pytest.raises(InvalidInput, match="only square images"):
        bench("plain.py:Faulty").result("refuses")


def test_an_input_is_released_when_the_model_raises(bench: Make) -> None:
    worker = bench("plain.py:Faulty")
    worker.send(x=np.zeros(1000))
    worker.run()
    ((_, _, error, released),) = worker.take()
    assert isinstance(error, ModelError)
    assert released


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
    worker.caller.publish_cancel(call_id)
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
    worker.caller.publish_cancel(second)
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
    worker.caller.publish_cancel(call_id)
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
    ((_, _, offset, _, _),) = worker.caller.take()
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
    assert (counters.calls_taken, counters.calls_done, counters.errors, counters.current_call) == (2, 2, 2, 0)
    assert counters.busy_us > 0


def test_an_answer_tells_how_long_the_worker_was_busy(bench: Make) -> None:
    worker = bench("plain.py:Slow")
    worker.result(seconds=0.02)
    assert worker.busy_us == [worker.caller.counters().busy_us]
    assert 20_000 <= worker.busy_us[0] < 10_000_000


def test_an_error_tells_how_long_the_worker_was_busy(bench: Make) -> None:
    worker = bench("plain.py:Faulty")
    worker.send()
    worker.run()
    worker.take()
    assert worker.busy_us == [worker.caller.counters().busy_us]


def test_the_parts_of_a_stream_tell_times_that_add_up(bench: Make) -> None:
    worker = bench("plain.py:Slow")
    worker.send("count", parts=3, seconds=0.01, stream=True)
    worker.run()
    worker.take()
    assert all(busy_us >= 10_000 for busy_us in worker.busy_us[:3])
    assert sum(worker.busy_us) == pytest.approx(worker.caller.counters().busy_us, abs=4)


def test_a_call_that_was_cancelled_in_the_queue_took_no_time(bench: Make) -> None:
    worker = bench("plain.py:Slow")
    worker.caller.publish_cancel(worker.send())
    worker.caller.flush()
    worker.run()
    worker.take()
    assert worker.busy_us == [0]


def test_the_current_call_stands_in_the_header_while_the_model_runs(bench: Make) -> None:
    worker = bench()
    seen: list[int] = []
    worker.model._instance.watch = lambda: seen.append(worker.caller.counters().current_call)  # type: ignore[attr-defined]
    call_id = worker.send("watched")
    worker.run()
    worker.take()
    assert seen == [call_id]


def test_a_dead_lane_ends_the_service(bench: Make) -> None:
    worker = bench()
    worker.caller.mark_dead()
    with pytest.raises(LaneDead):
        worker.calls.step()


def test_meta_is_copied_before_it_is_checked(bench: Make) -> None:
    """Params must not change under the model when the caller writes over its block."""
    worker = bench()
    frame = packed(CallMeta("anything", {"blob": b"a" * 200}), [])
    assert encode_meta(CallMeta("anything", {"blob": b"a" * 200})) in frame
    call_id = worker.put(frame)
    worker.run()
    assert worker.take() == [(REPLY, call_id, {"blob": b"a" * 200}, True)]
