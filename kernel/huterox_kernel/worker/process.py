"""From a fresh fork to a worker: cut the ties to the zygote, take the log as output, become a process of its own."""

import atexit
import faulthandler
import gc
import os
import resource
import signal
import threading
from typing import Final, NoReturn

from huterox_kernel.descriptors import raise_descriptor_limit
from huterox_kernel.marks import wear
from huterox_kernel.prctl import die_with_parent, set_process_name
from huterox_kernel.worker import forks, inherited, streams
from huterox_kernel.worker.control import ForkOrder
from huterox_kernel.worker.main import serve
from huterox_kernel.worker.tracebacks import reason_of
from huterox_kernel.worker.words import flush_streams, say, say_to
from huterox_shm.descriptors import FIRST, keep_above, out_of_the_way

OWN_NUMBERS: Final = 1024


def become_worker(order: ForkOrder, control: int, log: int, zygote_pid: int, taken_s: float) -> NoReturn:
    """Set this process up, serve until told to end, and end. `taken_s` is when the zygote took the order."""
    die_with_parent(zygote_pid)
    os.setpgid(0, 0)
    wear(order.mark)  # what the model starts can be ended with it, wherever it goes
    raise_descriptor_limit()
    control, log = _arrange_descriptors(control, log)
    say_to(log)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    set_process_name(f"hx:{order.model}")
    faulthandler.enable(log)
    inherited.renew()
    gc.enable()
    forks.guard()
    _leave(serve(control, taken_s))


def _leave(code: int) -> NoReturn:
    """End without taking the interpreter down, which would copy the zygote's pages only to free what is in them.

    What the model asked to be done at the end is done: finalizers of its objects, and functions given to `atexit`.
    """
    gc.collect()
    _run_exit_functions()
    flush_streams()
    os._exit(code)


def _run_exit_functions() -> None:
    for function in reversed(list(getattr(threading, "_threading_atexits", ()))):  # pools of `concurrent.futures` end
        try:
            function()
        except BaseException as exc:  # noqa: BLE001 - the model's code
            say(f"at the end: {reason_of(exc)}")
    atexit._run_exitfuncs()


def _arrange_descriptors(control: int, log: int) -> tuple[int, int]:
    """0 is empty, 1 and 2 are the log. Control socket and log of our own lie far above; everything else is closed.

    Returns:
        Their new numbers.
    """
    keep_above(_own_numbers())
    null = os.open(os.devnull, os.O_RDONLY)
    control, log, null = (out_of_the_way(number) for number in (control, log, null))
    for number, standard in ((null, 0), (log, 1), (log, 2)):
        os.dup2(number, standard)
    last = FIRST
    for number in sorted((control, log)):
        os.closerange(last, number)
        last = number + 1
    os.closerange(last, os.sysconf("SC_OPEN_MAX"))
    streams.install()
    return control, log


def _own_numbers() -> int:
    """Where ours begin: above what programs go through that close all that they may have inherited."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return OWN_NUMBERS if soft == resource.RLIM_INFINITY or soft >= 4 * OWN_NUMBERS else max(soft // 4, FIRST)
