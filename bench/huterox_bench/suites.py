"""The suites that there are."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from huterox_bench.loads import Load
from huterox_bench.options import Options


@dataclass(frozen=True, slots=True)
class Suite:
    """A set of loads that are measured in turns.

    `open` makes the loads ready, in the order of their turns, and leaves what must be closed on the stack.
    """

    name: str
    summary: str
    open: Callable[[Options, ExitStack], list[Load]]


def all_suites() -> dict[str, Suite]:
    """Every suite by its name, in the order of the report."""
    suites = (
        Suite("limits", "what nothing can beat: the eventfd round trip and libzmq's C proxy", _open_limits),
        Suite("lane", "calls through shared memory, of one caller and of several, beside the limits", _open_lane),
        Suite("routed", "calls through switchboard, kernel and container, beside the limits", _open_routed),
    )
    return {suite.name: suite for suite in suites}


# Imported when they are run: one suite needs the SDK, another torch, and the limits need neither.


def _open_limits(options: Options, stack: ExitStack) -> list[Load]:
    from huterox_bench.limits.suite import open_limits

    return open_limits(options, stack)


def _open_lane(options: Options, stack: ExitStack) -> list[Load]:
    from huterox_bench.lane.suite import open_lane

    return open_lane(options, stack)


def _open_routed(options: Options, stack: ExitStack) -> list[Load]:
    from huterox_bench.routed.suite import open_routed

    return open_routed(options, stack)
