"""What an import must not leave behind in a process whose forks become workers. Each in a process of its own."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from huterox_kernel.worker import fitness

UNFIT = {
    "threads": ("import _thread, time\n_thread.start_new_thread(time.sleep, (99,))", "it starts 1 threads"),
    "file": ("FILE = open('/dev/zero')", "it leaves /dev/zero open"),
    "closed_input": ("import os\nos.close(0)", "it closes descriptor 0"),
    "process": ("import subprocess\nCHILD = subprocess.Popen(['sleep', '99'])", "it starts 1 processes"),
    "fork": ("import os, time\nos.fork() or time.sleep(99)", "it starts 1 processes"),
    "folder": ("import os\nos.chdir('/')", "it changes the working directory to /"),
    "handler": ("import signal\nsignal.signal(signal.SIGUSR1, print)", "it changes how signals are handled"),
    "ignored": ("import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)", "it changes how signals are handled"),
    "blocked": ("import signal\nsignal.pthread_sigmask(0, {10})", "it changes how signals are handled"),
    "umask": ("import os\nos.umask(0o777)", "it changes the umask"),
    "timer": ("import signal\nsignal.alarm(99)", "it sets a timer"),
    "closed_output": ("import sys\nsys.stdout.close()", "it replaces or closes standard streams"),
    "streams": ("import io, sys\nsys.stdout = io.StringIO()", "it replaces or closes standard streams"),
    "nothing": ("import json", ""),
}
PROGRAM = """
import os, sys
from huterox_kernel.worker import fitness
{before}
print({question}, file=sys.__stderr__)
os._exit(0)
"""


def told(before: str, question: str) -> str:
    """What a process says that has done this."""
    command = [sys.executable, "-c", PROGRAM.format(before=before, question=question)]
    null = subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=null, stderr=subprocess.PIPE, text=True, process_group=0)
    with process:
        assert process.stderr is not None
        line = process.stderr.readline().strip()
        process.wait(timeout=60)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it has started
    return line


@pytest.mark.parametrize("what", list(UNFIT))
def test_what_a_fork_does_not_carry_over_is_seen(what: str) -> None:
    code, reason = UNFIT[what]
    assert told(f"state = fitness.State.now()\n{code}", "fitness.unfit_since(state)") == reason


@pytest.mark.parametrize(
    ("hook", "reason"),
    [
        ("print", ""),
        ("lambda: os._exit(0)", "a process that is forked after it ends at once"),
        ("lambda: os.kill(os.getpid(), 9)", "a process that is forked after it ends at once"),
        ("lambda: time.sleep(99)", "a process that is forked after it hangs"),
    ],
)
def test_a_fork_is_tried(hook: str, reason: str) -> None:
    prepared = f"import time\nfitness.FORK_S_MAX = 0.5\nos.register_at_fork(after_in_child={hook})"
    assert told(prepared, "fitness.fork_fails()") == reason


def test_memory_is_bounded_for_a_while() -> None:
    code = """
taken = "all of it"
try:
    with fitness.bounded_memory():
        kept = [bytes(1 << 30) for _ in range(1000)]
except MemoryError:
    taken = "not all of it"
later = bytes(fitness.IMPORT_NBYTES_MAX)
"""
    assert told(code, "taken") == "not all of it"


def test_a_module_that_leaves_a_gpu_open_touches_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitness, "_GPUS", str(tmp_path / "nvidia"))
    for name, reason in (("nvidiactl", "it touches a GPU"), ("other", f"it leaves {tmp_path}/other open")):
        before = fitness.State.now()
        with (tmp_path / name).open("w"):
            after = fitness.State.now()._replace(threads=1)  # the test's process has more: not the question here
        with monkeypatch.context() as patch:
            patch.setattr(fitness.State, "now", lambda after=after: after)
            assert fitness.unfit_since(before) == reason
