"""Processes as the system shows them: who they are, how they ended, what they hold."""

import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
_START_TICKS = 22  # field of /proc/PID/stat, counted from 1
_ACTIVITY = slice(10 - 4, 15 - 4 + 1)  # fields 10 to 15, of those after the state: page faults, time on a processor


class Identity(NamedTuple):
    """Names one process for all time: a pid alone may be given out again, to the next boot's processes too."""

    boot_id: str
    pid: int
    start_ticks: int


def identity_of(pid: int) -> Identity:
    """Raises ProcessLookupError where there is no such process."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError) as exc:
        raise ProcessLookupError(f"no process {pid}") from exc
    fields_after_name = stat.rpartition(")")[2].split()
    return Identity(boot_id(), pid, int(fields_after_name[_START_TICKS - 3]))


def boot_id() -> str:
    """Names this machine, from its start to its end."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def is_alive(identity: Identity) -> bool:
    """Whether it has not ended, or is not reaped yet."""
    try:
        return identity_of(identity.pid) == identity
    except ProcessLookupError:
        return False


def activity(pid: int) -> bytes:
    """Changes whenever the process has run for a while, or has taken memory. Empty: it has ended."""
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return b""
    state, *fields = stat.rpartition(b")")[2].split()
    return b"" if state in (b"Z", b"X") else b" ".join(fields[_ACTIVITY])


def pss_bytes(identity: Identity) -> int:
    """The process's proportional share of memory: pages that several processes share are divided among them.

    0 where the process has ended, or its pid belongs to another by now.
    """
    try:
        rollup = (_PROC / str(identity.pid) / "smaps_rollup").read_text()
        if identity_of(identity.pid) != identity:
            return 0
    except OSError:
        return 0
    for line in rollup.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def how_it_ended(status: int) -> str:
    """The status of waitpid, for people."""
    if os.WIFSIGNALED(status):
        return f"killed by {signal_name(os.WTERMSIG(status))}"
    return f"exited with code {os.waitstatus_to_exitcode(status)}"


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def reap_by_pidfd(pidfd: int) -> int | None:
    """The status of an ended child, in the form of waitpid; None where it is not our child, or has not ended."""
    try:
        info = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return None
    if info is None:
        return None
    return info.si_status << 8 if info.si_code == os.CLD_EXITED else info.si_status


def kill_by_pidfd(pidfd: int) -> None:
    """Kill the process that this is, and no other."""
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass


def kill_all(pids: Iterable[int]) -> None:
    """Kill these, as far as they are there and ours to kill."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue


def kill_group(pid: int) -> None:
    """Kill what an ended worker has started and left in its process group."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def children(pid: int | None = None) -> list[int]:
    """Pids of a process's children, those that it has adopted included; of this one's, where none is named."""
    tasks = _PROC / (str(pid) if pid is not None else "self") / "task"
    pids: list[int] = []
    try:
        for task in os.listdir(tasks):  # noqa: PTH208 - Path is slower, and threads may be many
            try:
                pids += map(int, (tasks / task / "children").read_text().split())
            except (FileNotFoundError, ProcessLookupError):  # it has ended
                continue
    except (FileNotFoundError, ProcessLookupError):
        return []
    return pids


def descendants(pid: int) -> list[int]:
    """Pids of a process's children, of their children, and so on."""
    found: list[int] = []
    seen, parents = {pid}, [pid]
    while parents:
        fresh = [child for child in children(parents.pop()) if child not in seen]
        seen.update(fresh)
        found += fresh
        parents += fresh
    return found
