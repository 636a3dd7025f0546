"""`python -m huterox_kernel --config F`: the kernel of one node, in the foreground."""

import argparse
import asyncio
import fcntl
import logging
import os
import socket
import sys
from pathlib import Path

import uvloop

from huterox_kernel import marks
from huterox_kernel.config import ConfigError, KernelConfig, lane_socket, load_config
from huterox_kernel.descriptors import raise_descriptor_limit
from huterox_kernel.prctl import adopt_orphans, die_with_parent, set_process_name
from huterox_kernel.shell.daemon import Daemon
from huterox_kernel.shell.handover import bind_lane_socket
from huterox_kernel.shell.undertaker import start_undertaker
from huterox_shm.descriptors import fill_standard


def main(argv: list[str] | None = None) -> int:
    parent_pid = os.getppid()
    fill_standard()
    parser = argparse.ArgumentParser(prog="huterox_kernel", description="The kernel of one Huterox node.")
    parser.add_argument("--config", type=Path, required=True, help="TOML file, see deploy/kernel.toml")
    arguments = parser.parse_args(argv)
    try:
        config = load_config(arguments.config)
        if config.die_with_parent:
            die_with_parent(parent_pid)
        _lock_folder(Path(config.dir))
        lanes = _listen_for_lanes(config)
    except ConfigError as exc:
        print(f"huterox_kernel: {exc}", file=sys.stderr)  # noqa: T201 - the one line that a user sees
        return 2
    _run(config, lanes)
    return 0


def _lock_folder(folder: Path) -> None:
    """Make the folder, and hold it: two kernels in one would write each other's logs. Raises ConfigError.

    The lock is on the folder itself, where nobody can remove it, and lasts as long as this process.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise ConfigError(f"dir = {str(folder)!r}: {exc.strerror}") from exc
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(lock)
        if isinstance(exc, BlockingIOError):
            raise ConfigError(f"another kernel runs in {folder}") from exc
        raise ConfigError(f"dir = {str(folder)!r}: {exc.strerror}") from exc


def _listen_for_lanes(config: KernelConfig) -> socket.socket | None:
    """Where callers fetch their lanes; None where they are to have none. Raises ConfigError."""
    if not config.lease_lanes_max:
        return None
    path = lane_socket(config)
    try:
        return bind_lane_socket(path, for_all=bool(config.lease_uids))
    except OSError as exc:
        raise ConfigError(f"lease_socket = {path!r}: {exc.strerror or exc}") from exc


def _run(config: KernelConfig, lanes: socket.socket | None) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s", stream=sys.stderr)
    set_process_name("hx:kernel")
    adopt_orphans()
    undertaker = start_undertaker(mark) if marks.wear(mark := marks.draw()) else None
    raise_descriptor_limit()

    async def serve() -> None:
        await Daemon(config, asyncio.get_running_loop(), lanes).run()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
    if undertaker is not None:  # nothing is left for it
        undertaker.kill()
        undertaker.wait()


if __name__ == "__main__":
    sys.exit(main())
