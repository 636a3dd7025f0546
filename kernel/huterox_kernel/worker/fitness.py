"""What an import has done to the zygote's process, beyond what a fork carries over well.

A worker is a copy of the zygote. A thread is not copied; a descriptor is closed; a child stays the zygote's; a timer is
gone; a signal handler, a working directory or a mask is every worker's from then on, whether its model imports the
module or not. So a module that leaves any of these is no module to preload. Light: the zygote imports it first.
"""

import os
import resource
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

_DESCRIPTORS: Final = "/proc/self/fd"
_GPUS: Final = "/dev/nvidia"
_STREAMS: Final = ("stdin", "stdout", "stderr")
_TIMERS: Final = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
_SIGNALS: Final = ("SigBlk", "SigIgn", "SigCgt")
_LIBC_SIGNALS: Final = 1 << 31 | 1 << 32
"""32 and 33, as bits: the C library's own."""

IMPORT_NBYTES_MAX: Final = 4 * 1024**3
"""What one import may take of memory, where half of what is free is not less."""

FORK_S_MAX: Final = 5.0
_TRIAL_CODE: Final = 17


class State(NamedTuple):
    """What a worker would inherit of the process, or miss."""

    threads: int
    files: dict[str, str]  # descriptor -> what it leads to
    children: set[str]
    folder: str
    signals: list[int]  # as bits: blocked, ignored, handled
    umask: str
    timers: list[float]
    streams: list[int]  # the objects' ids

    @classmethod
    def now(cls) -> "State":
        status = _status()
        return cls(
            threads=int(status["Threads"]),
            files=_open_files(),
            children=_children(),
            folder=_folder(),
            signals=[int(status[name], 16) & ~_LIBC_SIGNALS for name in _SIGNALS],
            umask=status.get("Umask", ""),
            timers=[signal.getitimer(which)[0] for which in _TIMERS],
            streams=[id(getattr(sys, name, None)) for name in _STREAMS],
        )


def unfit_since(before: State) -> str:
    """Why no worker should be forked after what was imported since; empty where it can."""
    after = State.now()
    if after.threads > 1:
        return f"it starts {after.threads - 1} threads"
    left_open = [path for number, path in after.files.items() if before.files.get(number) != path]
    if any(path.startswith(_GPUS) for path in left_open) or _uses_cuda():
        return "it touches a GPU"
    if left_open:
        return f"it leaves {left_open[0]} open"
    if closed := before.files.keys() - after.files.keys():
        return f"it closes descriptor {min(closed, key=int)}"
    if pids := after.children - before.children:
        return f"it starts {len(pids)} processes"
    if after.folder != before.folder:
        return f"it changes the working directory to {after.folder}"
    if after.signals != before.signals:
        return "it changes how signals are handled"
    if after.umask != before.umask:
        return "it changes the umask"
    if any(after.timers):
        return "it sets a timer"
    if after.streams != before.streams or any(_is_closed(name) for name in _STREAMS):
        return "it replaces or closes standard streams"
    return ""


def fork_fails() -> str:
    """Why a child cannot be forked that runs, and leaves when it wants to; empty where it can.

    What modules have asked to be done at a fork is done here for the first time.
    """
    try:
        pid = os.fork()
    except (OSError, RuntimeError) as exc:
        return f"a fork after it fails: {exc}"
    if pid == 0:
        os._exit(_TRIAL_CODE)
    pidfd = os.pidfd_open(pid)
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    in_time = poller.poll(FORK_S_MAX * 1000)
    os.close(pidfd)
    if not in_time:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if not in_time:
        return "a process that is forked after it hangs"
    if status != _TRIAL_CODE << 8:
        return "a process that is forked after it ends at once"
    return ""


@contextmanager
def bounded_memory() -> Iterator[None]:
    """What is done here gets a MemoryError before it takes all that there is."""
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    held = int(_status().get("VmData", "0 kB").split()[0]) * 1024
    most = held + min(IMPORT_NBYTES_MAX, _available() // 2)
    soft, hard = limits
    resource.setrlimit(resource.RLIMIT_DATA, (most if soft == resource.RLIM_INFINITY else min(soft, most), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, limits)


def _status() -> dict[str, str]:
    with open("/proc/self/status") as file:  # noqa: PTH123 - Path is slower, and this is done for every module
        pairs = (line.split(":", 1) for line in file)
        return {name: value.strip() for name, value in pairs}


def _open_files() -> dict[str, str]:
    files = {}
    for number in os.listdir(_DESCRIPTORS):  # noqa: PTH208 - as above
        try:
            files[number] = os.readlink(f"{_DESCRIPTORS}/{number}")  # noqa: PTH115
        except FileNotFoundError:  # that of the listing itself
            continue
    return files


def _children() -> set[str]:
    """Those included that have ended and that nobody has waited for."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:  # noqa: PTH123
            return set(file.read().split())
    except OSError:  # not every system tells
        return set()


def _folder() -> str:
    try:
        return os.getcwd()  # noqa: PTH109
    except OSError:  # it has been removed
        return ""


def _available() -> int:
    with open("/proc/meminfo") as file:  # noqa: PTH123
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return IMPORT_NBYTES_MAX


def _is_closed(name: str) -> bool:
    return bool(getattr(getattr(sys, name, None), "closed", False))


def _uses_cuda() -> bool:
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    return cuda is not None and bool(cuda.is_initialized())
