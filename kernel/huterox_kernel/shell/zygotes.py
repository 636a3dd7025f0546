"""The zygotes of a kernel, by interpreter: the first is started when it is needed, successors when loads have shown
what else is worth preloading, and one that has learned nothing for models that do not get on with that.

A zygote is asked for a worker by a packet with two descriptors and answers with a pidfd. When a zygote dies, the system
kills its workers; their ends are seen through their pidfds like any other. It is started again by the next order.

    coming ── ready ──▶ current ── a successor is ready ──▶ retired ── its last worker has ended ──▶ killed

A successor imports in the background while nothing is being loaded; until it is ready the current one takes the orders.
One that does not come up, for what it was importing, is started again without that module, and orders that waited for
it with it. There are RETIRED_MAX retired ones at most: until one of them ends nothing new is tried.
"""

import logging
import os
import sys
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from huterox_kernel.core.preloads import Preloads
from huterox_kernel.shell.logs import Logs
from huterox_kernel.shell.preload_file import load_preloads, save_preloads
from huterox_kernel.shell.zygote import Kind, Listener, Order, Start, Zygote
from huterox_kernel.worker.control import Imported, ZygoteReady

_log: Final = logging.getLogger("huterox.kernel")
_PRIVATE: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
_TAIL_NBYTES: Final = 4096

RETIRED_MAX: Final = 2
_OWN: Final = Kind("", True)


class _Load(NamedTuple):
    """A worker that has been ordered and is not ready yet."""

    model: str
    zygote: Zygote


@dataclass(slots=True, frozen=True)
class ZygoteConfig:
    """How zygotes are started. `file` keeps what was learned."""

    modules: list[str]
    learns: bool
    file: Path
    threads: int
    start_timeout_s: float
    idle_s: float


@dataclass(slots=True, eq=False)
class _Generations:
    """The zygotes of one kind."""

    current: Zygote | None = None
    coming: Zygote | None = None
    retired: list[Zygote] = field(default_factory=list)
    idle_since_s: float | None = None

    def all(self) -> list[Zygote]:
        return [zygote for zygote in (self.current, self.coming, *self.retired) if zygote is not None]


class Zygotes:
    """All zygotes of a kernel.

    Args:
        is_loading: whether a worker is being made or loads its model.
    """

    def __init__(
        self,
        loop: AbstractEventLoop,
        listener: Listener,
        logs: Logs,
        config: ZygoteConfig,
        is_loading: Callable[[], bool],
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._logs = logs
        self._config = config
        self._is_loading = is_loading
        self._environment = _environment(config.threads)
        self._preloads = Preloads(config.learns, load_preloads(config.file) if config.learns else {})
        self._generations: dict[Kind, _Generations] = {}
        self._loads: dict[int, _Load] = {}

    def warm(self) -> None:
        """Start the zygote of the kernel's own interpreter before it is needed. Raises OSError."""
        self._taker(_OWN)

    def order(self, interpreter: str, order: Order) -> None:
        """Ask for a worker of this interpreter ("": the kernel's own); answered through the listener."""
        model = f"{order.model} {order.version}"
        kind = Kind(interpreter, not self._preloads.is_plain(interpreter, model))
        try:
            zygote = self._taker(kind)
        except OSError as exc:
            order.close()
            reason = f"the interpreter {interpreter or sys.executable} cannot be run: {exc.strerror or exc}"
            self._listener.on_fork_failed(order.container, reason, "")
            return
        self._loads[order.container] = _Load(model, zygote)
        zygote.order(order)

    def withdraw(self, container: int) -> bool:
        """Forget an order that no zygote has seen yet."""
        return any(zygote.withdraw(container) for zygote in list(self._all()))

    def pids(self) -> set[int]:
        return {zygote.pid for zygote in self._all()}

    def learn(self, interpreter: str, imported: Imported) -> None:
        """A load has imported these modules, which its zygote did not have."""
        if imported.sets_environment:
            reason = "a model sets environment variables when it imports this"
            self._preloads.avoid(interpreter, imported.modules, reason)
            self._save()
        else:
            self._preloads.learn(interpreter, imported.modules)

    def end_load(self, container: int, went_well: bool | None) -> None:
        """A load has ended; None: it was given up. Of containers that are ready this means nothing any more."""
        load = self._loads.pop(container, None)
        if load is None:
            return
        interpreter = load.zygote.start.kind.interpreter
        if went_well:
            self._preloads.loaded(interpreter, load.model)
        elif went_well is False and load.zygote.has_learned and self._preloads.failed(interpreter, load.model):
            _log.warning(
                "%s is loaded without what was learned from now on: its loads had gone well before", load.model
            )
            self._save()

    def look(self, now_s: float) -> None:
        """Kill zygotes that do not answer or are not needed any more; start successors that are due."""
        for kind, generations in list(self._generations.items()):
            for zygote in generations.all():
                if zygote.overdue_s(now_s) > self._config.start_timeout_s and not (zygote.ready and zygote.is_idle()):
                    zygote.kill()
            for zygote in generations.retired:
                if zygote.is_idle():
                    zygote.kill()
            self._look_at_idle(kind, generations, now_s)
            self._look_for_successor(kind, generations)

    def _look_at_idle(self, kind: Kind, generations: _Generations, now_s: float) -> None:
        """Zygotes that nobody has needed for long end, but for the kernel's own."""
        zygotes = generations.all()
        if kind == _OWN or not zygotes or not all(zygote.is_idle() for zygote in zygotes):
            generations.idle_since_s = None
        elif generations.idle_since_s is None:
            generations.idle_since_s = now_s
        elif now_s - generations.idle_since_s > self._config.idle_s:
            for zygote in zygotes:
                zygote.kill()

    def _look_for_successor(self, kind: Kind, generations: _Generations) -> None:
        current = generations.current
        if current is None or not current.ready or generations.coming is not None or self._is_loading():
            return
        if kind.learns and len(generations.retired) < RETIRED_MAX and self._preloads.has_fresh(kind.interpreter):
            generations.coming = self._start(kind)

    def close(self) -> None:
        """Kill them all, and wait for their ends."""
        for zygote in list(self._all()):
            zygote.close()
        self._generations.clear()

    def _all(self) -> Iterator[Zygote]:
        return (zygote for generations in self._generations.values() for zygote in generations.all())

    def _taker(self, kind: Kind) -> Zygote:
        """Who takes orders now. Raises OSError: it cannot be started."""
        generations = self._generations.setdefault(kind, _Generations())
        if generations.current is None:
            generations.current, generations.coming = generations.coming, None
        if generations.current is None:
            generations.current = self._start(kind)
        return generations.current

    def _start(self, kind: Kind) -> Zygote:
        program = kind.interpreter or sys.executable
        learned = self._preloads.wanted(kind.interpreter) if kind.learns else []
        log = self._logs.open(_log_name(kind.interpreter))
        try:
            start = Start(kind, program, self._config.modules, learned, self._environment)
            return Zygote(start, log, self._loop, self._listener, self)
        finally:
            os.close(log)

    # What zygotes say of themselves.

    def on_zygote_ready(self, zygote: Zygote, ready: ZygoteReady) -> None:
        """It takes orders; a successor takes them from now on."""
        kind, tried = zygote.start.kind, zygote.start.learned
        left_out = "; ".join(f"{name}: {reason}" for name, reason in ready.skipped.items()) or "nothing"
        has = ", ".join([*ready.modules, *ready.took_s]) or "nothing"
        _log.info("zygote %s has %s preloaded; left out: %s", zygote.pid, has, left_out)
        if kind.learns:
            skipped = {name: reason for name, reason in ready.skipped.items() if name in tried}
            self._preloads.settle(kind.interpreter, tried, ready.took_s, skipped, ready.fingerprint)
            self._save()
        generations = self._generations[kind]
        if generations.coming is zygote:
            if generations.current is not None:
                generations.retired.append(generations.current)
            generations.current, generations.coming = zygote, None

    def on_zygote_end(self, zygote: Zygote, how: str) -> None:
        """It has ended, by itself or killed."""
        generations = self._generations[zygote.start.kind]
        was_current = generations.current is zygote
        if was_current:
            generations.current = None
        elif generations.coming is zygote:
            generations.coming = None
        else:
            generations.retired.remove(zygote)
        if zygote.ready:
            for order in zygote.take_orders():
                self.order(zygote.start.kind.interpreter, order)
            zygote.fail_orders(f"the zygote ended: {how}", "")
        elif zygote.importing:
            self._start_without(zygote, how, was_current)
        else:
            self._fail_start(zygote, how)

    def _start_without(self, zygote: Zygote, how: str, was_current: bool) -> None:
        """It did not survive a learned module: the next one does without."""
        interpreter = zygote.start.kind.interpreter
        _log.warning("zygote %s: %s while it imported %s", zygote.pid, how, zygote.importing)
        self._preloads.avoid(interpreter, [zygote.importing], f"{how} while it was imported")
        self._save()
        for order in zygote.take_orders():
            self.order(interpreter, order)
        if was_current and zygote.start.kind == _OWN:
            self.warm()

    def _fail_start(self, zygote: Zygote, how: str) -> None:
        interpreter = zygote.start.kind.interpreter
        log = _log_name(interpreter)
        tail = self._logs.tail(log, _TAIL_NBYTES)
        last = tail.strip().splitlines()[-1] if tail.strip() else "it said nothing"
        self._preloads.drop_fresh(interpreter)
        reason = f"no worker can be made with the interpreter {zygote.start.program} ({how}): {last}"
        zygote.fail_orders(reason, tail)

    def _save(self) -> None:
        if self._config.learns:
            save_preloads(self._config.file, self._preloads.known())


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
