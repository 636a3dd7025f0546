"""How many descriptors lanes may take."""

import resource

import pytest

from huterox_kernel.descriptors import RESERVE, lanes_that_fit


@pytest.mark.parametrize(
    ("limit", "lanes"),
    [(resource.RLIM_INFINITY, 65536), (20_000, (20_000 - RESERVE) // 5), (1024, 153), (256, 25), (2, 0)],
)
def test_lanes_leave_a_reserve(limit: int, lanes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    assert lanes_that_fit() == lanes
