"""One zygote process, as the kernel holds it: orders in, workers out (see `huterox_kernel.worker.zygote`)."""

import os
import socket
import subprocess
import time
from asyncio import AbstractEventLoop
from typing import Final, NamedTuple, Protocol

from huterox_kernel.core.preloads import Level, Plan
from huterox_kernel.shell.processes import how_it_ended, kill_group
from huterox_kernel.worker import control
from huterox_kernel.worker.control import (
    ControlError,
    Decoder,
    Ended,
    Forked,
    ForkFailed,
    ForkOrder,
    Importing,
    Unfit,
    ZygoteReady,
)
from huterox_kernel.worker.zygote import Arguments

_DECODE: Final = Decoder(control.FromZygote)

ASKED_MAX: Final = 16
"""Orders that one zygote has before it has answered; the rest wait here."""


class Listener(Protocol):
    """Who is told of workers."""

    def on_forked(self, container: int, pid: int, pidfd: int) -> None: ...
    def on_fork_failed(self, container: int, reason: str, traceback: str) -> None: ...
    def on_reaped(self, container: int, status: int) -> None: ...


class Keeper(Protocol):
    """Who is told of the zygote itself."""

    def on_zygote_ready(self, zygote: "Zygote", ready: ZygoteReady) -> None: ...
    def on_zygote_end(self, zygote: "Zygote", how: str) -> None: ...


class Order(NamedTuple):
    """A worker that is asked for. The descriptors are the zygote's to close once it has them."""

    container: int
    model: str
    version: str
    log: int
    control: int
    mark: int = 0

    def close(self) -> None:
        os.close(self.log)
        os.close(self.control)


class Kind(NamedTuple):
    """Whose zygote it is: of which interpreter ("": the kernel's own), and how much it imports."""

    interpreter: str
    level: Level


class Start(NamedTuple):
    """What a zygote is started with. `kind` is what the kernel knows it by, `program` what is run.

    `expected_nbytes`: what it will have in memory when it is ready, as far as that is known.
    """

    kind: Kind
    program: str
    plan: Plan
    environment: dict[str, str]
    expected_nbytes: int


class Blame(NamedTuple):
    """The module over which a zygote did not come up, and what happened."""

    module: str
    reason: str


class Zygote:
    """The process, until its keeper has been told of its end.

    Args:
        log: a descriptor for what it prints; stays the giver's.
    """

    def __init__(self, start: Start, log: int, loop: AbstractEventLoop, listener: Listener, keeper: Keeper) -> None:
        """Start the process. Raises OSError where the interpreter cannot be run."""
        self.start = start
        self.ready = False
        self.has_learned = False  # whether it has imported any learned module
        self.has_forked = False
        self._importing = ""  # the module that it is importing
        self._is_past_configured = False  # whether it has begun with the learned ones, or is done with all
        self._blame: Blame | None = None
        self._given_up = ""  # why it was killed
        self._heard_s = time.monotonic()  # when it was started, or last told what it imports
        self.nbytes = 0  # what it had in memory when it was last measured
        self.is_measured = False  # since it was ready
        self.workers: set[int] = set()
        self._waiting: dict[int, Order] = {}  # until the zygote is ready
        self._asked: dict[int, float] = {}  # container -> when
        self._loop = loop
        self._listener = listener
        self._keeper = keeper
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock.setblocking(False)
        arguments = Arguments(theirs.fileno(), os.getpid(), *start.plan)
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [start.program, "-P", "-m", "huterox_kernel.worker.zygote", *arguments.to_argv()],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=start.environment,
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

    def take_orders(self) -> list[Order]:
        """Orders that the process has not seen; they are the taker's now."""
        orders = list(self._waiting.values())
        self._waiting.clear()
        return orders

    def give_up_if_overdue(self, now_s: float, limit_s: float, import_limit_s: float) -> None:
        """Kill it where it has owed an answer or its readiness for longer than this, or the end of an import."""
        if self._importing:
            limit_s = import_limit_s
        since = min(self._asked.values(), default=now_s) if self.ready else self._heard_s
        if now_s - since > limit_s:
            self._given_up = f"nothing more came from it for {limit_s:g} s"
            self.kill()

    def is_out_of_work(self) -> bool:
        """Has it been asked for workers, and ended without having made any?"""
        return bool(self._asked) and not self.has_forked

    def blame(self, how: str) -> Blame | None:
        """Over which module it ended before it was ready, where that is known."""
        if self._blame is None and self._importing:
            return Blame(self._importing, f"{how} while it was imported")
        return self._blame

    def level_below(self) -> Level:
        """What imports less, and not what this one did not survive."""
        has_more = self.start.kind.level is Level.LEARNED and bool(self.start.plan.learned)
        return Level.CONFIGURED if has_more and self._is_past_configured else Level.BARE

    def is_idle(self) -> bool:
        return not (self.workers or self._waiting or self._asked)

    def kill(self) -> None:
        """Its workers die with it."""
        self._process.kill()

    def close(self) -> None:
        """Kill it and wait for its end; says nothing to anybody."""
        self._loop.remove_reader(self._pidfd)
        kill_group(self.pid)
        self._process.kill()
        self._process.wait()
        self._let_go()

    def _send_orders(self) -> None:
        while self._waiting and len(self._asked) < ASKED_MAX:
            container = next(iter(self._waiting))
            order = self._waiting.pop(container)
            try:
                message = ForkOrder(container, order.model, order.mark)
                control.send(self._sock, message, [order.log, order.control])
            except (BrokenPipeError, ConnectionResetError):  # it has ended; another one will have the order
                self._waiting[container] = order
                return
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
            pass
        self.kill()  # it makes no sense, or an import has closed its descriptors: it will never take an order
        self._loop.remove_reader(self._sock.fileno())

    def _dispatch(self, message: control.FromZygote, descriptors: list[int]) -> None:
        match message:
            case Importing(module=module):
                self._importing, self._heard_s = module, time.monotonic()
                self._is_past_configured |= not module or module in self.start.plan.learned
            case Unfit(module=module, reason=reason):
                self._blame = Blame(module, reason)
                self.kill()
            case ZygoteReady(took_s=took_s):
                self.ready, self.has_learned = True, bool(took_s)
                self._send_orders()
                self._keeper.on_zygote_ready(self, message)
            case Forked(container=container, pid=pid) if len(descriptors) == 1:
                self._asked.pop(container, None)
                self.has_forked = True
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
        kill_group(self.pid)  # what its imports have started
        self._on_readable()
        code = self._process.wait()
        how = self._given_up or how_it_ended(-code if code < 0 else code << 8)
        self._let_go()
        self._keeper.on_zygote_end(self, how)

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
