"""The operator's hand: `huterox evict`, `pin`, `unpin`, `drain`, `resume`."""

import argparse

from huterox.cli.connecting import connected
from huterox.cli.parser import Verbs
from huterox.cli.render import Row, print_json

_PIN = """\
Keep a virtual container's model in memory once it is there, whoever else wants the room. This loads nothing: where the
model is absent, the next call loads it."""


def add(verbs: Verbs) -> None:
    """Declare the verbs of this file."""
    evict = verbs.add_client(
        "evict",
        run_evict,
        help="close a container; the next call of its model loads another",
        examples="huterox evict c5f0kq2m.2",
    )
    evict.add_argument("container", metavar="CONTAINER", help="its id, as `huterox ps` shows it")
    pin = verbs.add_client(
        "pin",
        run_pin,
        help="keep a virtual container's model in memory once it is there, whoever else wants the room",
        about=_PIN,
        tenant=True,
        examples="huterox pin who-speaks",
    )
    unpin = verbs.add_client(
        "unpin",
        run_unpin,
        help="let a pinned virtual container's model be evicted again",
        tenant=True,
        examples="huterox unpin who-speaks",
    )
    for verb in (pin, unpin):
        verb.add_argument("name", metavar="NAME", help="the virtual container")
    drain = verbs.add_client(
        "drain",
        run_drain,
        help="empty a node: its containers end their calls and close, and none comes until `resume`",
        examples="huterox drain gpu-3",
    )
    resume = verbs.add_client(
        "resume", run_resume, help="let a drained node have containers again", examples="huterox resume gpu-3"
    )
    for verb in (drain, resume):
        verb.add_argument("node", metavar="NODE", help="its name, as `huterox nodes` shows it")


def run_evict(arguments: argparse.Namespace) -> None:
    """`huterox evict CONTAINER`"""
    with connected(arguments) as client:
        row = client.evict(arguments.container)
    _confirm(arguments, row, f"evicting {row['container']}")


def run_pin(arguments: argparse.Namespace) -> None:
    """`huterox pin NAME`"""
    with connected(arguments) as client:
        row = client.pin(arguments.name)
    text = (
        f"pinned {row['name']} of tenant {row['tenant']}: its model is not evicted; where it is absent, a call loads it"
    )
    _confirm(arguments, row, text)


def run_unpin(arguments: argparse.Namespace) -> None:
    """`huterox unpin NAME`"""
    with connected(arguments) as client:
        row = client.unpin(arguments.name)
    _confirm(arguments, row, f"unpinned {row['name']} of tenant {row['tenant']}: it is shared now")


def run_drain(arguments: argparse.Namespace) -> None:
    """`huterox drain NODE`"""
    with connected(arguments) as client:
        row = client.drain(arguments.node)
    _confirm(arguments, row, f"draining {row['node']}")


def run_resume(arguments: argparse.Namespace) -> None:
    """`huterox resume NODE`"""
    with connected(arguments) as client:
        row = client.resume(arguments.node)
    _confirm(arguments, row, f"{row['node']} takes containers again")


def _confirm(arguments: argparse.Namespace, row: Row, text: str) -> None:
    if arguments.output == "json":
        print_json(row)
    else:
        print(text)
