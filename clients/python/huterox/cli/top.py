"""A live view of what runs: `huterox top`. A frame is a pure function of two samples: no terminal is needed for it."""

import argparse
import json
import math
import shutil
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from huterox.cli.connecting import connected
from huterox.cli.observe import more_memory
from huterox.cli.parser import Verbs
from huterox.cli.render import Column, Row, age, column, duration, megabytes, moment, print_json, table
from huterox_wire.errors import InvalidInput

if TYPE_CHECKING:
    from huterox.client import Client

INTERVAL_S_MIN: Final = 0.1
_CLEAR: Final = "\x1b[H\x1b[2J"
_TENANTS_SHOWN_MAX: Final = 5

_ABOUT = """\
A live view: nodes, the containers that are called most, and who calls. On a terminal the screen is drawn anew each
time; elsewhere one frame follows the other. Ctrl-C ends it."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The records at one time."""

    at_s: float  # seconds since the epoch, by this machine's clock
    status: Row
    nodes: list[dict[str, Any]]
    containers: list[dict[str, Any]]
    usage: list[dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        return {
            "at": self.at_s,
            "status": self.status,
            "nodes": self.nodes,
            "containers": self.containers,
            "usage": self.usage,
        }


def add(verbs: Verbs) -> None:
    """Declare the verbs of this file."""
    top = verbs.add_client(
        "top",
        run_top,
        help="a live view of nodes, containers and tenants",
        about=_ABOUT,
        examples="""huterox top
                    huterox top --interval 0.5
                    huterox top --once              one frame, and no more
                    huterox top -o json             one JSON object on each line""",
    )
    top.add_argument("--interval", type=float, default=2.0, metavar="S", help="seconds between frames (default: 2)")
    top.add_argument("--once", action="store_true", help="one frame, and no more")


def run_top(arguments: argparse.Namespace) -> None:
    """`huterox top`"""
    if not (math.isfinite(arguments.interval) and arguments.interval >= INTERVAL_S_MIN):
        raise InvalidInput(f"--interval is at least {INTERVAL_S_MIN:g} s, got {arguments.interval:g}")
    with connected(arguments) as client:
        before, sample = None, take(client)
        if arguments.once and arguments.output == "json":
            print_json(sample.as_json())
            return
        while True:
            _show(sample, before, arguments.output)
            if arguments.once:
                return
            time.sleep(arguments.interval)
            before, sample = sample, take(client)


def take(client: "Client") -> Sample:
    """Ask for everything that a frame shows."""
    return Sample(time.time(), client.status(), client.nodes(), client.containers(), client.usage())


def _show(sample: Sample, before: Sample | None, output: str) -> None:
    if output == "json":
        print(json.dumps(sample.as_json()), flush=True)
    elif sys.stdout.isatty():
        columns, lines = shutil.get_terminal_size()
        shown = frame(sample, before)[: max(1, lines - 1)]
        print(_CLEAR + "\n".join(line[:columns] for line in shown), flush=True)
    else:
        print("\n".join(frame(sample, before)), end="\n\n", flush=True)


def frame(sample: Sample, before: Sample | None) -> list[str]:
    """The lines of one frame. Rates are those since the sample before; there is none in the first frame."""
    return [
        *_head(sample, before),
        "",
        *_nodes(sample.nodes),
        "",
        *_containers(sample, before),
        "",
        *_tenants(sample, before),
    ]


def _head(sample: Sample, before: Sample | None) -> Iterable[str]:
    status = sample.status
    calls = sum(row["calls"] for row in sample.usage)
    rate = _rate(calls, sum(row["calls"] for row in before.usage), sample, before) if before else None
    yield (
        f"{moment(sample.at_s)}  up {duration(status.get('uptime_s', 0))}  {_per_second(rate)} calls/s"
        f"  {status.get('calls_in_flight', 0)} in flight, {status.get('calls_waiting', 0)} wait for a model"
    )
    yield (
        f"{status.get('nodes', 0)} nodes, {status.get('containers', 0)} containers,"
        f" {status.get('services', 0)} services, {status.get('models', 0)} models"
    )


def _nodes(rows: list[dict[str, Any]]) -> Iterable[str]:
    if not rows:
        return ["no nodes: no kernel has registered"]
    columns = (
        column("NODE", "node"),
        column("STATE", "state"),
        Column("SLOTS", lambda row: f"{row['slots_used']} of {row['slots']}", right=True),
        Column("MEMORY", lambda row: f"{megabytes(row['host_mb_used'])} of {megabytes(row['host_mb'])}", right=True),
        Column("", lambda row: bar(row["host_mb_used"], row["host_mb"])),
        Column("TOO SMALL?", more_memory),
    )
    return table(columns, rows).splitlines()


def bar(part: float, whole: float, width: int = 20) -> str:
    """How much of `whole` is taken: `[########............]`."""
    filled = 0 if whole <= 0 else min(width, round(width * part / whole))
    return f"[{'#' * filled}{'.' * (width - filled)}]"


def _containers(sample: Sample, before: Sample | None) -> Iterable[str]:
    """Those that are called most first, then those that were called last."""
    if not sample.containers:
        return ["no containers: nothing is resident"]
    known = {row["id"]: row["hits"] for row in before.containers} if before else {}
    rates = {row["id"]: _rate(row["hits"], known.get(row["id"], 0), sample, before) for row in sample.containers}
    rows = sorted(sample.containers, key=lambda row: (-(rates[row["id"]] or 0.0), -(row["last_hit_at"] or 0.0)))
    columns = (
        column("CONTAINER", "id"),
        column("MODEL", "model"),
        column("NODE", "node"),
        column("STATE", "state"),
        Column("CALLS/S", lambda row: _per_second(rates[row["id"]]), right=True),
        column("HITS", "hits", right=True),
        column("IN FLIGHT", "in_flight", right=True),
        column("LAST HIT", "last_hit_at", age, right=True),
        Column("MEMORY", _memory, right=True),
        column("REASON", "reason"),
    )
    return table(columns, rows).splitlines()


def _memory(row: Row) -> str:
    return megabytes(row.get("footprint_measured_mb") or row.get("footprint_reserved_mb") or 0)


def _tenants(sample: Sample, before: Sample | None) -> Iterable[str]:
    if not sample.usage:
        return []
    known = {row["tenant"]: row["calls"] for row in before.usage} if before else {}
    rates = {row["tenant"]: _rate(row["calls"], known.get(row["tenant"], 0), sample, before) for row in sample.usage}
    rows = sorted(sample.usage, key=lambda row: (-(rates[row["tenant"]] or 0.0), -row["calls"]))
    columns = (
        column("TENANT", "tenant"),
        Column("CALLS/S", lambda row: _per_second(rates[row["tenant"]]), right=True),
        column("CALLS", "calls", right=True),
        column("FAULTS", "faults", right=True),
        column("REFUSED", "refused", right=True),
        column("ERRORS", "errors", right=True),
    )
    lines = table(columns, rows[:_TENANTS_SHOWN_MAX]).splitlines()
    if len(rows) > _TENANTS_SHOWN_MAX:
        lines.append(f"and {len(rows) - _TENANTS_SHOWN_MAX} more tenants: `huterox usage`")
    return lines


def _rate(now: float, then: float, sample: Sample, before: Sample | None) -> float | None:
    """Per second; None where there is nothing to compare with."""
    if before is None or sample.at_s <= before.at_s:
        return None
    return max(0.0, now - then) / (sample.at_s - before.at_s)


def _per_second(rate: float | None) -> str:
    if rate is None:
        return "-"
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.1f}"
