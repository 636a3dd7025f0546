"""What has come of workers and is no descendant of theirs any more: its parent has ended, so the kernel has adopted it.

It counts with its container while that lives, and ends with it. Killing a process hands its children to the kernel, and
they may fork meanwhile; so killing goes on until nothing is left.
"""

import os
import time
from collections.abc import Container, Iterable
from typing import Final

from huterox_kernel import marks
from huterox_kernel.shell import processes

PAUSE_S: Final = 0.02


def strays(known: Iterable[int]) -> dict[int, list[int]]:
    """By mark, the children of this process that are not known, and their descendants."""
    found: dict[int, list[int]] = {}
    for pid in set(processes.children()).difference(known):
        if mark := marks.worn_by(pid):
            found.setdefault(mark, []).extend((pid, *processes.descendants(pid)))
    return found


def sweep(mark: int, spared: int) -> bool:
    """Kill what wears this mark and is this process's to reap, but for `spared`; may anything be left?"""
    found = False
    for pid in processes.children():
        if pid != spared and marks.worn_by(pid) == mark:
            processes.kill_all((pid, *processes.descendants(pid)))
            _is_reaped(pid)
            found = True  # also where it had ended by itself: what it had forked is this process's child by now
    return found


def tidy(known: Iterable[int], living: Container[int]) -> None:
    """Reap adopted children that have ended, and kill what should have ended with its worker and has not."""
    for pid in set(processes.children()).difference(known):
        mark = marks.worn_by(pid)
        if marks.is_of_worker(mark) and mark not in living:
            processes.kill_all((pid, *processes.descendants(pid)))
        _is_reaped(pid)


def end_all_children(within_s: float = 5.0) -> None:
    """Kill and reap all children of this process, and what is handed to it by that: at its own end nothing stays."""
    until_s = time.monotonic() + within_s
    while (pids := processes.children()) and time.monotonic() < until_s:
        processes.kill_all(pid for child in pids for pid in (child, *processes.descendants(child)))
        left = [pid for pid in pids if not _is_reaped(pid)]
        if left:
            time.sleep(PAUSE_S)


def _is_reaped(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True
