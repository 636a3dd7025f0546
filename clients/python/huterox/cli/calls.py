"""`huterox call`."""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huterox.cli.connecting import connected
from huterox.cli.parser import Verbs
from huterox.cli.render import print_json
from huterox_wire.errors import InvalidInput

_ABOUT = """\
Call a virtual container once and print the result.

An input is given as -i name=VALUE; VALUE is read as JSON if it is JSON, else as text. name=@FILE takes a file: .npy an
array, .json values, any other its bytes. name:DTYPE=VALUE makes an array of VALUE."""


def add(verbs: Verbs) -> None:
    """Declare the verbs of this file."""
    call = verbs.add_client(
        "call",
        run_call,
        help="call a virtual container once",
        about=_ABOUT,
        tenant=True,
        examples="""huterox call who-speaks -i audio=@speech.npy
                    huterox call meaning embed -i 'sentences=["good morning", "good night"]' -o json
                    huterox call plus -i x:float32=[1,2,3] --save result.npz
                    huterox call writer -i prompt=hello --stream""",
    )
    call.add_argument("name", metavar="NAME", help="the virtual container")
    call.add_argument("method", metavar="METHOD", nargs="?", default="predict", help="default: predict")
    call.add_argument("-i", "--input", metavar="name=VALUE", action="append", default=[], help="an input; repeat it")
    call.add_argument("--save", type=Path, metavar="F.npz", help="write the arrays of the result to a file")
    call.add_argument("--stream", action="store_true", help="print the parts of a streamed result as they come")


def run_call(arguments: argparse.Namespace) -> None:
    """`huterox call NAME [METHOD]`"""
    from huterox.cli.inputs import parse_inputs

    if arguments.save and arguments.stream:
        raise InvalidInput("--save keeps one result; it does not go with --stream")
    inputs = parse_inputs(arguments.input)
    with connected(arguments) as client:
        service = client.service(arguments.name)
        if arguments.stream:
            with service.stream(arguments.method, **inputs) as parts:
                _print_parts(parts, arguments.output)
        else:
            _print_result(service.call(arguments.method, **inputs), arguments)


def _print_result(result: dict[str, Any], arguments: argparse.Namespace) -> None:
    from huterox.cli.results import jsonable, save, summary

    if arguments.save:
        saved = save(arguments.save, result)
        print(f"saved {', '.join(saved) or 'nothing'} to {arguments.save}", file=sys.stderr)
    if arguments.output == "json":
        print_json(jsonable(result))
    else:
        print(summary(result))


def _print_parts(parts: Iterable[dict[str, Any]], output: str) -> None:
    """Part by part; as JSON they make one list, an element a line."""
    from huterox.cli.results import jsonable, summary

    if output != "json":
        for part in parts:
            print(summary(part), flush=True)
        return
    opening = "["
    for part in parts:
        print(opening, json.dumps(jsonable(part), allow_nan=False), sep="\n", end="", flush=True)
        opening = ","
    print("\n]" if opening == "," else "[]")
