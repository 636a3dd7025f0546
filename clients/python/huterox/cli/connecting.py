"""From parsed options to a connected client."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from huterox.client import Client


def connected(arguments: argparse.Namespace) -> "Client":
    """The client that the options ask for; use it in a `with` block. A command makes one call, which no lane pays."""
    from huterox.client import connect

    return connect(
        getattr(arguments, "endpoint", None),
        tenant=getattr(arguments, "tenant", None),
        timeout=arguments.timeout,
        lanes=False,
    )
