"""The suites that there are."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from huterox_bench.loads import Load
from huterox_bench.measure import Progress, interleave
from huterox_bench.options import Options
from huterox_bench.printing import table
from huterox_bench.rows import rows_of


@dataclass(frozen=True, slots=True)
class Suite:
    """A set of measurements that are made in turns.

    `measure` gives their rows, and leaves what must be closed on the stack; `table` shows these to people. One that is
    not `in_report` takes long, and is run by itself.
    """

    name: str
    summary: str
    measure: Callable[[Options, ExitStack, Progress], Sequence[Any]]
    table: Callable[[Sequence[Any]], str] = table
    in_report: bool = True


def all_suites() -> dict[str, Suite]:
    """Every suite by its name, in the order of the report."""
    suites = (
        Suite("limits", "what nothing can beat: the eventfd round trip and libzmq's C proxy", _calls(_open_limits)),
        Suite(
            "lane", "calls through shared memory, of one caller and of several, beside the limits", _calls(_open_lane)
        ),
        Suite("routed", "calls through switchboard, kernel and container, beside the limits", _calls(_open_routed)),
        Suite(
            "cold", "how containers start: forked from a zygote, and in a fresh interpreter", _cold, _cold_table, False
        ),
        Suite("scale", "how long decisions take on 10, 100 and 1,000 nodes", _scale, _scale_table, False),
        Suite("flood", "what one tenant's flood does to a polite caller's latency", _flood, _flood_table, False),
        Suite(
            "device", "copies to and from a GPU out of lane memory, beside torch's own", _device, _device_table, False
        ),
    )
    return {suite.name: suite for suite in suites}


def _calls(
    open_loads: Callable[[Options, ExitStack], list[Load]],
) -> Callable[[Options, ExitStack, Progress], Sequence[Any]]:
    """A suite of loads, which `open_loads` makes ready, in the order of their turns."""

    def measure(options: Options, stack: ExitStack, progress: Progress) -> Sequence[Any]:
        return rows_of(interleave(open_loads(options, stack), options.plan, progress))

    return measure


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


def _cold(options: Options, stack: ExitStack, progress: Progress) -> Sequence[Any]:
    from huterox_bench.cold.suite import measure_cold

    return measure_cold(options, stack, progress)


def _cold_table(rows: Sequence[Any]) -> str:
    from huterox_bench.cold.rows import cold_table

    return cold_table(rows)


def _scale(options: Options, stack: ExitStack, progress: Progress) -> Sequence[Any]:
    from huterox_bench.scale.suite import measure_scale

    return measure_scale(progress=progress)


def _scale_table(rows: Sequence[Any]) -> str:
    from huterox_bench.scale.suite import table

    return table(rows)


def _flood(options: Options, stack: ExitStack, progress: Progress) -> Sequence[Any]:
    from huterox_bench.flood.suite import measure_flood

    return measure_flood(options, stack, progress)


def _flood_table(rows: Sequence[Any]) -> str:
    from huterox_bench.flood.rows import flood_table

    return flood_table(rows)


def _device(options: Options, stack: ExitStack, progress: Progress) -> Sequence[Any]:
    from huterox_bench.device.suite import measure_device

    return measure_device(options, stack, progress)


def _device_table(rows: Sequence[Any]) -> str:
    from huterox_bench.device.rows import copy_table

    return copy_table(rows)
