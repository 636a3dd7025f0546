"""What a load took, as far as it is the load's own."""

import pytest
from tests.connector.harness import Harness, created


@pytest.mark.parametrize(
    ("timings_s", "load_s"),
    [
        ({"zygote": 7.0, "fork": 0.25, "import": 0.5, "load": 1.0, "warmup": 0.25, "measure": 0.5}, 2.5),
        ({"load": 1.5}, 1.5),
        ({"zygote": 7.0}, 9.0),
        ({}, 9.0),
    ],
)
def test_the_wait_for_a_zygote_is_no_part_of_it(harness: Harness, timings_s: dict[str, float], load_s: float) -> None:
    kernel = harness.node()
    harness.service("bert")
    (create,) = created(harness.call("bert", 1, 1.0))
    harness.ready(kernel, create.container, 10.0, timings_s=timings_s)
    assert harness.board.registry.containers[create.container].load_s == load_s
