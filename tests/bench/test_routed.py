"""Calls through the SDK: how they are driven and checked. The whole chain is in `test_command.py`."""

from concurrent.futures import Future
from typing import Any, cast

import numpy as np
import pytest

import huterox
from huterox_bench.errors import WrongAnswer
from huterox_bench.loads import LARGE_NBYTES, SHAPES, Shape, SliceLimit
from huterox_bench.routed.calls import Payloads, RoutedCalls
from huterox_bench.routed.models.plus_one import PlusOne

BRIEF = SliceLimit(30.0, 10)


class LocalService:
    """Answers like a service of the model, in this process; `damage` changes the answers."""

    def __init__(self) -> None:
        self.model = PlusOne()
        self.blocking = 0
        self.futures = 0

    def damage(self, answer: Any) -> Any:
        return answer

    def __call__(self, *, x: Any) -> dict[str, Any]:
        self.blocking += 1
        return {"result": self.damage(self.model.predict(x))}

    def submit(self, *, x: Any) -> "Future[dict[str, Any]]":
        self.futures += 1
        future: Future[dict[str, Any]] = Future()
        future.set_result({"result": self.damage(self.model.predict(x))})
        return future


def calls_of(service: LocalService, shape: Shape) -> RoutedCalls:
    return RoutedCalls(cast(huterox.Service, service), shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_one_in_flight_blocks_and_more_are_futures(shape: Shape) -> None:
    service = LocalService()
    load = calls_of(service, shape)
    for _ in range(2):
        assert len(load.run(BRIEF).latencies_ns) == 10
    assert (service.blocking, service.futures) == ((20, 0) if shape.window == 1 else (0, 20))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_payloads_have_the_size_that_the_row_says_and_are_distinct_everywhere(shape: Shape) -> None:
    inputs = Payloads(shape).inputs
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
