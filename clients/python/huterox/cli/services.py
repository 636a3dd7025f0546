"""`huterox create`, `services`, `delete`, `usage`."""

import argparse
from collections.abc import Mapping

from huterox.cli.connecting import connected
from huterox.cli.parser import Verbs
from huterox.cli.render import (
    Column,
    Row,
    age,
    column,
    duration,
    gigabyte_hours,
    listed,
    print_json,
    print_rows,
    seconds_text,
)

_COLUMNS = (
    column("NAME", "name"),
    column("TENANT", "tenant"),
    column("MODEL", "model"),
    column("TIER", "tier"),
    column("STATE", "state"),
    column("CONTAINER", "container"),
    column("HITS", "hits", right=True),
    column("LAST HIT", "last_hit_at", age, right=True),
    Column("ERRORS", lambda row: str(row["usage"]["errors"]), right=True),
    Column("BUSY", lambda row: seconds_text(row["usage"]["busy_s"]), right=True),
    column("ID", "id"),
)


def _info(info: Mapping[str, str]) -> str:
    return listed([f"{key}={text}" for key, text in info.items()])


_WIDE_COLUMNS = (
    *_COLUMNS[:-1],
    column("ALGORITHM", "algorithm"),
    column("BITS", "bits", listed),
    column("CONTAINERS", "containers", listed),
    Column("QUOTA", lambda row: _quota(row.get("quota") or {}), right=True),
    Column("LENDS", lambda row: "yes" if row.get("lend") else "-"),
    Column("FAULTS", lambda row: str(row["usage"]["faults"]), right=True),
    Column("REFUSED", lambda row: str(row["usage"]["refused"]), right=True),
    Column("HOST GB*h", lambda row: gigabyte_hours(row["usage"]["host_byte_s"]), right=True),
    Column("GPU GB*h", lambda row: gigabyte_hours(row["usage"]["device_byte_s"]), right=True),
    column("AGE", "run_time_s", duration, right=True),
    column("INFO", "info", _info),
    _COLUMNS[-1],
)


def _quota(quota: Row) -> str:
    in_flight_max = quota.get("in_flight_max")
    return f"{in_flight_max} in flight" if in_flight_max else "-"


_AMOUNTS = (
    column("CALLS", "calls", right=True),
    column("ERRORS", "errors", right=True),
    column("REFUSED", "refused", right=True),
    column("FAULTS", "faults", right=True),
    column("BUSY", "busy_s", seconds_text, right=True),
    column("HOST GB*h", "host_byte_s", gigabyte_hours, right=True),
    column("GPU GB*h", "device_byte_s", gigabyte_hours, right=True),
)
_BY_TENANT = (column("TENANT", "tenant"), column("SERVICES", "services", right=True), *_AMOUNTS)
_BY_SERVICE = (column("SERVICE", "service"), column("TENANT", "tenant"), *_AMOUNTS, column("ID", "id"))


_ONLY = "only of this tenant (default: of all)"


def add(verbs: Verbs) -> None:
    """Declare the verbs of this file."""
    create = verbs.add_client(
        "create",
        run_create,
        help="create a virtual container of a model",
        tenant=True,
        examples="""huterox create who-speaks --model vad
                    huterox create street-cam --model yolo --tenant acme --tier pinned
                    huterox create night-cam --model yolo --tier dedicated --lend --info owner=ops
                    huterox create trial --model yolo --in-flight-max 4""",
    )
    create.add_argument("name", metavar="NAME", help="how the tenant will call it")
    create.add_argument("--model", required=True, metavar="M", help="a deployed model")
    create.add_argument(
        "--tier",
        choices=("shared", "dedicated", "pinned"),
        default="shared",
        help="shared: with others (default); dedicated: containers of its own; pinned: with others, and never evicted"
        " once it has been loaded",
    )
    create.add_argument("--lend", action="store_true", help="dedicated only: others may use its containers while idle")
    create.add_argument(
        "--in-flight-max",
        type=_count,
        metavar="N",
        help="its quota: calls that may wait or run at once; more are refused as Busy. It gets no lanes then",
    )
    create.add_argument(
        "--info",
        action="append",
        type=_key_value,
        default=[],
        metavar="KEY=TEXT",
        help="a text of yours about it; up to 16 times",
    )
    verbs.add_client(
        "services",
        run_services,
        help="list the virtual containers",
        tenant=_ONLY,
        wide=True,
        examples="""huterox services
                    huterox services -o wide        with bits, quota, texts of yours, all usage
                    huterox services --tenant acme -o json""",
    )
    delete = verbs.add_client(
        "delete", run_delete, help="delete a virtual container", tenant=True, examples="huterox delete who-speaks"
    )
    delete.add_argument("name", metavar="NAME", help="the virtual container")
    usage = verbs.add_client(
        "usage",
        run_usage,
        help="what tenants have used: calls, busy seconds, memory times time",
        tenant=_ONLY,
        examples="""huterox usage
                    huterox usage --by service --tenant acme -o json""",
    )
    usage.add_argument(
        "--by",
        choices=("tenant", "service"),
        default="tenant",
        help="a row for each tenant, deleted services included (default), or for each virtual container",
    )


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def _key_value(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=TEXT")
    return key, value


def run_create(arguments: argparse.Namespace) -> None:
    """`huterox create NAME --model M`"""
    with connected(arguments) as client:
        row = client.create(
            arguments.name,
            model=arguments.model,
            tier=arguments.tier,
            lend=arguments.lend,
            in_flight_max=arguments.in_flight_max,
            info=dict(arguments.info),
        )
    if arguments.output == "json":
        print_json(row)
    else:
        print(f"created {row['name']} ({row['id']}) for tenant {row['tenant']}: {row['tier']}, model {row['model']}")


def run_services(arguments: argparse.Namespace) -> None:
    """`huterox services`"""
    with connected(arguments) as client:
        rows = client.services(tenant=arguments.tenant)
    columns = _WIDE_COLUMNS if arguments.output == "wide" else _COLUMNS
    nothing = "no virtual containers; make one with `huterox create NAME --model M`"
    print_rows(columns, rows, arguments.output, nothing=nothing)


def run_delete(arguments: argparse.Namespace) -> None:
    """`huterox delete NAME`"""
    with connected(arguments) as client:
        row = client.delete(arguments.name)
    if arguments.output == "json":
        print_json(row)
    else:
        print(f"deleted {row['name']} of tenant {row['tenant']}")


def run_usage(arguments: argparse.Namespace) -> None:
    """`huterox usage`"""
    with connected(arguments) as client:
        rows = client.usage(by=arguments.by, tenant=arguments.tenant)
    columns = _BY_SERVICE if arguments.by == "service" else _BY_TENANT
    print_rows(columns, rows, arguments.output, nothing="nothing has been used: no virtual containers")
