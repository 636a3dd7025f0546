"""A process that waits for the end of its kernel, and ends all that is left of its workers then.

    python -m huterox_kernel.shell.undertaker PIDFD MARK

The system kills workers with their kernel, but not what a model has started and moved out of reach. The kernel does
that when it ends by itself; should it be killed, this process does. It finds by its mark what is to end.
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Final

from huterox_kernel import marks
from huterox_kernel.prctl import set_process_name
from huterox_kernel.shell import processes

SWEEP_S_MAX: Final = 10.0
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
    until_s = time.monotonic() + SWEEP_S_MAX
    while (pids := list(_wearers(mark))) and time.monotonic() < until_s:
        processes.kill_all(pids)
        time.sleep(PAUSE_S)
    return 0


def _wearers(kernel: int) -> Iterator[int]:
    """All living processes that wear the kernel's mark or one of its workers', but for this one."""
    for pid in (int(name) for name in os.listdir("/proc") if name.isdecimal()):  # noqa: PTH208 - Path is slower
        lives = pid != os.getpid() and processes.activity(pid)  # the dead are their parents' to reap
        if lives and marks.is_of_kernel(marks.worn_by(pid), kernel):
            yield pid


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
