"""`huterox connector`, `kernel`, `bench`, `simulate`: they replace this process by the part that they name."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from huterox.cli.parser import Verbs
from huterox_wire.errors import InvalidInput


def add(verbs: Verbs) -> None:
    """Declare the verbs of this file."""
    for name, what in (("connector", "the switchboard daemon"), ("kernel", "the daemon of one node")):
        daemon = verbs.add(
            name, run_daemon, help=f"run {what}, as systemd does", examples=f"huterox {name} --config {name}.toml"
        )
        daemon.add_argument("--config", required=True, type=Path, metavar="F", help="its TOML file")
        daemon.set_defaults(module=f"huterox_{name}")
    verbs.add(
        "bench",
        lambda arguments: run_bench([]),
        help="measure this machine: `huterox bench --help`",
        examples="huterox bench routed --seconds 2 -o json",
    )
    verbs.add(
        "simulate",
        lambda arguments: run_simulate([]),
        help="replay a trace through the real core for any policy: `huterox simulate --help`",
        examples="huterox simulate --trace calls.csv --policy all --capacity-mb 16000",
    )


def run_daemon(arguments: argparse.Namespace) -> NoReturn:
    """`huterox connector --config F`"""
    if not arguments.config.is_file():
        raise InvalidInput(f"{arguments.config}: no such file")
    check_server_extra()
    become(arguments.module, "--config", str(arguments.config))


def run_bench(arguments: Sequence[str]) -> int:
    """`huterox bench ...`; everything behind it is the harness's own."""
    check_server_extra()
    become("huterox_bench", *arguments)


def run_simulate(arguments: Sequence[str]) -> int:
    """`huterox simulate ...`; everything behind it is the policy court's own, which needs no daemon."""
    become("huterox_bench.court", *arguments)


def become(module: str, *arguments: str) -> NoReturn:
    """Run a module of ours in this process's place."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *arguments])


def check_server_extra() -> None:
    """Raise InvalidInput where the daemons' own dependencies are not installed."""
    missing = [name for name in ("uvloop", "psutil") if find_spec(name) is None]
    if missing:
        raise InvalidInput(
            f"{', '.join(missing)} is not installed; the daemons need `pip install uvloop psutil nvidia-ml-py`, or"
            " `make env` in a checkout"
        )
