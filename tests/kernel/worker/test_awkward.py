"""Errors and clean-up of a model that raise themselves end its call, and nothing else."""

from collections.abc import Callable
from typing import Any

import pytest

from huterox_kernel.worker.tracebacks import reason_of, traceback_of
from huterox_shm.lane import ERROR, PART
from huterox_wire.errors import InvalidInput, ModelError

from ..models.awkward import ERRORS
from .conftest import Bench

Make = Callable[..., Bench]


@pytest.mark.parametrize("error", ERRORS)
def test_whatever_a_model_raises_ends_its_call_alone(bench: Make, error: str) -> None:
    worker = bench("awkward.py:Awkward")
    with pytest.raises((ModelError, InvalidInput)) as caught:
        worker.result("raises", error=error)
    assert len(str(caught.value)) < 2000
    assert worker.result(x=5) == {"result": 5}


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_so_does_what_a_streams_clean_up_raises(bench: Make, error: str) -> None:
    worker = bench("awkward.py:Awkward")
    worker.send("streams", error=error, stream=True)
    worker.run()
    assert [kind for kind, *_ in worker.take()] == [PART, PART, ERROR]
    worker.send("streams", error=error)  # asked for as a plain call: closed before it has begun
    worker.run()
    assert isinstance(worker.take()[0][2], InvalidInput)
    assert worker.result(x=5) == {"result": 5}


@pytest.mark.parametrize("error", ERRORS)
def test_its_text_can_be_had_in_any_case(error: str) -> None:
    exc = ERRORS[error]()
    assert reason_of(exc)
    assert traceback_of(exc)


def test_an_error_class_of_the_models_own_says_it_with_ours(bench: Make) -> None:
    worker = bench("awkward.py:Awkward")
    with pytest.raises(InvalidInput, match="only squares") as caught:
        worker.result("detailed")
    details: dict[str, Any] = caught.value.details
    assert type(caught.value) is InvalidInput
    assert "object at" in details["odd"]
