"""Times of decisions, by their kind."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any, TypeVar

T = TypeVar("T")


class Clocked:
    """Microseconds of each decision of each kind, as they were."""

    def __init__(self) -> None:
        self._times: dict[str, array[float]] = {}

    def note(self, kind: str, took_ns: int) -> None:
        self._times.setdefault(kind, array("d")).append(took_ns / 1000.0)

    def time(self, decide: Callable[..., T], *args: Any, kind_of: Callable[[T], str]) -> T:
        """Run `decide`; what kind of decision it was can be told from its result."""
        began_ns = perf_counter_ns()
        result = decide(*args)
        took_ns = perf_counter_ns() - began_ns
        self.note(kind_of(result), took_ns)
        return result

    def kinds(self) -> dict[str, array[float]]:
        return self._times

    def forget_all_but(self, prefix: str) -> None:
        self._times = {kind: times for kind, times in self._times.items() if kind.startswith(prefix)}
