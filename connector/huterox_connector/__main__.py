"""`python -m huterox_connector --config F`: the switchboard daemon. Parse, check, run."""

import argparse
import ctypes
import logging
import os
import signal
import sys
from importlib.metadata import version
from pathlib import Path

import zmq

from huterox_connector.config import ConnectorConfig, load_config
from huterox_connector.shell.daemon import run
from huterox_connector.shell.gate import raise_limit
from huterox_connector.shell.store.base import StoreError
from huterox_wire.errors import HuteroxError

_PR_SET_PDEATHSIG = 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="huterox connector", description="The switchboard of Huterox.")
    parser.add_argument("--config", required=True, type=Path, metavar="F", help="TOML file, see deploy/connector.toml")
    arguments = parser.parse_args()
    try:
        config = load_config(arguments.config)
        _set_up(config)
        run(config, version("huterox"))
    except (HuteroxError, StoreError, zmq.ZMQError, OSError) as exc:
        print(f"huterox connector: {exc}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


def _set_up(config: ConnectorConfig) -> None:
    logging.basicConfig(level=config.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    raise_limit()
    os.umask(0o077)  # sockets and store are for this user alone
    if config.die_with_parent:
        parent = os.getppid()
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the wish was known
            raise OSError("the process that started this one has ended")


if __name__ == "__main__":
    sys.exit(main())
