"""A worker whose interpreter counts references otherwise gives models copies, and keeps nothing of theirs in a lane."""

from pathlib import Path

import numpy as np
import pytest

from .conftest import Switchboard
from .numbered import Numbered
from .test_kernel_zygotes import Environment

pytestmark = [pytest.mark.system, pytest.mark.timeout(90)]

A = 1 << 32 | 1
SAYS = "reference counts cannot be relied on: inputs and outputs are copied"
CALLS = 20


def lanes_of(pid: int) -> list[range]:
    """Where lanes lie in a process."""
    lines = [line for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if "memfd:huterox-lane" in line]
    return [range(*(int(end, 16) for end in line.split()[0].split("-"))) for line in lines]


@pytest.mark.parametrize("library", ["tame", "lends"], ids=["counts", "lends"])
def test_what_a_model_gets_and_gives_is_copied_where_references_are_lent(
    switchboard: Switchboard, folder: Path, library: str
) -> None:
    environment = Environment(folder / "env")
    environment.install("tame")
    environment.install("lends", (Path(__file__).parent / "libraries" / "lends.py").read_text())
    switchboard.start(preload=[library])
    inputs = {"y": {"writable": True}}
    ready = switchboard.created(A, "numbered.py:Numbered", interpreter=environment.python, inputs=inputs)
    assert (SAYS in switchboard.admin("logs", container=A)["text"]) == (library == "lends")
    lane = Numbered(switchboard.caller(A))
    whole = switchboard.caller(A)

    for way in (lane, whole):
        for value in range(CALLS):
            x = np.full(1000, value, np.float64)
            assert way.result("plus", x=x)["result"].tolist() == [value + 1] * 1000
            assert way.result("keep", x=x)["result"].tolist()[0] % CALLS == (value + 1) % CALLS
            assert way.result("allocated", size=value + 1)["result"].tolist() == list(range(value + 1))
        kept = way.result("kept")["result"].tolist()
        assert kept == [*range(CALLS)] * (len(kept) // CALLS)  # calls after them have not changed them
    assert len(kept) == 2 * CALLS

    y = lane.core.empty(3, "float64")
    for turn in range(3):
        y[...] = turn
        lane.result("double_in_place", y=y)
        assert y.tolist() == [2 * turn] * 3

    lane.result("allocated", size=5000)
    addresses = [lane.result("where", x=x)["address"], lane.result("where_allocated")["address"]]
    addresses.append(whole.result("where", x=x)["address"])
    inside = [any(address in place for place in lanes_of(ready.pid)) for address in addresses]
    assert inside == [library != "lends"] * 3
