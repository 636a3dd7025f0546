"""`huterox simulate`: read the command line, make or read a trace, replay it, print and draw what came of it."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from huterox.cli.interrupted import INTERRUPTED
from huterox.cli.render import one_line
from huterox_bench.court.generators import generate
from huterox_bench.court.options import parser, plan_of, settings_of
from huterox_bench.court.plot import check_plot, draw
from huterox_bench.court.printing import as_json, table
from huterox_bench.court.tally import Verdict
from huterox_bench.court.traces import Trace, read_trace, write_trace
from huterox_bench.court.trial import Case, policies_of, verdicts
from huterox_wire.errors import HuteroxError, InvalidInput

READER_LEFT: Final = 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    try:
        _run(parser().parse_args(arguments))
        sys.stdout.flush()
    except HuteroxError as error:
        sys.stderr.write(f"huterox: {error.code}: {one_line(error.message)}\n")
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at exit
        return READER_LEFT
    return 0


def _run(chosen: argparse.Namespace) -> None:
    if chosen.plot is not None:
        check_plot(chosen.plot)
    settings = settings_of(chosen) if chosen.policy else None
    policies = policies_of(chosen.policy) if chosen.policy else ()
    trace = _trace(chosen)
    if chosen.write is not None:
        _write(trace, chosen.write)
    if settings is None:
        if chosen.write is None:
            write_trace(trace, sys.stdout)
        return
    case = Case(trace, policies, chosen.capacity_mb, settings)
    given = _judge(case)
    if chosen.output == "json":
        sys.stdout.write(as_json(given, one=len(policies) == len(chosen.capacity_mb) == 1))
    else:
        sys.stdout.write(table(given))
    if chosen.plot is not None:
        draw(given, _title(chosen, trace), chosen.plot)


def _judge(case: Case) -> list[Verdict]:
    """With a line that tells how far it is, for a person who waits."""
    if not sys.stderr.isatty():
        return list(verdicts(case))

    def told(policy: str, capacity_mb: float, share: float) -> None:
        sys.stderr.write(f"\r\033[K{policy} at {capacity_mb:g} MB: {100 * share:.0f} %")
        sys.stderr.flush()

    try:
        return list(verdicts(case, told))
    finally:
        sys.stderr.write("\r\033[K")


def _trace(chosen: argparse.Namespace) -> Trace:
    if chosen.trace is not None:
        return read_trace(chosen.trace)
    return generate(chosen.generate, plan_of(chosen))


def _write(trace: Trace, path: Path) -> None:
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            write_trace(trace, file)
    except OSError as exc:
        raise InvalidInput(f"{path}: {exc.strerror or exc}") from exc


def _title(chosen: argparse.Namespace, trace: Trace) -> str:
    name = chosen.trace.name if chosen.trace is not None else f"{chosen.generate}, seed {chosen.seed or 0}"
    size_mb = sum(cost.size_mb for cost in trace.models.values())
    return f"{name}: {len(trace)} requests for {len(trace.models)} models of {size_mb:.0f} MB in all"


if __name__ == "__main__":
    sys.exit(main())
