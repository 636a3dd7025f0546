"""`huterox create`, `services`, `delete`."""

import argparse

from huterox.cli.connecting import connected
from huterox.cli.parser import Verbs
from huterox.cli.render import Column, age, column, print_json, print_rows, seconds_text

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


def add(verbs: Verbs) -> None:
    """Declare the verbs of this file."""
    create = verbs.add_client(
        "create",
        run_create,
        help="create a virtual container of a model",
        tenant=True,
        examples="""huterox create who-speaks --model vad
                    huterox create street-cam --model yolo --tenant acme --tier pinned""",
    )
    create.add_argument("name", metavar="NAME", help="how the tenant will call it")
    create.add_argument("--model", required=True, metavar="M", help="a deployed model")
    create.add_argument(
        "--tier",
        choices=("shared", "dedicated", "pinned"),
        default="shared",
        help="shared: with others (default); dedicated: containers of its own; pinned: never evicted",
    )
    verbs.add_client(
        "services",
        run_services,
        help="list the virtual containers, of all tenants unless one is named",
        tenant=True,
        examples="""huterox services
                    huterox services --tenant acme -o json""",
    )
    delete = verbs.add_client(
        "delete", run_delete, help="delete a virtual container", tenant=True, examples="huterox delete who-speaks"
    )
    delete.add_argument("name", metavar="NAME", help="the virtual container")


def run_create(arguments: argparse.Namespace) -> None:
    """`huterox create NAME --model M`"""
    with connected(arguments) as client:
        row = client.create(arguments.name, model=arguments.model, tier=arguments.tier)
    if arguments.output == "json":
        print_json(row)
    else:
        print(f"created {row['name']} ({row['id']}) for tenant {row['tenant']}: {row['tier']}, model {row['model']}")


def run_services(arguments: argparse.Namespace) -> None:
    """`huterox services`"""
    with connected(arguments) as client:
        rows = client.services(tenant=arguments.tenant)
    print_rows(
        _COLUMNS, rows, arguments.output, nothing="no virtual containers; make one with `huterox create NAME --model M`"
    )


def run_delete(arguments: argparse.Namespace) -> None:
    """`huterox delete NAME`"""
    with connected(arguments) as client:
        row = client.delete(arguments.name)
    if arguments.output == "json":
        print_json(row)
    else:
        print(f"deleted {row['name']} of tenant {row['tenant']}")
