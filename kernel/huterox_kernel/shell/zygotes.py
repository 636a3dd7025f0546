"""The zygotes of a kernel: one process for each interpreter, started when it is first needed.

A zygote is asked for a worker by a packet with two descriptors and answers with a pidfd. When a zygote dies, the system
kills its workers; their ends are seen through their pidfds like any other. It is started again by the next order.
"""

import logging
import os
import socket
import subprocess
import sys
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from huterox_kernel.shell.logs import Logs
from huterox_kernel.shell.processes import how_it_ended
from huterox_kernel.worker import control
from huterox_kernel.worker.control import ControlError, Decoder, Ended, Forked, ForkFailed, ForkOrder, ZygoteReady
from huterox_kernel.worker.zygote import Arguments

_log: Final = logging.getLogger("huterox.kernel")
_DECODE: Final = Decoder(control.FromZygote)
_PRIVATE: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
_TAIL_NBYTES: Final = 4096

ASKED_MAX: Final = 16
"""Orders that one zygote has before it has answered; the rest wait here."""


class Listener(Protocol):
    """Who is told what zygotes say."""

    def on_forked(self, container: int, pid: int, pidfd: int) -> None: ...
    def on_fork_failed(self, container: int, reason: str, traceback: str) -> None: ...
    def on_reaped(self, container: int, status: int) -> None: ...


class Order(NamedTuple):
    """A worker that is asked for. The descriptors are the zygote's to close once it has them."""

    container: int
    model: str
    log: int
    control: int

    def close(self) -> None:
        os.close(self.log)
        os.close(self.control)


class Zygote:
    """One zygote process."""

    def __init__(
        self,
        interpreter: str,
        modules: list[str],
        log: int,
        environment: dict[str, str],
        loop: AbstractEventLoop,
        listener: Listener,
        on_end: Callable[["Zygote", str], None],
    ) -> None:
        """Start the process. Raises OSError where the interpreter cannot be run."""
        self.interpreter = interpreter
        self.ready = False
        self.started_s = time.monotonic()
        self.workers: set[int] = set()
        self._waiting: dict[int, Order] = {}  # until the zygote is ready
        self._asked: dict[int, float] = {}  # container -> when
        self._loop = loop
        self._listener = listener
        self._on_end = on_end
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock.setblocking(False)
        arguments = Arguments(theirs.fileno(), os.getpid(), modules, {})
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [interpreter, "-P", "-m", "huterox_kernel.worker.zygote", *arguments.to_argv()],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    pass_fds=(theirs.fileno(),),
                    process_group=0,  # a Ctrl-C in the terminal is for the kernel alone
                )
        except OSError:
            self._sock.close()
            raise
        self._pidfd = os.pidfd_open(self._process.pid)
        loop.add_reader(self._sock.fileno(), self._on_readable)
        loop.add_reader(self._pidfd, self._on_exit)

    @property
    def pid(self) -> int:
        return self._process.pid

    def order(self, order: Order) -> None:
        """Ask for a worker; answered through the listener."""
        self._waiting[order.container] = order
        if self.ready:
            self._send_orders()

    def withdraw(self, container: int) -> bool:
        """Forget an order that has not been sent; False: it has, and its worker will come."""
        order = self._waiting.pop(container, None)
        if order is None:
            return False
        order.close()
        return True

    def overdue_s(self, now_s: float) -> float:
        """For how long the zygote has owed an answer, or its readiness."""
        since = min(self._asked.values(), default=now_s) if self.ready else self.started_s
        return now_s - since

    def is_idle(self) -> bool:
        return not (self.workers or self._waiting or self._asked)

    def kill(self) -> None:
        """Its workers die with it."""
        self._process.kill()

    def close(self) -> None:
        """Kill it and wait for its end; says nothing to anybody."""
        self._loop.remove_reader(self._pidfd)
        self._process.kill()
        self._process.wait()
        self._let_go()

    def _send_orders(self) -> None:
        while self._waiting and len(self._asked) < ASKED_MAX:
            container = next(iter(self._waiting))
            order = self._waiting.pop(container)
            try:
                message = ForkOrder(container, order.model)
                control.send(self._sock, message, [order.log, order.control])
            except OSError as exc:
                self._listener.on_fork_failed(container, f"the zygote takes no orders: {exc.strerror}", "")
            else:
                self._asked[container] = time.monotonic()
            order.close()

    def _on_readable(self) -> None:
        try:
            while (packet := control.receive(self._sock, _DECODE)) is not None:
                self._dispatch(*packet)
        except BlockingIOError:
            return
        except (ControlError, OSError):
            self.kill()
        self._loop.remove_reader(self._sock.fileno())

    def _dispatch(self, message: control.FromZygote, descriptors: list[int]) -> None:
        match message:
            case ZygoteReady(modules=modules, skipped=skipped):
                self.ready = True
                left_out = "; ".join(f"{name}: {reason}" for name, reason in skipped.items()) or "nothing"
                _log.info(
                    "zygote %s has %s preloaded; left out: %s", self.pid, ", ".join(modules) or "nothing", left_out
                )
                self._send_orders()
            case Forked(container=container, pid=pid) if len(descriptors) == 1:
                self._asked.pop(container, None)
                self.workers.add(container)
                self._listener.on_forked(container, pid, descriptors[0])
                self._send_orders()
            case ForkFailed(container=container, reason=reason):
                self._asked.pop(container, None)
                self._listener.on_fork_failed(container, reason, "")
                self._send_orders()
            case Ended(container=container, status=status):
                self.workers.discard(container)
                self._listener.on_reaped(container, status)
            case _:
                control.close_all(descriptors)
                raise ControlError(f"the zygote sent {message} with {len(descriptors)} descriptors")

    def _on_exit(self) -> None:
        """It has ended: hear what it said last, then fail what it owed."""
        self._loop.remove_reader(self._pidfd)
        self._on_readable()
        code = self._process.wait()
        how = how_it_ended(-code if code < 0 else code << 8)
        self._let_go()
        self._on_end(self, how)

    def _let_go(self) -> None:
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
        os.close(self._pidfd)

    def fail_orders(self, reason: str, traceback: str) -> None:
        """Tell the listener that nothing will come of what was ordered."""
        waiting, self._waiting = self._waiting, {}
        asked, self._asked = self._asked, {}
        for order in waiting.values():
            order.close()
        for container in [*waiting, *asked]:
            self._listener.on_fork_failed(container, reason, traceback)


class Zygotes:
    """All zygotes of a kernel, by interpreter."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        listener: Listener,
        logs: Logs,
        modules: list[str],
        threads: int,
        start_timeout_s: float,
        idle_s: float,
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._logs = logs
        self._modules = modules
        self._environment = _environment(threads)
        self._start_timeout_s = start_timeout_s
        self._idle_s = idle_s
        self._zygotes: dict[str, Zygote] = {}
        self._idle_since: dict[str, float] = {}

    def warm(self) -> None:
        """Start the zygote of the kernel's own interpreter before it is needed. Raises OSError."""
        self._zygote("")

    def order(self, interpreter: str, order: Order) -> None:
        """Ask for a worker of this interpreter ("": the kernel's own); answered through the listener."""
        try:
            zygote = self._zygote(interpreter)
        except OSError as exc:
            order.close()
            reason = f"the interpreter {interpreter or sys.executable} cannot be run: {exc.strerror or exc}"
            self._listener.on_fork_failed(order.container, reason, "")
            return
        zygote.order(order)

    def withdraw(self, container: int) -> bool:
        """Forget an order that no zygote has seen yet."""
        return any(zygote.withdraw(container) for zygote in list(self._zygotes.values()))

    def pids(self) -> set[int]:
        return {zygote.pid for zygote in self._zygotes.values()}

    def look(self, now_s: float) -> None:
        """Kill zygotes that do not answer, and those of foreign interpreters that nobody has needed for long."""
        for interpreter, zygote in list(self._zygotes.items()):
            if zygote.overdue_s(now_s) > self._start_timeout_s and not (zygote.ready and zygote.is_idle()):
                zygote.kill()
            if not interpreter or not zygote.is_idle():
                self._idle_since.pop(interpreter, None)
            elif now_s - self._idle_since.setdefault(interpreter, now_s) > self._idle_s:
                zygote.kill()

    def close(self) -> None:
        """Kill them all, and wait for their ends."""
        while self._zygotes:
            self._zygotes.popitem()[1].close()

    def _zygote(self, interpreter: str) -> Zygote:
        zygote = self._zygotes.get(interpreter)
        if zygote is not None:
            return zygote
        log = self._logs.open(_log_name(interpreter))
        try:
            zygote = Zygote(
                interpreter or sys.executable,
                self._modules,
                log,
                self._environment,
                self._loop,
                self._listener,
                lambda ended, how: self._on_end(interpreter, ended, how),
            )
        finally:
            os.close(log)
        self._zygotes[interpreter] = zygote
        return zygote

    def _on_end(self, interpreter: str, zygote: Zygote, how: str) -> None:
        self._zygotes.pop(interpreter, None)
        self._idle_since.pop(interpreter, None)
        if zygote.ready:
            zygote.fail_orders(f"the zygote ended: {how}", "")
            return
        name = interpreter or sys.executable
        tail = self._logs.tail(_log_name(interpreter), _TAIL_NBYTES)
        last = tail.strip().splitlines()[-1] if tail.strip() else "it said nothing"
        zygote.fail_orders(f"no worker can be made with the interpreter {name} ({how}): {last}", tail)


def _log_name(interpreter: str) -> str:
    return "zygote" if not interpreter else f"zygote-{interpreter.strip('/').replace('/', '-')[-100:]}"


def _environment(threads: int) -> dict[str, str]:
    """The kernel's own, without what systemd meant for the kernel alone, and with libraries kept from making threads.

    OpenBLAS starts its threads while it is imported, and a zygote with threads cannot be forked.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _PRIVATE}
    environment["OPENBLAS_NUM_THREADS"] = "1"
    environment["OMP_NUM_THREADS"] = str(threads)
    environment["MKL_NUM_THREADS"] = str(threads)
    return environment
