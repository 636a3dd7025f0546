"""What happened and why: `huterox events`."""

import argparse
import json
import time
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from huterox.cli.connecting import connected
from huterox.cli.facts import facts_text
from huterox.cli.parser import Verbs
from huterox.cli.render import Row, column, moment, one_line, print_json, print_rows, table

if TYPE_CHECKING:
    from huterox.client import Client

_POLL_S: Final = 0.5
_COLUMNS = (
    column("AT", "at", moment),
    column("KIND", "kind"),
    column("SUBJECT", "subject"),
    column("REASON", "reason"),
)
_WIDTHS: Final = (19, 10, 28)
"""Of followed events: what comes later cannot be measured."""

_INDENT: Final = " " * 21
"""Facts stand under the kind, below their event."""


def add(verbs: Verbs) -> None:
    """Declare the verbs of this file."""
    events = verbs.add_client(
        "events",
        run_events,
        help="what happened and why, oldest first",
        about="What happened and why, oldest first: causes, costs, and the numbers that each decision was made on.",
        examples="""huterox events
                    huterox events -f
                    huterox events --brief --limit 20
                    huterox events --subject c5f0kq2m.2    only of a container, model, service or node
                    huterox events -f -o json        one JSON object on each line""",
    )
    events.add_argument("-f", "--follow", action="store_true", help="go on with what happens from now on")
    events.add_argument("--limit", type=int, default=1000, metavar="N", help="only the newest N (default: 1000)")
    events.add_argument("--subject", metavar="X", help="only of this container, model, service or node")
    events.add_argument("--brief", action="store_true", help="without the numbers")


def run_events(arguments: argparse.Namespace) -> None:
    """`huterox events [-f]`"""
    with connected(arguments) as client:
        events = client.events(limit=arguments.limit, subject=arguments.subject)
        if arguments.follow:
            for event in chain(events, _later(client, _last_of(events), arguments.subject)):
                print(_followed(event, arguments), flush=True)
        elif arguments.output == "json":
            print_json(events)
        elif not events or arguments.brief:
            print_rows(_COLUMNS, events, arguments.output, nothing="no events")
        else:
            titles, *lines = table(_COLUMNS, events).splitlines()
            print(titles)
            for line, event in zip(lines, events, strict=True):
                print(line + _facts_below(event))


def _last_of(events: list[dict[str, Any]]) -> int:
    """After which one to go on; -1: all that there will be."""
    return int(events[-1]["seq"]) if events else -1


def _later(client: "Client", after: int, subject: str | None) -> Iterator[dict[str, Any]]:
    while True:
        events = client.events(after=after, subject=subject)
        yield from events
        if events:
            after = _last_of(events)
        else:
            time.sleep(_POLL_S)


def _followed(event: dict[str, Any], arguments: argparse.Namespace) -> str:
    if arguments.output == "json":
        return json.dumps(event)
    cells = [one_line(col.cell(event)) for col in _COLUMNS]
    line = "  ".join([*(cell.ljust(width) for cell, width in zip(cells, _WIDTHS, strict=False)), cells[-1]])
    return line if arguments.brief else line + _facts_below(event)


def _facts_below(event: Row) -> str:
    facts = facts_text(event.get("details") or {})
    return f"\n{_INDENT}{facts}" if facts else ""
