"""`python -m huterox_bench SUITE`, or `report`: read the command line, measure, print."""

import argparse
import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from huterox.cli.interrupted import INTERRUPTED, is_of_interrupt
from huterox_bench.errors import BenchError
from huterox_bench.machine import machine_facts
from huterox_bench.measure import SECONDS, SLICES, Plan
from huterox_bench.options import Options
from huterox_bench.printing import json_lines
from huterox_bench.report import RESULTS, write_report
from huterox_bench.suites import Suite, all_suites
from huterox_wire.errors import HuteroxError

SECONDS_MAX = 3600.0
SLICES_MAX = 1000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bench and return its exit status."""
    parsed = parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    options = Options(Plan(parsed.seconds, parsed.slices), parsed.endpoint)
    try:
        if parsed.suite == "report":
            _report(options, parsed.results, arguments)
        else:
            suite = all_suites()[parsed.suite]
            rows = measure(suite, options)
            sys.stdout.write(json_lines(rows) if parsed.output == "json" else suite.table(rows))
    except (Exception, KeyboardInterrupt) as exc:
        if is_of_interrupt(exc):
            sys.stderr.write("huterox bench: interrupted\n")
            return INTERRUPTED
        if not isinstance(exc, BenchError | HuteroxError):
            raise
        sys.stderr.write(f"huterox bench: {exc}\n")
        return 1
    return 0


def measure(suite: Suite, options: Options) -> Sequence[Any]:
    """Measure a suite, and close what it has opened, whatever happens."""
    with ExitStack() as stack:
        return suite.measure(options, stack, _progress)


def _report(options: Options, folder: Path, arguments: Sequence[str] | None) -> None:
    rows = {}
    for suite in (suite for suite in all_suites().values() if suite.in_report):
        _progress(f"{suite.name}: {suite.summary}")
        rows[suite.name] = measure(suite, options)
    command = shlex.join(["python", "-m", "huterox_bench", *(sys.argv[1:] if arguments is None else arguments)])
    for path in write_report(rows, machine_facts(), command, datetime.now(UTC), folder):
        sys.stdout.write(f"{path}\n")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    suites = all_suites()
    listed = "\n".join(f"  {suite.name:10}{suite.summary}" for suite in suites.values())
    made = argparse.ArgumentParser(
        prog="huterox bench",
        description="Throughput and latency beside what nothing can beat, measured in turns on this machine.",
        epilog=f"suites:\n{listed}\n  {'report':10}all of them but cold, scale, flood and device, written to a folder",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("suite", choices=[*suites, "report"])
    made.add_argument("--seconds", type=_seconds, default=SECONDS, help="to measure each row (default %(default)s)")
    made.add_argument("--slices", type=_slices, default=SLICES, help="of each row; cold: starts (default %(default)s)")
    made.add_argument("--endpoint", help="a switchboard that runs already (default: start one)")
    made.add_argument("-o", "--output", choices=["table", "json"], default="table")
    made.add_argument("--results", type=Path, default=RESULTS, help="where the report goes (default %(default)s)")
    return made


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= SECONDS_MAX:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most {SECONDS_MAX:g}")
    return seconds


def _slices(text: str) -> int:
    slices = int(text)
    if not 1 <= slices <= SLICES_MAX:
        raise argparse.ArgumentTypeError(f"{text} is not from 1 to {SLICES_MAX}")
    return slices


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"{text}\n")


def _interrupt(signal_number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
