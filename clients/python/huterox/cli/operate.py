"""The operator's hand: `huterox evict`."""

import argparse

from huterox.cli.connecting import connected
from huterox.cli.parser import Verbs
from huterox.cli.render import print_json


def add(verbs: Verbs) -> None:
    """Declare the verbs of this file."""
    evict = verbs.add_client(
        "evict",
        run_evict,
        help="close a container; the next call of its model loads another",
        examples="huterox evict c1.2",
    )
    evict.add_argument("container", metavar="CONTAINER", help="its id, as `huterox ps` shows it")


def run_evict(arguments: argparse.Namespace) -> None:
    """`huterox evict CONTAINER`"""
    with connected(arguments) as client:
        row = client.evict(arguments.container)
    if arguments.output == "json":
        print_json(row)
    else:
        print(f"evicting {row['container']}")
