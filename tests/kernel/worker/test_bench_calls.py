"""What one call costs in the worker, without the wake-up: decode, check, run, encode, publish."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from huterox_wire.meta import CallMeta
from huterox_wire.payload import split_values

from .conftest import Bench, packed

pytestmark = pytest.mark.bench


def test_a_call_of_1_kib_through_the_worker(bench: Callable[..., Bench], benchmark: Any) -> None:
    worker = bench()
    params, specs, buffers = split_values({"x": np.arange(256, dtype=np.float32)})
    frame = packed(CallMeta("plus", params, specs), buffers)

    def give() -> None:
        worker.put(frame)

    def take() -> None:
        for _, _, _, _, _, offset, _ in worker.caller.take():
            worker.caller.release(offset)
        worker.caller.flush_releases()

    def run() -> None:
        worker.calls.step(1)

    benchmark.pedantic(run, setup=give, teardown=take, rounds=2000)
