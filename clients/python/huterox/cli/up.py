"""`huterox up`: a whole Huterox on this machine, in the foreground."""

import argparse
import sys
import time
from pathlib import Path

from huterox.cli.parser import Verbs

_ABOUT = """\
Run a switchboard and a kernel on this machine, in the foreground, with everything they need in directories of their
own (made private: mode 0700). Prints "ready" on stdout when calls can be made; tells on stderr what it does. A daemon
that dies is started again. Ctrl-C drains and stops everything."""


def add(verbs: Verbs) -> None:
    """Declare the verbs of this file."""
    up = verbs.add(
        "up",
        run_up,
        help="run a whole Huterox on this machine, in the foreground",
        about=_ABOUT,
        examples="""huterox up
                    huterox up --dir /tmp/mine --slots 2 --host-mb 4096
                    HUTEROX_ENDPOINT=ipc:///tmp/mine/switchboard.ipc huterox ps""",
    )
    up.add_argument(
        "--dir",
        type=Path,
        metavar="DIR",
        help="for everything. Default: sockets in $XDG_RUNTIME_DIR/huterox, else /tmp/huterox-UID, where clients look;"
        " store and logs in $XDG_STATE_HOME/huterox, else ~/.local/state/huterox",
    )
    up.add_argument(
        "--host-mb",
        type=int,
        metavar="N",
        help="memory for containers (default: half of what there is)",
    )
    up.add_argument("--slots", type=int, default=8, metavar="N", help="containers at once (default: 8)")
    up.add_argument("--preload", metavar="A,B", help="modules that all workers share (default: numpy,torch)")


def run_up(arguments: argparse.Namespace) -> None:
    """`huterox up`"""
    from huterox.cli.daemons import check_server_extra
    from huterox.cli.supervisor import Supervisor
    from huterox.cli.updir import Settings, UpDir, check_settings, state_directory
    from huterox.endpoint import default_directory

    check_server_extra()
    directory = UpDir(arguments.dir) if arguments.dir else UpDir(default_directory(), state_directory())
    settings = Settings(arguments.host_mb, arguments.slots, _preload(arguments.preload))
    check_settings(settings)
    started_s = time.monotonic()

    def tell(text: str) -> None:
        print(f"huterox up [{time.monotonic() - started_s:5.1f} s] {text}", file=sys.stderr, flush=True)

    def on_ready() -> None:
        memory = "half of the memory" if settings.host_mb is None else f"{settings.host_mb} MB"
        tell(f"ready at {directory.endpoint}: {settings.slots} slots, {memory} for containers")
        tell(f"store and logs are in {directory.state}")
        print("ready", flush=True)

    with directory.locked():
        directory.remove_sockets()
        if directory.adopt_store():
            tell(f"the store has been moved to {directory.state}, where it lasts")
        try:
            Supervisor(directory, settings, tell).run(on_ready)
        finally:
            directory.remove_sockets()
        tell("stopped")


def _preload(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]
