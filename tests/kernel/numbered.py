"""A lane as the SDK has one: its calls have numbers for their forms, and take the worker's shortest way."""

import time
from typing import Any

from huterox.core import Limits
from huterox.lane_core import LaneCall, LaneCore

from .caller import PATIENCE_S, Caller


class Numbered:
    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.core = LaneCore(caller.end, Limits())

    def send(self, method: str = "predict", **inputs: Any) -> LaneCall:
        call = LaneCall()
        self.core.publish(call, method, inputs, PATIENCE_S, time.monotonic())
        self.core.flush()
        return call

    def answer(self, call: LaneCall) -> dict[str, Any]:
        end_s = time.monotonic() + PATIENCE_S
        while call not in self.core.news:
            assert time.monotonic() < end_s, "no answer"
            self.caller.end.wait(0.05)
            self.core.take()
        self.core.news.remove(call)
        return self.core.outcome(call)

    def result(self, method: str = "predict", **inputs: Any) -> dict[str, Any]:
        return self.answer(self.send(method, **inputs))
