"""From a fresh fork to a worker: cut the ties to the zygote, take the log as output, become a process of its own."""

import atexit
import faulthandler
import fcntl
import gc
import os
import signal
import sys
from typing import Final, NoReturn

from huterox_kernel.descriptors import raise_descriptor_limit
from huterox_kernel.prctl import die_with_parent, set_process_name
from huterox_kernel.worker import forks, inherited, streams
from huterox_kernel.worker.control import ForkOrder
from huterox_kernel.worker.main import serve

CONTROL_DESCRIPTOR: Final = 3


def become_worker(order: ForkOrder, control: int, log: int, zygote_pid: int, taken_s: float) -> NoReturn:
    """Set this process up, serve until told to end, and end. `taken_s` is when the zygote took the order."""
    die_with_parent(zygote_pid)
    os.setpgid(0, 0)  # what the model starts can be ended with it
    raise_descriptor_limit()
    _arrange_descriptors(control, log)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    set_process_name(f"hx:{order.model}")
    faulthandler.enable(2)
    inherited.renew()
    gc.enable()
    forks.guard()
    _leave(serve(CONTROL_DESCRIPTOR, taken_s))


def _leave(code: int) -> NoReturn:
    """End without taking the interpreter down, which would copy the zygote's pages only to free what is in them.

    What the model asked to be done at the end is done: finalizers of its objects, and functions given to `atexit`.
    """
    gc.collect()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _arrange_descriptors(control: int, log: int) -> None:
    """0 is empty, 1 and 2 are the log, 3 is the control socket; everything else is closed."""
    control, log = _above(control), _above(log)
    null = _above(os.open(os.devnull, os.O_RDONLY))
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.dup2(control, CONTROL_DESCRIPTOR, inheritable=False)
    os.closerange(CONTROL_DESCRIPTOR + 1, os.sysconf("SC_OPEN_MAX"))
    streams.install()


def _above(descriptor: int) -> int:
    """The same open file under a number that `dup2` will not overwrite."""
    if descriptor > CONTROL_DESCRIPTOR:
        return descriptor
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, CONTROL_DESCRIPTOR + 1)
