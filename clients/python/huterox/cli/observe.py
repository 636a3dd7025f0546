"""What runs, and where: `huterox ps`, `nodes`, `logs`, `status`."""

import argparse
import sys
import time
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
    one_line,
    print_json,
    print_rows,
    seconds_text,
)
from huterox_wire.errors import NotFound

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


def _stage(name: str) -> Column:
    """How long a stage of the container's creation took."""

    def cell(row: Row) -> str:
        took_s = (row.get("timings_s") or {}).get(name)
        return "-" if took_s is None else seconds_text(took_s)

    return Column(name.upper(), cell, right=True)


_CONTAINERS_WIDE = (
    *_CONTAINERS[:-2],
    column("IN FLIGHT", "in_flight", right=True),
    column("LANES", "lanes", right=True),
    column("RESERVED", "footprint_reserved_mb", megabytes, right=True),
    column("ON DEVICE", "device_measured_mb", megabytes, right=True),
    *(_stage(name) for name in ("zygote", "fork", "import", "load", "warmup")),
    *_CONTAINERS[-2:],
)


def _devices(row: Row) -> str:
    """Each with what its containers take, of what they may: `GPU-8f2a 12.0 of 76.0 GB`."""
    shown = [
        f"{device['id'][:12]} {megabytes(device['mb_used'])} of {megabytes(device['mb_limit'])}"
        for device in row.get("devices") or ()
    ]
    return listed(shown)


def _memory_used(row: Row) -> str:
    """With what all containers share, and what others have taken of what the node may give, where there is any.

    `300 MB (40 MB shared) of 4.0 GB, others have 1.2 GB`
    """
    base_mb = row.get("host_mb_base", 0)
    shared = f" ({megabytes(base_mb)} shared)" if base_mb else ""
    taken_mb = row["host_mb"] - row.get("host_mb_limit", row["host_mb"])
    taken = f", others have {megabytes(taken_mb)}" if taken_mb > 0 else ""
    return f"{megabytes(row['host_mb_used'])}{shared} of {megabytes(row['host_mb'])}{taken}"


def more_memory(row: Row) -> str:
    """What a node's reloads say of its size: the least memory, or slots, that would have saved half of what any would.

    `512 MB more would have saved 12 of 20 reloads, 3.4 s`
    """
    memory = row.get("memory") or {}
    told = []
    for key in ("would_save", "slots_would_save"):
        steps = memory.get(key) or []
        for step in [step for step in steps if step["loads"] * 2 >= steps[-1]["loads"]][:1]:
            more = megabytes(step["more_mb"]) if "more_mb" in step else f"{step['more_slots']} slots"
            saved = f"would have saved {step['loads']} of {memory['refaults']} reloads"
            told.append(f"{more} more {saved}, {seconds_text(step['load_s'])}")
    return "; ".join(told) or "-"


_NODES = (
    column("NODE", "node"),
    column("HOST", "host"),
    column("STATE", "state"),
    column("CONTAINERS", "containers", right=True),
    Column("SLOTS", lambda row: f"{row['slots_used']} of {row['slots']}", right=True),
    Column("MEMORY", _memory_used, right=True),
    Column("DEVICES", _devices),
    column("POLICY", "policy"),
    column("CLAIMED FOR", "claimed_for"),
    Column("TOO SMALL?", more_memory),
    column("HEARD OF", "last_heartbeat_at", age, right=True),
    column("PID", "pid", right=True),
    column("KERNEL", "kernel_version"),
    column("NOTE", "note"),
)


def add(verbs: Verbs) -> None:
    """Declare the verbs of this file."""
    verbs.add_client("status", run_status, help="the switchboard in numbers", examples="huterox status -o json")
    verbs.add_client(
        "ps",
        run_ps,
        help="list the living containers",
        wide=True,
        examples="""huterox ps
                    huterox ps -o wide      with what the time of each one's creation went into
                    huterox ps -o json""",
    )
    verbs.add_client(
        "nodes",
        run_nodes,
        help="list the nodes, what they have given, and what more memory would have saved",
        examples="""huterox nodes
                    huterox nodes -o json""",
    )
    _add_logs(verbs)


def _add_logs(verbs: Verbs) -> None:
    logs = verbs.add_client(
        "logs",
        run_logs,
        help="what a container has written to stdout and stderr",
        tenant=True,
        examples="""huterox logs who-speaks          the newest container of a service or model
                    huterox logs c5f0kq2m.2 -f""",
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
    columns = _CONTAINERS_WIDE if arguments.output == "wide" else _CONTAINERS
    print_rows(columns, rows, arguments.output, nothing="no containers: nothing is resident")


def run_nodes(arguments: argparse.Namespace) -> None:
    """`huterox nodes`"""
    with connected(arguments) as client:
        rows = client.nodes()
    print_rows(_NODES, rows, arguments.output, nothing="no nodes: no kernel has registered")


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
    """What has been written since; once that is nothing, what a container has written that has taken over."""
    piece = _piece_after(client, last)
    if piece["text"]:
        return piece
    if name != last["container"]:
        newest = client.logs(name, offset=0, limit=1)["container"]
        if newest != last["container"]:
            print(f"--- container {newest} follows {last['container']}", file=sys.stderr)
            return _piece_after(client, {"container": newest, "next_offset": 0})
    time.sleep(_POLL_S)
    return piece


def _piece_after(client: "Client", last: dict[str, Any]) -> dict[str, Any]:
    """Tells how much there was in between that is not kept any more."""
    begin = last["next_offset"]
    try:
        piece = client.logs(last["container"], offset=begin, limit=_LOG_NBYTES_MAX)
    except NotFound:  # the whole of it has been removed
        return {**last, "text": ""}
    if (skipped := piece["offset"] - begin) > 0:
        print(f"--- {skipped} bytes are missing here: they came faster than they could be read", file=sys.stderr)
    return piece
