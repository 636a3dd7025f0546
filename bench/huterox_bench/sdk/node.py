"""A whole Huterox on this machine, started for the bench and ended with it."""

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from huterox_bench.errors import BenchError
from huterox_bench.processes import Child

READY_TIMEOUT_S = 60.0
LINES_TOLD = 20
SLOTS = 12
HOST_MB = 2048
_TICK_S = 0.02


def start_node(stack: ExitStack) -> str:
    """Start `huterox up` in a directory of its own; returns its endpoint once calls can be made.

    Raises:
        BenchError: it does not become ready; tells what it printed last.
    """
    folder = Path(tempfile.mkdtemp(prefix="huterox-bench-"))
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    command = ["up", "--dir", str(folder), "--slots", str(SLOTS), "--host-mb", str(HOST_MB)]
    output = folder / "up.out"
    with output.open("wb") as log:
        child = Child(
            "huterox up",
            [sys.executable, "-m", "huterox.cli.main", *command],
            stdout=log.fileno(),
            stderr=subprocess.STDOUT,
            orphan_signal=signal.SIGTERM,  # it must end what it has started
        )
    stack.enter_context(child)
    _wait_ready(child, output)
    return f"ipc://{folder}/switchboard.ipc"


def _wait_ready(child: Child, output: Path) -> None:
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    try:
        while "ready" not in output.read_text(errors="replace").split("\n"):
            child.check_alive()
            if time.monotonic() > deadline_s:
                raise BenchError(f"{child.name} was not ready within {READY_TIMEOUT_S:.0f} s")
            time.sleep(_TICK_S)
    except BenchError as exc:
        said = "\n  ".join(output.read_text(errors="replace").splitlines()[-LINES_TOLD:]) or "nothing"
        raise BenchError(f"{exc}; it said:\n  {said}") from None
