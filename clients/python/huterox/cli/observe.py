"""What runs, where, what happened and why: `huterox ps`, `nodes`, `events`, `logs`, `status`."""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from huterox.cli.connecting import connected
from huterox.cli.parser import Verbs
from huterox.cli.render import (
    Column,
    Row,
    age,
    column,
    duration,
    listed,
    megabytes,
    moment,
    one_line,
    print_json,
    print_rows,
)

if TYPE_CHECKING:
    from huterox.client import Client

_POLL_S: Final = 0.5
_LOG_NBYTES_MAX: Final = 262144


def _memory(row: Row) -> str:
    declared = megabytes(row.get("footprint_declared_mb") or 0)
    measured = row.get("footprint_measured_mb")
    return f"{megabytes(measured)} of {declared}" if measured else f"- of {declared}"


_CONTAINERS = (
    column("ID", "id"),
    column("MODEL", "model"),
    column("VERSION", "version"),
    column("ALGORITHM", "algorithm"),
    column("NODE", "node"),
    column("DEVICE", "device"),
    column("STATE", "state"),
    column("AGE", "run_time_s", duration, right=True),
    column("HITS", "hits", right=True),
    column("LAST HIT", "last_hit_at", age, right=True),
    Column("MEMORY", _memory, right=True),
    column("PID", "pid", right=True),
    column("SERVICES", "services", listed),
    column("REASON", "reason"),
)


def _devices(row: Row) -> str:
    """Each with what its containers take, of what they may: `GPU-8f2a 12.0 of 76.0 GB`."""
    shown = [
        f"{device['id'][:12]} {megabytes(device['mb_used'])} of {megabytes(device['mb_limit'])}"
        for device in row.get("devices") or ()
    ]
    return listed(shown)


def _more_memory(row: Row) -> str:
    """What the node's second loads say of its size: how many of them more memory would have spared."""
    memory = row.get("memory") or {}
    if not memory.get("refaults"):
        return "-"
    return f"{memory['refaults']} reloads; {megabytes(memory['more_mb_median'])} more would spare half"


_NODES = (
    column("NODE", "node"),
    column("HOST", "host"),
    column("STATE", "state"),
    column("CONTAINERS", "containers", right=True),
    Column("SLOTS", lambda row: f"{row['slots_used']} of {row['slots']}", right=True),
    Column("MEMORY", lambda row: f"{megabytes(row['host_mb_used'])} of {megabytes(row['host_mb'])}", right=True),
    Column("DEVICES", _devices),
    column("POLICY", "policy"),
    column("CLAIMED FOR", "claimed_for"),
    Column("TOO SMALL BY", _more_memory),
    column("HEARD OF", "last_heartbeat_at", age, right=True),
    column("PID", "pid", right=True),
    column("KERNEL", "kernel_version"),
)
_EVENTS = (
    column("AT", "at", moment),
    column("KIND", "kind"),
    column("SUBJECT", "subject"),
    column("REASON", "reason"),
)
_EVENT_WIDTHS = (19, 10, 28)  # of followed events, whose widths cannot be known


def add(verbs: Verbs) -> None:
    """Declare the verbs of this file."""
    verbs.add_client("status", run_status, help="the switchboard in numbers", examples="huterox status -o json")
    verbs.add_client("ps", run_ps, help="list the living containers", examples="huterox ps -o json")
    verbs.add_client("nodes", run_nodes, help="list the nodes", examples="huterox nodes")
    _add_events(verbs)
    _add_logs(verbs)


def _add_events(verbs: Verbs) -> None:
    events = verbs.add_client(
        "events",
        run_events,
        help="what happened and why, oldest first",
        examples="""huterox events
                    huterox events -f
                    huterox events --subject c1.2 --limit 20
                    huterox events -f -o json        one JSON object on each line""",
    )
    events.add_argument("-f", "--follow", action="store_true", help="go on with what happens from now on")
    events.add_argument(
        "--limit", type=int, default=1000, metavar="N", help="only the newest N (default and most: 1000)"
    )
    events.add_argument("--subject", metavar="X", help="only of this container, model, service or node")


def _add_logs(verbs: Verbs) -> None:
    logs = verbs.add_client(
        "logs",
        run_logs,
        help="what a container has written to stdout and stderr",
        tenant=True,
        examples="""huterox logs who-speaks          the newest container of a service or model
                    huterox logs c1.2 -f""",
    )
    logs.add_argument("name", metavar="NAME", help="a container's id, a service or a model")
    logs.add_argument("-f", "--follow", action="store_true", help="go on with what is written from now on")
    logs.add_argument("--bytes", type=int, default=65536, metavar="N", help="begin N bytes before the end (65536)")


def run_status(arguments: argparse.Namespace) -> None:
    """`huterox status`"""
    with connected(arguments) as client:
        status = client.status()
    if arguments.output == "json":
        print_json(status)
        return
    shown = {**status, "uptime_s": duration(status["uptime_s"])} if "uptime_s" in status else status
    width = max(len(key) for key in shown)
    for key, value in {"endpoint": client.endpoint, **shown}.items():
        print(f"{key.removesuffix('_s').replace('_', ' '):<{width}}  {one_line(str(value))}")


def run_ps(arguments: argparse.Namespace) -> None:
    """`huterox ps`"""
    with connected(arguments) as client:
        rows = client.containers()
    print_rows(_CONTAINERS, rows, arguments.output, nothing="no containers: nothing is resident")


def run_nodes(arguments: argparse.Namespace) -> None:
    """`huterox nodes`"""
    with connected(arguments) as client:
        rows = client.nodes()
    print_rows(_NODES, rows, arguments.output, nothing="no nodes: no kernel has registered")


def run_events(arguments: argparse.Namespace) -> None:
    """`huterox events [-f]`"""
    with connected(arguments) as client:
        page = client.admin("events", limit=arguments.limit, subject=arguments.subject)
        if not arguments.follow:
            print_rows(_EVENTS, page["events"], arguments.output, nothing="no events")
            return
        for event in _followed_events(client, page, arguments.subject):
            print(json.dumps(event) if arguments.output == "json" else _event_line(event), flush=True)


def _followed_events(client: "Client", page: dict[str, Any], subject: str | None) -> Iterator[dict[str, Any]]:
    while True:
        yield from page["events"]
        if not page["events"]:
            time.sleep(_POLL_S)
        page = client.admin("events", after=page["next"], subject=subject)


def _event_line(event: dict[str, Any]) -> str:
    cells = [one_line(col.cell(event)) for col in _EVENTS]
    return "  ".join([*(cell.ljust(width) for cell, width in zip(cells, _EVENT_WIDTHS, strict=False)), cells[-1]])


def run_logs(arguments: argparse.Namespace) -> None:
    """`huterox logs NAME [-f]`"""
    with connected(arguments) as client:
        limit = max(1, min(arguments.bytes, _LOG_NBYTES_MAX))
        piece = client.logs(arguments.name, offset=-limit, limit=limit)
        if arguments.output == "json":
            print_json(piece)
            return
        sys.stdout.write(piece["text"])
        while arguments.follow:
            sys.stdout.flush()
            piece = _next_piece(client, arguments.name, piece)
            sys.stdout.write(piece["text"])


def _next_piece(client: "Client", name: str, last: dict[str, Any]) -> dict[str, Any]:
    """What has been written since; from the beginning where another container has taken over."""
    piece = client.logs(name, offset=last["next_offset"], limit=_LOG_NBYTES_MAX)
    if piece["container"] != last["container"]:
        print(f"--- container {piece['container']} follows {last['container']}", file=sys.stderr)
        return client.logs(name, offset=0, limit=_LOG_NBYTES_MAX)
    if not piece["text"]:
        time.sleep(_POLL_S)
    return piece
