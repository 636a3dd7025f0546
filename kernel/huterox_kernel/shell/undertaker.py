"""A process that waits for the end of its kernel, and ends all that is left of its workers then.

    python -m huterox_kernel.shell.undertaker PIDFD MARK

The system kills workers with their kernel, but not what a model has started and moved out of reach. The kernel does
that when it ends by itself; should it be killed, this process does. It finds by its mark what is to end.

Problem: a process that forks again and again, each time ending itself, is missed by most looks: once its pid is read
from the list, it has another one. Idea: look at the newest first, kill what is found at once, and be content only when
many looks in a row have found nothing. Looks after the first are short: they pass over who was seen without a mark.
"""

import os
import select
import signal
import subprocess
import sys
import time
from typing import Final

from huterox_kernel import marks
from huterox_kernel.prctl import set_process_name
from huterox_kernel.shell import processes

SWEEP_S_MAX: Final = 10.0
LOOKS_IN_VAIN: Final = 25
"""So many looks in a row must find nothing."""

PAUSE_S: Final = 0.02


def start_undertaker(mark: int) -> "subprocess.Popen[bytes]":
    """Start it for this process, which wears this mark. Whoever holds the result keeps it from being waited for."""
    pidfd = os.pidfd_open(os.getpid())
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "huterox_kernel.shell.undertaker", str(pidfd), str(mark)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(pidfd,),
            start_new_session=True,
        )
    finally:
        os.close(pidfd)


def main(argv: list[str]) -> int:
    kernel, mark = map(int, argv)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # whoever stops a whole group stops the kernel too, which is what counts
    set_process_name("hx:undertaker")
    poll = select.poll()
    poll.register(kernel, select.POLLIN)
    poll.poll()
    sweep(mark)
    return 0


def sweep(kernel: int) -> None:
    """Kill all that wear the kernel's mark or one of its workers', but for this one, until none is left."""
    others = {os.getpid()}
    in_vain = 0
    until_s = time.monotonic() + SWEEP_S_MAX
    while in_vain < LOOKS_IN_VAIN and time.monotonic() < until_s:
        in_vain = 0 if _kill_wearers(kernel, others) else in_vain + 1
        time.sleep(PAUSE_S)


def _kill_wearers(kernel: int, others: set[int]) -> bool:
    """Kill those that are there, and say whether there were any. Keeps in `others` who wears no mark of this kernel."""
    pids = {int(name) for name in os.listdir("/proc") if name.isdecimal()}  # noqa: PTH208 - Path is slower
    others &= pids
    found = False
    last = _last_pid()
    for pid in sorted(pids - others, key=lambda pid: (pid <= last, pid), reverse=True):  # pids above it are old ones
        if not marks.is_of_kernel(marks.worn_by(pid), kernel):
            others.add(pid)
        elif processes.activity(pid):  # the dead are their parents' to reap
            processes.kill_all([pid])
            found = True
    return found


def _last_pid() -> int:
    """The pid that was given out last: the next ones are above it, then those that are free from the lowest."""
    try:
        with open("/proc/loadavg", "rb") as file:  # noqa: PTH123 - Path is slower
            return int(file.read().split()[-1])
    except (OSError, ValueError, IndexError):  # hidden here: then the highest are the newest, mostly
        return sys.maxsize


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
