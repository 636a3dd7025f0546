"""Memory of a lane: given out, passed without a copy, held by results, and where there is none left."""

import gc
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tests.clients.containers import MIB, NO_WAY, WAIT_S, call
from tests.clients.lanes import eventually

import huterox
from huterox.core import Limits
from huterox.lease import LaneGone
from huterox.memory import empty_aligned
from huterox_wire.limits import MESSAGE_NBYTES_MAX


def test_memory_of_the_lane_is_passed_without_a_copy_and_again_and_again(open_lane):
    lane, container = open_lane()
    array = lane.empty((100, 100), "float32")
    assert array.ctypes.data % 64 == 0
    for value in range(3):
        array[:] = value
        assert (call(lane, x=array)["x"] == value).all()
    call(lane, "keep", x=array)
    array[0, 0] = 42  # what the model has kept is this very memory
    assert container.model.kept[-1][0, 0] == 42
    container.model.kept.clear()


def test_arrays_in_the_lane_and_others_travel_together(lane):
    inside, outside = lane.empty(1000, "int64"), np.arange(500)
    inside[:] = 7
    for _ in range(3):
        result = call(lane, a=outside, b=inside, c=b"x" * 300, n=1, d=np.zeros(0))
        assert (result["b"] == 7).all()
        np.testing.assert_array_equal(result["a"], outside)
        assert (result["c"], result["n"], result["d"].shape) == (b"x" * 300, 1, (0,))


def test_the_same_array_of_the_lane_may_be_two_inputs(lane):
    array = lane.empty(10, "int64")
    array[:] = 3
    result = call(lane, a=array, b=array)
    assert result["a"].tolist() == result["b"].tolist() == [3] * 10


def test_parts_and_shapes_of_an_array_of_the_lane_are_carried_as_what_they_are(lane):
    array = lane.empty((4, 6), "int32")
    array[:] = np.arange(24).reshape(4, 6)
    expected = np.array(array)
    for part in (np.s_[1], np.s_[:, 1], np.s_[::2], np.s_[::-1], np.s_[:]):
        np.testing.assert_array_equal(call(lane, x=array[part])["x"], expected[part])
    np.testing.assert_array_equal(call(lane, x=array.reshape(24))["x"], expected.reshape(24))
    np.testing.assert_array_equal(call(lane, x=array.T)["x"], expected.T)


@pytest.mark.parametrize("shape", [0, (), (0, 3), 1, (3, 5)])
def test_memory_of_the_lane_has_any_shape(lane, shape):
    array = lane.empty(shape, "bfloat16")
    array[...] = 1.5
    assert call(lane, x=array)["x"].shape == array.shape


def test_memory_of_the_lane_comes_back_when_its_last_view_goes(lane):
    for _ in range(200):
        array = lane.empty(MIB, "uint8")
        view = array[5:].reshape(-1)
        del array
        gc.collect(0)
        view[:] = 1
        del view
    assert lane._end.owned_count <= 1


def test_memory_that_is_used_by_a_call_outlives_its_owner(open_lane):
    lane, container = open_lane(paused=True)
    futures = []
    for value in range(5):
        array = lane.empty(1000, "int64")
        array[:] = value
        futures.append(lane.submit("predict", {"x": array}, WAIT_S, NO_WAY))
        del array
    container.running.set()
    assert [set(future.result(WAIT_S)["x"].tolist()) for future in futures] == [{value} for value in range(5)]


def test_memory_that_cannot_be_is_refused(lane):
    for empty in (lane.empty, empty_aligned):
        for shape in ((-1, 2), 1.5, (2, "x"), None, (1,) * 9, (0, 2**62), (2**40, 2**40)):
            with pytest.raises(huterox.InvalidInput):
                empty(shape, "float32")
        for dtype in ("float99", "O", "datetime64[s]", "U3", [("a", "f4")], np.dtypes.StringDType()):
            with pytest.raises(huterox.InvalidInput):
                empty(3, dtype)
        with pytest.raises(huterox.TooLarge):
            empty(MESSAGE_NBYTES_MAX, "float32")
        assert empty(np.int64(3), "float32").shape == (3,)
    with pytest.raises(LaneGone):
        lane.empty(64 * MIB, "uint8")
    held = []
    with pytest.raises(huterox.Busy, match="arrays made by empty"):
        while True:
            held.append(lane.empty(2 * MIB, "uint8"))


def test_large_results_stay_where_they_are_until_their_last_view_goes(lane):
    result = call(lane, "array", n=100_000)
    view = result["x"][5:10]
    del result
    for index in range(50):
        assert call(lane, "array", n=100_000)["x"][-1] == 99_999, index
    assert view.tolist() == [5, 6, 7, 8, 9]
    assert len(lane.core.held) == 1
    del view
    assert not lane.core.held


def test_a_thousand_small_results_may_be_kept(lane):
    results = [call(lane, x=np.full(100, index)) for index in range(1000)]
    assert all((result["x"] == index).all() for index, result in enumerate(results))
    assert not lane.core.held


def test_results_that_are_kept_never_take_the_containers_room(open_lane):
    lane, _ = open_lane(half_nbytes=4 * MIB)
    kept = [call(lane, "array", n=100_000)["x"] for _ in range(20)]
    assert sum(lane.core.held.values()) <= 2 * MIB
    assert all(array[-1] == 99_999 for array in kept)
    kept.clear()
    assert not lane.core.held
    assert call(lane, "array", n=100_000)["x"][-1] == 99_999


@pytest.mark.parametrize("n", [10, 900, 5000])
def test_answers_of_more_bytes_than_the_lane_has_come_through_it_bit_by_bit(open_lane, n):
    lane, _ = open_lane(half_nbytes=MIB, ring_entries=1024)
    futures = [lane.submit("array", {"n": n}, WAIT_S, NO_WAY) for _ in range(500)]
    assert [future.result(WAIT_S)["x"][-1] for future in futures] == [n - 1] * 500


def test_a_result_that_another_thread_drops_lets_waiting_answers_through(open_lane):
    lane, _ = open_lane(half_nbytes=12 * MIB)
    kept = [call(lane, "array", n=100_000) for _ in range(5)]  # no block of 8 MiB is left
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: [call(lane, "array", n=600_000)["x"][-1] for _ in range(5)])
        time.sleep(0.05)
        assert not waiting.done()
        kept.clear()
        assert waiting.result(WAIT_S) == [599_999] * 5


def test_an_answer_that_no_lane_of_this_size_carries_is_an_error(open_lane):
    lane, _ = open_lane(half_nbytes=4 * MIB)
    with pytest.raises(huterox.TooLarge):
        call(lane, "array", n=1_000_000)
    assert call(lane, x=1) == {"x": 1}


def test_results_outlive_the_lane(open_lane):
    lane, container = open_lane()
    large, small = call(lane, "array", n=100_000)["x"], call(lane, "array", n=10)["x"]
    container.die()
    lane.close()
    container.close()
    assert (large[-1], small[-1]) == (99_999, 9)
    del large
    gc.collect()


def test_inputs_that_a_model_keeps_are_not_overwritten(open_lane):
    lane, container = open_lane()
    for index in range(20):
        call(lane, "keep", x=np.full(5000, index))
    for _ in range(20):
        call(lane, x=np.zeros(5000, np.int64))
    assert [int(kept[0]) for kept in container.model.kept] == list(range(20))
    container.model.kept.clear()
    eventually(lambda: not lane._end._kept or (call(lane, x=1) and False))


def test_a_call_that_no_lane_of_this_size_carries_is_for_another_way(open_lane):
    lane, _ = open_lane(half_nbytes=2 * MIB)
    large = np.zeros(4 * MIB, np.uint8)
    for inputs in ({"x": large}, {"x": large, "n": 1}, {"x": bytes(large)}, {"x": large, "list": [1]}):
        with pytest.raises(LaneGone):
            lane.call("predict", inputs, WAIT_S)
        with pytest.raises(LaneGone):
            lane.submit("predict", inputs, WAIT_S, NO_WAY)
    assert lane.open
    assert call(lane, x=1) == {"x": 1}
    assert not lane._end.calls


# --- no room ----------------------------------------------------------------------------------------------------------


def test_a_full_ring_is_waited_for(open_lane):
    lane, _ = open_lane(ring_entries=128)
    futures = [lane.submit("predict", {"x": np.full(10, index)}, WAIT_S, NO_WAY) for index in range(500)]
    for index, future in enumerate(futures):
        assert future.result(WAIT_S)["x"][0] == index


def test_full_memory_is_waited_for(open_lane):
    lane, _ = open_lane(half_nbytes=4 * MIB)
    futures = [lane.submit("note", {"key": bytes([index]) * MIB}, WAIT_S, NO_WAY) for index in range(20)]
    for index, future in enumerate(futures):
        assert future.result(WAIT_S)["key"][0] == index


def test_no_room_until_the_deadline_is_busy_with_what_is_held(open_lane):
    lane, container = open_lane(ring_entries=128, paused=True)
    futures = []
    started_s = time.monotonic()
    with pytest.raises(huterox.Busy, match="calls are in flight") as caught:
        for index in range(500):
            futures.append(lane.submit("predict", {"x": index}, 0.3 if index > 60 else WAIT_S, NO_WAY))
    assert time.monotonic() - started_s >= 0.25
    assert caught.value.details["in_flight"] >= 60
    container.running.set()
    for future in futures:
        assert isinstance(future.exception(WAIT_S), huterox.DeadlineExceeded | None)


def test_no_room_is_busy_at_once_where_that_is_wanted(open_lane):
    lane, container = open_lane(Limits(lane_waits=False), half_nbytes=4 * MIB, paused=True)
    futures = []
    with pytest.raises(huterox.Busy):
        while True:
            futures.append(lane.submit("predict", {"x": np.zeros(MIB, np.uint8)}, WAIT_S, NO_WAY))
    with pytest.raises(huterox.Busy):
        lane.call("predict", {"x": np.zeros(MIB, np.uint8)}, WAIT_S)
    with pytest.raises(huterox.Busy):
        lane.stream("parts", {"count": 1, "x": np.zeros(MIB, np.uint8)}, WAIT_S, NO_WAY)
    container.running.set()
    for future in futures:
        future.result(WAIT_S)
    assert call(lane, x=1) == {"x": 1}


def test_room_that_comes_without_an_answer_is_found(open_lane):
    lane, _ = open_lane(half_nbytes=4 * MIB)
    held = [lane.empty(MIB, "uint8") for _ in range(4)]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(call, lane, x=np.zeros(MIB, np.uint8))
        time.sleep(0.1)
        assert not waiting.done()
        held.clear()
        assert waiting.result(WAIT_S)["x"].nbytes == MIB
