"""The zygote: a process that has imported what models share, and forks a worker whenever the kernel orders one.

    python -m huterox_kernel.worker.zygote DESCRIPTOR PARENT_PID MODULES LEARNED

Problem: importing torch takes seconds and a hundred megabytes, for every worker again. Idea: import once, then fork;
the pages stay shared. But an import is foreign code, and can do anything: it may hang, end the process, or leave
something that no fork carries over (`fitness.py`). So the zygote tells before each import which one comes: if it ends
or says nothing more, the kernel knows why. Where it sees itself what is wrong with a module, it says so. Either way it
is not mended: the kernel kills it and starts another one without that module. When the kernel ends, it is killed by the
system, and its workers with it.

MODULES are configured, LEARNED are what earlier loads have imported: these it measures.
"""

import gc
import os
import select
import socket
import sys
import time
from typing import Final, NamedTuple, NoReturn

from huterox_kernel.prctl import die_with_parent, set_process_name
from huterox_kernel.worker import control, inherited
from huterox_kernel.worker.fitness import State, bounded_memory, fork_fails, unfit_since

TRIAL_S: Final = 0.002
"""After an import that took longer a fork is tried; for all the others together once."""


class Arguments(NamedTuple):
    """The command line."""

    descriptor: int
    parent_pid: int
    modules: list[str]
    learned: list[str]

    def to_argv(self) -> list[str]:
        return [str(self.descriptor), str(self.parent_pid), ",".join(self.modules), ",".join(self.learned)]

    @classmethod
    def from_argv(cls, argv: list[str]) -> "Arguments":
        descriptor, parent_pid, modules, learned = argv
        return cls(int(descriptor), int(parent_pid), _names(modules), _names(learned))


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def main(argv: list[str]) -> int:
    arguments = Arguments.from_argv(argv)
    die_with_parent(arguments.parent_pid)
    set_process_name("hx:zygote")
    gc.disable()  # what is imported here lives for ever, and a collection would touch pages that are to stay shared
    inherited.watch()
    sock = socket.socket(fileno=arguments.descriptor)
    imports = Imports(sock)
    imports.configured(arguments.modules)
    from huterox_kernel.worker.zygote_loop import Orders  # late: it needs numpy, which is to be measured, too

    imports.learned(arguments.learned)
    imports.finish()
    from huterox_kernel.worker.ownership import counts_are_exact

    counts_are_exact()  # once, for all workers
    inherited.settle()
    gc.disable()  # once more: a module may have switched it on
    gc.collect()
    gc.freeze()
    worker = Orders(sock, select.poll()).serve(imports.imported, imports.skipped, imports.took_s)
    if worker is not None:
        worker()
    return 0


class Imports:
    """Imports one module after the other, and looks at the process after each."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.imported: list[str] = []  # of those that are configured
        self.took_s: dict[str, float] = {}  # of those that are learned
        self.skipped: dict[str, str] = {}  # what could not be imported, and why
        self._pid = os.getpid()
        self._untried = False  # whether there are imports after which no fork has been tried

    def configured(self, names: list[str]) -> None:
        """Import what is installed here."""
        for name in names:
            if self._import(name) is not None:
                self.imported.append(name)
        self._tell_done()

    def learned(self, names: list[str]) -> None:
        """Import these too, and note how long each took that was not there already."""
        for name in names:
            if name not in sys.modules and (took_s := self._import(name)) is not None:
                self.took_s[name] = took_s
        self._tell_done()

    def finish(self) -> None:
        """Nothing more will be imported. Ends the process where no worker can be forked after all."""
        if self._untried and (reason := fork_fails()):
            raise SystemExit(f"after the imports, {reason}")

    def _tell_done(self) -> None:
        control.send(self._sock, control.Importing(""))

    def _import(self, name: str) -> float | None:
        """How long it took; None where it cannot be imported. Does not return where this process is spoilt by it."""
        before = State.now()
        control.send(self._sock, control.Importing(name))
        begun_s = time.perf_counter()
        with bounded_memory():
            reason = _try_import(name)
        took_s = time.perf_counter() - begun_s
        if os.getpid() != self._pid:  # the import has forked: there is one zygote, and this is not it
            os._exit(0)
        unfit = unfit_since(before)
        if not unfit and took_s >= TRIAL_S:
            unfit = fork_fails()
        self._untried = took_s < TRIAL_S or self._untried
        if unfit:
            self._end_over(name, unfit)
        if reason:
            self.skipped[name] = reason
            return None
        return took_s

    def _end_over(self, name: str, reason: str) -> NoReturn:
        """Say why a module must be left out, and end: all that it started or left here goes with this process."""
        control.send(self._sock, control.Unfit(name, reason))
        os._exit(1)


def _try_import(name: str) -> str:
    """Why it cannot be imported; empty where it could."""
    try:
        __import__(name)
    except ModuleNotFoundError as exc:
        return "not installed" if exc.name == name else _one_line(exc)
    except BaseException as exc:  # noqa: BLE001 - a broken library is no reason for the zygote to end
        return _one_line(exc)
    return ""


def _one_line(exc: BaseException) -> str:
    try:
        text = f"{type(exc).__name__}: {exc}".splitlines()[0]
    except BaseException:  # noqa: BLE001 - its text is foreign code too
        text = type(exc).__name__
    return text.encode(errors="backslashreplace").decode()[:200]


if __name__ == "__mp_main__":  # a model has had `multiprocessing` start this process
    from huterox_kernel.worker.entries import find_in_children

    find_in_children()
elif __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
