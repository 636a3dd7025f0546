"""The zygote: a process that has imported what models share, and forks a worker whenever the kernel orders one.

    python -m huterox_kernel.worker.zygote DESCRIPTOR PARENT_PID MODULES LEARNED SKIPPED

Problem: importing torch takes seconds and a hundred megabytes, for every worker again. Idea: import once, then fork;
the pages stay shared. A fork copies only the thread that calls it, and a worker keeps none of the zygote's descriptors,
so a module that starts threads or processes or leaves a file open while it is imported cannot be preloaded; nor can one
that touches a GPU, for CUDA does not work after a fork. The zygote finds that out, starts itself again without the
module, and says so. When the kernel ends, it is killed by the system, and its workers with it.

MODULES are configured, LEARNED are what earlier loads have imported: these it measures, and tells before each import,
so that the kernel knows which one has killed it.
"""

import gc
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

from huterox_kernel.prctl import die_with_parent, set_process_name

if TYPE_CHECKING:
    from huterox_kernel.worker.zygote_loop import Orders

_TASKS: Final = Path("/proc/self/task")
_DESCRIPTORS: Final = "/proc/self/fd"
_GPUS: Final = "/dev/nvidia"
STARTS_MAX: Final = 8
"""After so many modules that had to be left out, the rest of the learned ones are left out too."""


class Arguments(NamedTuple):
    """The command line."""

    descriptor: int
    parent_pid: int
    modules: list[str]
    learned: list[str]
    skipped: dict[str, str]

    def to_argv(self) -> list[str]:
        skipped = ",".join(f"{name}={reason}" for name, reason in self.skipped.items())
        return [str(self.descriptor), str(self.parent_pid), ",".join(self.modules), ",".join(self.learned), skipped]

    @classmethod
    def from_argv(cls, argv: list[str]) -> "Arguments":
        descriptor, parent_pid, modules, learned, skipped = argv
        pairs = dict(item.split("=", 1) for item in skipped.split(",") if item)
        return cls(int(descriptor), int(parent_pid), _names(modules), _names(learned), pairs)


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def main(argv: list[str]) -> int:
    arguments = Arguments.from_argv(argv)
    die_with_parent(arguments.parent_pid)
    set_process_name("hx:zygote")
    gc.disable()  # what is imported here lives for ever, and a collection would touch pages that are to stay shared
    preload(arguments)
    # Late, so that a restart after a module that starts threads does not pay for it twice.
    from huterox_kernel.worker.zygote_loop import Orders

    sock = socket.socket(fileno=arguments.descriptor)
    orders = Orders(sock, select.poll())
    took_s = preload_learned(arguments, orders)
    if (count := thread_count()) > 1:
        raise SystemExit(f"{count} threads run here after the imports; no worker can be forked from this interpreter")
    gc.collect()
    gc.freeze()
    worker = orders.serve(arguments.modules, arguments.skipped, took_s)
    if worker is not None:
        worker()
    return 0


def preload(arguments: Arguments) -> None:
    """Import the configured modules that are installed here. One that cannot be had leads to a start without it."""
    for name in list(arguments.modules):
        _, reason = _import(name, arguments)
        if reason:
            arguments.modules.remove(name)
            arguments.skipped[name] = reason


def preload_learned(arguments: Arguments, orders: "Orders") -> dict[str, float]:
    """Import the learned modules; how long each took that was not there already."""
    from huterox_kernel.worker import imports

    tops = _tops()
    took_s: dict[str, float] = {}
    for name in list(arguments.learned):
        if name in sys.modules:
            continue
        orders.tell_import(name)
        seconds, reason = _import(name, arguments)
        if reason:
            arguments.learned.remove(name)
            arguments.skipped[name] = reason
        else:
            took_s[name] = seconds
    imports.preloaded_later = _tops() - tops
    return took_s


def _tops() -> set[str]:
    return {name.partition(".")[0] for name in list(sys.modules)}


def _import(name: str, arguments: Arguments) -> tuple[float, str]:
    """How long it took, and why it cannot be kept, if so. Does not return where this process cannot go on with it."""
    open_before = _open_files()
    begun_s = time.perf_counter()
    pid = os.getpid()
    try:
        reason = _try_import(name)
    finally:
        if os.getpid() != pid:  # the module has forked, and this is the child: no second zygote
            os._exit(1)
    took_s = time.perf_counter() - begun_s
    if unfit := _unfit(open_before):
        _start_without(name, unfit, arguments)
    return took_s, reason


def _try_import(name: str) -> str:
    """Why it cannot be imported; empty where it could."""
    try:
        __import__(name)
    except ModuleNotFoundError as exc:
        return "not installed" if exc.name == name else _one_line(exc)
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - a broken library is no reason for the zygote to end
        return _one_line(exc)
    return ""


def _unfit(open_before: dict[str, str]) -> str:
    """Why no worker could be forked after what was imported last; empty where it can."""
    if (count := thread_count()) > 1:
        return f"it starts {count - 1} threads"
    if pids := _children():
        return f"it starts {len(pids)} processes"
    left_open = [path for number, path in _open_files().items() if open_before.get(number) != path]
    if any(path.startswith(_GPUS) for path in left_open) or _uses_cuda():
        return "it touches a GPU"
    return f"it leaves {left_open[0]} open" if left_open else ""


def _open_files() -> dict[str, str]:
    """Descriptor -> what it leads to."""
    files = {}
    for number in os.listdir(_DESCRIPTORS):  # noqa: PTH208 - Path is slower, and this is done for every module
        try:
            files[number] = os.readlink(f"{_DESCRIPTORS}/{number}")  # noqa: PTH115
        except FileNotFoundError:  # that of the listing itself
            continue
    return files


def _uses_cuda() -> bool:
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    return cuda is not None and bool(cuda.is_initialized())


def _one_line(exc: BaseException) -> str:
    text = f"{type(exc).__name__}: {exc}".replace(",", ";")
    return text.splitlines()[0][:200]


def thread_count() -> int:
    """Threads of this process, those of libraries included."""
    return len(list(_TASKS.iterdir()))


def _children() -> list[int]:
    """Processes that were started here, those included that have ended and that nobody has waited for."""
    return [int(pid) for task in _TASKS.iterdir() for pid in (task / "children").read_text().split()]


def _start_without(name: str, reason: str, arguments: Arguments) -> NoReturn:
    for pid in _children():  # or they would go on as children of the zygote that follows
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    arguments.skipped[name] = reason.replace(",", ";")
    modules = [module for module in arguments.modules if module != name]
    learned = [module for module in arguments.learned if module != name and not module.startswith(f"{name}.")]
    if len(arguments.skipped) > STARTS_MAX:
        arguments.skipped.update(dict.fromkeys(learned, "too many others had to be left out"))
        learned = []
    os.set_inheritable(arguments.descriptor, True)
    fresh = arguments._replace(modules=modules, learned=learned)
    os.execv(sys.executable, [sys.executable, "-P", "-m", "huterox_kernel.worker.zygote", *fresh.to_argv()])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
