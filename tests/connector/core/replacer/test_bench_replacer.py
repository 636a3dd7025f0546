"""What a policy costs: a call, and a decision on a copy. Run by `make bench`."""

from collections.abc import Callable
from typing import Any

import pytest
from tests.connector.core.replacer.pool import filled

from huterox_connector.core.replacer import POLICIES, Replacer

pytestmark = [
    pytest.mark.bench,
    pytest.mark.parametrize("make", POLICIES.values(), ids=POLICIES.keys()),
    pytest.mark.parametrize("residents", [16, 64]),
]


def used(make: Callable[[], Replacer], residents: int) -> Replacer:
    """Every bit is set: the most that a hand can find to do."""
    replacer = filled(make, *range(residents))
    for cid in range(residents):
        replacer.record_access(cid, 2)
    return replacer


def test_record_access(benchmark: Any, make: Callable[[], Replacer], residents: int) -> None:
    replacer = used(make, residents)
    benchmark(replacer.record_access, residents // 2)
    assert replacer.victim({residents // 2}) == residents // 2


def test_victim_on_a_copy(benchmark: Any, make: Callable[[], Replacer], residents: int) -> None:
    replacer, evictable = used(make, residents), frozenset(range(residents))
    assert benchmark(lambda: replacer.copy().victim(evictable)) in evictable


def test_copy(benchmark: Any, make: Callable[[], Replacer], residents: int) -> None:
    replacer = used(make, residents)
    assert benchmark(replacer.copy) is not replacer
