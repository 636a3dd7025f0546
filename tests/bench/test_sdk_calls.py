"""Calls through the SDK: how they are driven and checked. The whole chain is in `test_command.py`."""

from concurrent.futures import Future
from typing import Any, cast

import numpy as np
import pytest

import huterox
from huterox.lane_core import LaneMemory
from huterox_bench.errors import BenchError, WrongAnswer
from huterox_bench.loads import LARGE_NBYTES, SHAPES, Shape, SliceLimit
from huterox_bench.sdk import calls as module
from huterox_bench.sdk.calls import LANE, ROUTED, ServiceCalls, reach
from huterox_bench.sdk.models.plus_one import PlusOne

BRIEF = SliceLimit(30.0, 10)


class LocalService:
    """Answers like a service of the model, in this process; `damage` changes the answers."""

    name = "local"

    def __init__(self, path: str = ROUTED) -> None:
        self.model = PlusOne()
        self.path = path
        self.blocking = 0
        self.futures = 0
        self.seen: list[Any] = []

    def damage(self, answer: Any) -> Any:
        return answer

    def __call__(self, *, x: Any) -> dict[str, Any]:
        return self.call("predict", x=x)

    def call(self, method: str, *, x: Any) -> dict[str, Any]:
        self.blocking += 1
        self.seen.append(x)
        return {"result": self.damage(getattr(self.model, method)(x))}

    def submit(self, method: str = "predict", *, x: Any) -> "Future[dict[str, Any]]":
        self.futures += 1
        future: Future[dict[str, Any]] = Future()
        future.set_result({"result": self.damage(getattr(self.model, method)(x))})
        return future

    def empty(self, shape: Any, dtype: Any) -> Any:
        return np.empty(shape, dtype)


class InLane(LocalService):
    """The same, with memory that looks like a lane's."""

    def empty(self, shape: Any, dtype: Any) -> Any:
        nbytes = int(np.prod(shape)) * 4
        return np.ndarray(shape, dtype, LaneMemory(nbytes, np.uint8, bytearray(nbytes)))


def calls_of(service: LocalService, shape: Shape, *more: str) -> ServiceCalls:
    return ServiceCalls(cast(huterox.Service, service), service.path, shape, *more)


@pytest.mark.parametrize("shape", SHAPES)
def test_one_in_flight_blocks_and_more_are_futures(shape: Shape) -> None:
    service = LocalService()
    load = calls_of(service, shape)
    for _ in range(2):
        assert len(load.run(BRIEF).latencies_ns) == 10
    assert (service.blocking, service.futures) == ((20, 0) if shape.window == 1 else (0, 20))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_payloads_have_the_size_that_the_row_says_and_are_distinct_everywhere(shape: Shape) -> None:
    inputs = calls_of(LocalService(), shape)._payloads.inputs
    assert {array.nbytes for array in inputs} == {shape.nbytes}
    assert len(inputs) == shape.window + 1
    assert (np.diff(np.stack([array[:9] for array in inputs]), axis=0) != 0).all()
    assert not np.isin(inputs[0] + 1, inputs[1]).any()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_answer_to_another_call_is_found(shape: Shape) -> None:
    class Late(LocalService):
        """Gives every answer one call too late."""

        def __init__(self) -> None:
            super().__init__()
            self.held: Any = np.zeros(shape.nbytes // 4, np.float32)

        def damage(self, answer: Any) -> Any:
            self.held, late = answer, self.held
            return late

    with pytest.raises(WrongAnswer):
        calls_of(Late(), shape).run(BRIEF)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "damaged",
    [
        lambda answer: answer - 1,
        lambda answer: answer[:-1],
        lambda answer: np.where(np.arange(answer.size) == answer.size // 2, 0, answer).astype(np.float32),
    ],
    ids=["unchanged", "short", "one-element"],
)
def test_a_wrong_answer_is_found(shape: Shape, damaged: Any) -> None:
    service = LocalService()
    service.damage = damaged  # type: ignore[method-assign]
    with pytest.raises(WrongAnswer):
        calls_of(service, shape).run(SliceLimit(30.0, 2))


def test_the_model_adds_one_and_keeps_dtype_and_shape() -> None:
    answer = PlusOne().predict(np.zeros((2, 3), np.float32))
    assert (answer.dtype, answer.shape) == (np.dtype(np.float32), (2, 3))
    assert (answer == 1).all()
    assert LARGE_NBYTES % 4 == 0


def peeking(service: LocalService, nbytes: int) -> ServiceCalls:
    return calls_of(service, Shape(1, nbytes), "lane_peek", "peek")


@pytest.mark.parametrize("nbytes", [1024, LARGE_NBYTES])
def test_a_method_that_only_looks_is_called_with_the_whole_and_answers_with_one_element(nbytes: int) -> None:
    service = InLane(LANE)
    load = peeking(service, nbytes)
    assert load.name == "lane_peek"
    load.run(BRIEF)
    assert {x.nbytes for x in service.seen} == {nbytes}
    service.damage = lambda answer: answer + 1  # type: ignore[method-assign]
    with pytest.raises(WrongAnswer):
        load.run(BRIEF)


@pytest.mark.parametrize("nbytes", [1024, LARGE_NBYTES])
def test_large_inputs_lie_in_the_lane_and_hold_the_same(nbytes: int) -> None:
    there, here = (calls_of(service, Shape(1, nbytes)) for service in (InLane(LANE), LocalService()))
    for in_lane, plain in zip(there._payloads.inputs, here._payloads.inputs, strict=True):
        assert np.array_equal(in_lane, plain)
        bases = [in_lane]
        while isinstance(bases[-1].base, np.ndarray):
            bases.append(bases[-1].base)
        assert any(isinstance(base, LaneMemory) for base in bases) == (nbytes > 1024)


def test_a_lane_without_room_for_the_inputs_is_an_error() -> None:
    with pytest.raises(BenchError, match="no room for 4915200 bytes"):
        calls_of(LocalService(LANE), Shape(1, LARGE_NBYTES))


@pytest.mark.parametrize(("must", "are"), [(LANE, ROUTED), (ROUTED, LANE)])
@pytest.mark.parametrize("when", ["before", "during"])
def test_calls_that_travel_another_way_are_an_error_and_no_figure(must: str, are: str, when: str) -> None:
    service = LocalService(must)
    load = calls_of(service, Shape(1, 1024))
    load.run(BRIEF)

    def turn(answer: Any) -> Any:
        service.path = are
        return answer

    if when == "before":
        service.path = are
    else:
        service.damage = turn  # type: ignore[method-assign]
    with pytest.raises(BenchError, match=f"must be {must}, and are {are}"):
        load.run(BRIEF)


class SoonInLane(LocalService):
    """Has its lane with the third call."""

    def damage(self, answer: Any) -> Any:
        if self.blocking == 3:
            self.path = LANE
        return answer


def test_a_service_is_called_until_its_calls_travel_as_they_must(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LANE_TIMEOUT_S", 0.1)
    service = SoonInLane()
    assert reach(cast(huterox.Service, service), LANE).path == LANE
    assert service.blocking == 3
    with pytest.raises(BenchError, match="are routed after"):
        reach(cast(huterox.Service, LocalService()), LANE)
