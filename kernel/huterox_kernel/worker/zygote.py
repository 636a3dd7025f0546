"""The zygote: a process that has imported what models share, and forks a worker whenever the kernel orders one.

    python -m huterox_kernel.worker.zygote DESCRIPTOR PARENT_PID MODULES SKIPPED

Problem: importing torch takes seconds and a hundred megabytes, for every worker again. Idea: import once, then fork;
the pages stay shared. A fork copies only the thread that calls it, so the zygote must have no other: a module that
starts threads while it is imported cannot be preloaded. The zygote finds that out, starts itself again without it, and
says so. It never touches CUDA or ZeroMQ. When the kernel ends, it is killed by the system, and its workers with it.
"""

import gc
import os
import select
import socket
import sys
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

from huterox_kernel.prctl import die_with_parent, set_process_name

_TASKS: Final = Path("/proc/self/task")


class Arguments(NamedTuple):
    """The command line."""

    descriptor: int
    parent_pid: int
    modules: list[str]
    skipped: dict[str, str]

    def to_argv(self) -> list[str]:
        skipped = ",".join(f"{name}={reason}" for name, reason in self.skipped.items())
        return [str(self.descriptor), str(self.parent_pid), ",".join(self.modules), skipped]

    @classmethod
    def from_argv(cls, argv: list[str]) -> "Arguments":
        descriptor, parent_pid, modules, skipped = argv
        pairs = dict(item.split("=", 1) for item in skipped.split(",") if item)
        return cls(int(descriptor), int(parent_pid), [name for name in modules.split(",") if name], pairs)


def main(argv: list[str]) -> int:
    arguments = Arguments.from_argv(argv)
    die_with_parent(arguments.parent_pid)
    set_process_name("hx:zygote")
    gc.disable()  # what is imported here lives for ever, and a collection would touch pages that are to stay shared
    preload(arguments)
    # Late, so that a restart after a module that starts threads does not pay for it twice.
    from huterox_kernel.worker.zygote_loop import Orders

    if (count := thread_count()) > 1:
        raise SystemExit(f"{count} threads run here after the imports; no worker can be forked from this interpreter")
    gc.collect()
    gc.freeze()
    sock = socket.socket(fileno=arguments.descriptor)
    worker = Orders(sock, select.poll()).serve(arguments.modules, arguments.skipped)
    if worker is not None:
        worker()
    return 0


def preload(arguments: Arguments) -> None:
    """Import the modules that are installed here. One that starts threads leads to a new start without it."""
    for name in list(arguments.modules):
        reason = _import(name)
        if thread_count() > 1:
            reason = f"it starts {thread_count() - 1} threads"
        if reason:
            arguments.modules.remove(name)
            arguments.skipped[name] = reason
        if thread_count() > 1:
            _start_again(arguments)


def _import(name: str) -> str:
    """Why it cannot be imported; empty where it could."""
    try:
        __import__(name)
    except ModuleNotFoundError as exc:
        return "not installed" if exc.name == name else _one_line(exc)
    except Exception as exc:  # noqa: BLE001 - a broken library is no reason for the zygote to end
        return _one_line(exc)
    return ""


def _one_line(exc: Exception) -> str:
    text = f"{type(exc).__name__}: {exc}".replace(",", ";")
    return text.splitlines()[0][:200]


def thread_count() -> int:
    """Threads of this process, those of libraries included."""
    return len(list(_TASKS.iterdir()))


def _start_again(arguments: Arguments) -> NoReturn:
    os.set_inheritable(arguments.descriptor, True)
    argv = [sys.executable, "-P", "-m", "huterox_kernel.worker.zygote", *arguments.to_argv()]
    os.execv(sys.executable, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
