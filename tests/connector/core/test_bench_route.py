"""What the core costs a hit: entering a call and taking its answer. Run by `make bench`."""

from typing import Any

import pytest
from tests.connector.harness import CALLER, Harness, call_header

from huterox_wire.header import pack_header
from huterox_wire.kinds import Flag, Kind

pytestmark = pytest.mark.bench


@pytest.mark.parametrize("policy", ["lru", "clock"])
def test_hit_and_its_answer(benchmark: Any, policy: str) -> None:
    harness = Harness(policy=policy)
    node = harness.node()
    harness.service("bert")
    harness.load(node, "bert", 1)
    calls = harness.board.calls
    call = call_header(harness.handles["bert"], 7)
    answer = pack_header(Kind.REPLY, Flag.PACKED, 0, 7)

    def route() -> bool:
        hit = calls.hit(CALLER, call, 0, 1.0)
        return hit is not None and calls.answered(node, hit.route, answer) is not None

    assert benchmark(route)
    assert len(calls) == 0
