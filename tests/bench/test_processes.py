"""Helper processes end with the bench, however it ends."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from huterox_bench import processes
from huterox_bench.errors import BenchError
from huterox_bench.processes import Child

pytestmark = [pytest.mark.system, pytest.mark.timeout(60)]
WAIT_S = 20.0

FOREVER = "import os, signal; os.write(1, b'up\\n'); signal.pause()"
STUBBORN = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.write(1, b"up\\n")
while True:
    signal.pause()
"""


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    try:
        yield read, write
    finally:
        os.close(read)
        os.close(write)


@contextmanager
def running(code: str) -> Iterator[Child]:
    """A child that runs the code and has said that it is up."""
    with pipe() as (read, write), Child("helper", [sys.executable, "-c", code], stdout=write) as child:
        assert os.read(read, 3) == b"up\n"
        yield child


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_child_ends_with_its_block() -> None:
    with running(FOREVER) as child:
        child.check_alive()
        assert is_alive(child.pid)
    assert not is_alive(child.pid)


def test_a_child_that_does_not_listen_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "STOP_TIMEOUT_S", 0.1)
    with running(STUBBORN) as child:
        pass
    assert child.wait() == -signal.SIGKILL


def test_a_child_that_has_ended_by_itself_is_an_error_that_names_it() -> None:
    with Child("helper", [sys.executable, "-c", "raise SystemExit(3)"]) as child:
        assert child.wait() == 3
        with pytest.raises(BenchError, match="helper has ended by itself, with exit status 3"):
            child.check_alive()


def test_a_child_is_in_a_session_of_its_own_so_that_ctrl_c_does_not_reach_it() -> None:
    with running(FOREVER) as child:
        assert os.getsid(child.pid) == child.pid


def test_a_child_dies_when_its_parent_is_killed() -> None:
    parent = f"""
import os, sys
from huterox_bench.processes import Child
with Child("helper", [sys.executable, "-c", {FOREVER!r}], stdout=1) as child:
    os.kill(child.pid, 0)
    sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.kill()
        assert process.stdout.read() == b""  # ends when the last holder of the pipe has ended: the child


def test_a_child_whose_parent_has_died_before_it_was_bound_does_not_start() -> None:
    command = [sys.executable, "-m", "huterox_bench.launch", "1", "9", sys.executable, "-c", "print('ran')"]
    done = subprocess.run(command, capture_output=True, timeout=WAIT_S, check=False)
    assert done.returncode == 1
    assert done.stdout == done.stderr == b""
