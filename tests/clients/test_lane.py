"""Calls through a lane: the sync shell over real shared memory, against the worker's own code in a thread."""

import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest
from tests.clients.containers import NO_WAY, WAIT_S, ContainerDouble, call
from tests.clients.lanes import calls_under_way, descriptor_count, eventually

import huterox
from huterox.core import Limits
from huterox.lane import LaneConnection
from huterox.lease import LaneGone
from huterox_wire.forms import FORMS_MAX

# --- what is carried --------------------------------------------------------------------------------------------------


ARRAYS = {
    "small": np.arange(12, dtype=np.float32).reshape(3, 4),
    "no bytes": np.zeros((0, 4), np.float32),
    "no dimensions": np.array(7, np.int16),
    "one byte": np.ones(1, np.uint8),
    "large": np.arange(300_000, dtype=np.int64),
    "bools": np.array([True, False]),
    "big-endian": np.arange(5, dtype=">i4"),
    "transposed": np.arange(12).reshape(3, 4).T,
    "every second": np.arange(20)[::2],
    "backwards": np.arange(20)[::-1],
    "a view": np.arange(20)[3:9],
    "Fortran": np.asfortranarray(np.arange(12).reshape(3, 4)),
    "complex": np.array([1 + 2j]),
    "bfloat16": np.ones(3, ml_dtypes.bfloat16),
    "read-only": np.frombuffer(b"12345678", np.uint8),
    "a subclass": np.arange(3).view(np.recarray),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_comes_back_as_it_went_the_first_time_and_again(lane, name):
    array = ARRAYS[name]
    for _ in range(3):
        result = call(lane, x=array)["x"]
        np.testing.assert_array_equal(result, np.asarray(array))
        assert result.dtype == array.dtype.newbyteorder("=")
        assert result.shape == array.shape
        assert not result.flags.writeable


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"a": None, "b": True, "c": 1, "d": "text", "e": 1.5, "f": b"few"},
        {"flag": True, "number": 1},
        {"flag": 1, "number": True},
        {"x": float("inf"), "y": -0.0, "z": 0.0},
        {"blob": b"x" * 256},
        {"blob": b"y" * 100_000},
        {"list": [1, [2.5, None]], "map": {"a": {"b": b"c"}}},
        {"text": "ä" * 5000},
        {"number": 2**63, "least": -(2**63)},
    ],
    ids=lambda inputs: ",".join(inputs),
)
def test_plain_values_come_back_as_they_went_the_first_time_and_again(lane, inputs):
    for _ in range(3):
        result = call(lane, **inputs)
        assert result == inputs
        assert [type(value) for value in result.values()] == [type(inputs[name]) for name in result]


def test_zero_and_minus_zero_and_true_and_one_are_told_apart(lane):
    for value in (0.0, -0.0, 0, False, 1, True, 1.0):
        result = call(lane, value=value)["value"]
        assert (repr(result), type(result)) == (repr(value), type(value))
    for _ in range(2):
        assert np.isnan(call(lane, value=float("nan"))["value"])


def test_many_inputs_of_all_kinds_travel_together(lane):
    inputs = {"x": np.arange(5), "blob": b"z" * 300, "n": 3, "y": np.zeros((2, 0)), "s": "text", "w": np.ones((9, 9))}
    for _ in range(3):
        result = call(lane, **inputs)
        assert list(result) == list(inputs) or set(result) == set(inputs)
        np.testing.assert_array_equal(result["w"], inputs["w"])
        assert (result["blob"], result["n"], result["s"], result["y"].shape) == (b"z" * 300, 3, "text", (2, 0))


def test_what_changes_from_call_to_call_is_what_the_container_sees(lane):
    for index in range(2000):
        result = call(lane, n=index, text=f"prompt {index}", x=np.full(3, index))
        assert (result["n"], result["text"], result["x"].tolist()) == (index, f"prompt {index}", [index] * 3)


def test_more_forms_than_there_are_numbers_take_turns(lane):
    for _ in range(2):
        for size in range(1, FORMS_MAX + 50):
            assert call(lane, x=np.full(size, size))["x"].tolist() == [size] * size


def test_a_number_that_comes_to_mean_another_form_does_not_change_queued_calls(open_lane):
    lane, container = open_lane(ring_entries=2048, paused=True)
    futures = [lane.submit("predict", {"x": np.full(size, size)}, WAIT_S, NO_WAY) for size in range(1, FORMS_MAX + 200)]
    container.running.set()
    for size, future in enumerate(futures, 1):
        assert future.result(WAIT_S)["x"].tolist() == [size] * size


@pytest.mark.torch
def test_torch_tensors_travel(lane):
    torch = pytest.importorskip("torch")
    for tensor in (torch.arange(6).reshape(2, 3), torch.arange(6).reshape(2, 3).T, torch.ones(3, dtype=torch.bfloat16)):
        for _ in range(2):
            result = call(lane, x=tensor)["x"]
            assert torch.equal(torch.as_tensor(result.astype(np.float32)), tensor.float())


def test_inputs_may_have_any_names(lane):
    names = {"timeout": 2, "method": 3, "inputs": 4, "ä b": 5}
    assert call(lane, **names) == names


def test_bad_inputs_are_refused_and_the_lane_stays_as_it_was(open_lane):
    lane, container = open_lane()
    for bad in (object(), np.array([object()]), {1: 2}, [np.zeros(3)], np.zeros((1,) * 9), 2**64, np.zeros(1, "M8[s]")):
        for _ in range(2):
            with pytest.raises(huterox.InvalidInput):
                call(lane, x=bad)
            with pytest.raises(huterox.InvalidInput):
                call(lane, x=bad, y=np.zeros(3))
    for method in (np.zeros(3), 5, None, ["predict"]):
        with pytest.raises(huterox.InvalidInput, match="given by its name"):
            lane.call(method, {}, WAIT_S)  # type: ignore[arg-type]
        with pytest.raises(huterox.InvalidInput, match="given by its name"):
            lane.call(method, {"x": np.zeros(3)}, WAIT_S)  # type: ignore[arg-type]
    for timeout_s in (0, -1.0, "soon", float("nan"), 1e9, None):
        with pytest.raises(huterox.InvalidInput, match="timeout"):
            lane.call("predict", {"x": np.zeros(3)}, timeout_s)  # type: ignore[arg-type]
    with pytest.raises(huterox.TooLarge):
        call(lane, x=["a" * 1000] * 2000)
    with pytest.raises(huterox.TooLarge):
        call(lane, **{f"x{index}": np.zeros(3) for index in range(65)})
    assert call(lane, x=1) == {"x": 1}
    assert container.error is None
    assert not lane._end.calls
    assert lane._end.slab_stats().out_count == 0


def test_a_models_refusal_and_error_come_as_what_they_are(lane):
    with pytest.raises(huterox.ModelError, match="no such luck") as caught:
        call(lane, "fail", x=np.zeros(3))
    assert "ValueError" in caught.value.details["traceback"]
    for _ in range(2):
        with pytest.raises(huterox.NotFound, match="dance"):
            call(lane, "dance", x=np.zeros(3))
        with pytest.raises(huterox.InvalidInput, match="seconds"):
            call(lane, "slow", x=1)
        with pytest.raises(huterox.InvalidInput):
            lane.call("m" * 200, {}, WAIT_S)
    assert call(lane, x=1) == {"x": 1}


# --- many threads, deadlines, cancelling ------------------------------------------------------------------------------


def test_many_threads_never_get_each_others_answers(lane):
    def work(worker: int) -> None:
        futures = []
        for index in range(200):
            key = worker * 1000 + index
            assert call(lane, x=np.full(20, key))["x"].tolist() == [key] * 20
            if index % 5 == 0:
                futures.append((key, lane.submit("predict", {"x": key}, WAIT_S, NO_WAY)))
        for key, future in futures:
            assert future.result(WAIT_S) == {"x": key}

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work, worker) for worker in range(8)]:
            done.result(60)
    assert not lane._end.calls
    assert not lane._followers


def test_a_call_that_takes_too_long_ends_at_its_deadline_and_later_ones_are_served(open_lane):
    lane, container = open_lane()
    started_s = time.monotonic()
    with pytest.raises(huterox.DeadlineExceeded, match=r"within 0\.2 s"):
        call(lane, "hold", timeout_s=0.2)
    assert time.monotonic() - started_s < WAIT_S / 2
    with pytest.raises(huterox.DeadlineExceeded):
        call(lane, "note", key="late", timeout_s=0.2)
    container.model.go.set()
    assert call(lane, x=1) == {"x": 1}
    assert container.model.seen == []  # its caller had given it up before it was begun


def test_a_short_deadline_holds_while_another_thread_waits_longer(open_lane):
    lane, container = open_lane()
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(call, lane, "hold", key=1)
        assert container.model.held.wait(WAIT_S)
        with pytest.raises(huterox.DeadlineExceeded):
            call(lane, x=1, timeout_s=0.1)
        container.model.go.set()
        assert slow.result(WAIT_S) == {"key": 1}


def test_an_interrupted_call_is_cancelled_and_the_lane_stays_usable(open_lane, monkeypatch):
    lane, container = open_lane()
    poll = lane._poll

    def interrupted(wait_s: float) -> None:
        monkeypatch.setattr(lane, "_poll", poll)
        raise KeyboardInterrupt

    monkeypatch.setattr(lane, "_poll", interrupted)
    with pytest.raises(KeyboardInterrupt):
        call(lane, "hold")
    container.model.go.set()
    assert call(lane, x=1) == {"x": 1}
    eventually(lambda: call(lane, x=1) and not lane._end.calls)


def test_closing_ends_what_is_under_way(open_lane):
    lane, container = open_lane()
    future = lane.submit("hold", {}, WAIT_S, NO_WAY)
    with ThreadPoolExecutor(2) as pool:
        blocked = [pool.submit(call, lane, x=index) for index in range(2)]
        eventually(lambda: calls_under_way(lane) == 3)
        lane.close()
        for ending in [future, *blocked]:
            assert isinstance(ending.exception(WAIT_S), huterox.Cancelled)
    for refused in (lambda: call(lane, x=1), lambda: lane.submit("predict", {}, WAIT_S, NO_WAY)):
        with pytest.raises(LaneGone):
            refused()
    lane.close()
    container.model.go.set()


def test_nothing_of_a_closed_lane_is_left_behind_though_futures_of_it_live():
    kept = []

    def use() -> None:
        container = ContainerDouble()
        lane = LaneConnection(container.end, container.liveness, Limits(), lambda lane: None)
        future = lane.submit("predict", {"x": np.zeros(500)}, WAIT_S, NO_WAY)
        assert future.result(WAIT_S)["x"].size == 500
        lane.close()
        container.close()
        kept.append((future, lane))

    use()
    gc.collect()
    before = descriptor_count()
    for _ in range(5):
        use()
    gc.collect()
    assert descriptor_count() == before
    assert not any(thread.name == "huterox-reader" for thread in threading.enumerate())
