"""The zygotes of a kernel, by interpreter: the first is started when it is needed, successors when loads have shown
what else is worth preloading, and one that has learned nothing for models that do not get on with that.

A zygote is asked for a worker by a packet with two descriptors and answers with a pidfd. When a zygote dies, the system
kills its workers; their ends are seen through their pidfds like any other. It is started again by the next order.

    coming ── ready ──▶ current ── a successor is ready ──▶ retired ── its last worker has ended ──▶ killed

A successor imports in the background while nothing is being loaded; until it is ready the current one takes the orders.
Its memory is promised to it first, where there is room for it, so that the switchboard knows before it is taken.
There are RETIRED_MAX retired ones at most: until one of them ends nothing new is tried.

Imports are foreign code: a zygote may hang, die or be spoilt over any of them. It is started again without that module.
Orders wait for it a while only; then a zygote takes them that imports less, at last one that imports nothing. So no
module keeps a model from loading that does not need it. Where it is not known what was wrong, the same happens.
"""

import logging
import os
import sys
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from huterox_kernel.core.outages import Outage
from huterox_kernel.core.preloads import Level, Preloads
from huterox_kernel.shell.cpus import usable_cpus
from huterox_kernel.shell.logs import Logs
from huterox_kernel.shell.preload_file import load_preloads, save_preloads
from huterox_kernel.shell.zygote import Kind, Listener, Order, Start, Zygote
from huterox_kernel.worker.control import Imported, ZygoteReady

_log: Final = logging.getLogger("huterox.kernel")
_PRIVATE: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
_INSIDE: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_COUNTING: Final = (
    "LOKY_MAX_CPU_COUNT",
    "NUMBA_NUM_THREADS",
    "NUMEXPR_MAX_THREADS",
    "POLARS_MAX_THREADS",
    "PYTHON_CPU_COUNT",
    "RAYON_NUM_THREADS",
)
"""Libraries that count processors themselves, and see those of the machine."""

_TAIL_NBYTES: Final = 4096

RETIRED_MAX: Final = 2
PATIENCE_SHARE: Final = 1 / 4
"""Of the time that an import may take: so long orders wait for a zygote that is not ready."""

_OWN: Final = Kind("", Level.LEARNED)


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
    import_timeout_s: float
    idle_s: float


@dataclass(slots=True, eq=False)
class _Generations:
    """The zygotes of one kind. `stand_in`: which level takes the orders while there is none."""

    outage: Outage
    stand_in: Level = Level.BARE
    current: Zygote | None = None
    coming: Zygote | None = None
    retired: list[Zygote] = field(default_factory=list)
    idle_since_s: float | None = None
    promised: int | None = None  # memory, to a successor, in bytes

    def all(self) -> list[Zygote]:
        return [zygote for zygote in (self.current, self.coming, *self.retired) if zygote is not None]


class Zygotes:
    """All zygotes of a kernel.

    Args:
        is_loading: whether a worker is being made or loads its model.
        is_changing: whether any comes or goes.
        room: host memory that is neither held by anybody nor promised.
        on_change: called when a zygote has become ready, or has ended.
    """

    def __init__(
        self,
        loop: AbstractEventLoop,
        listener: Listener,
        logs: Logs,
        config: ZygoteConfig,
        is_loading: Callable[[], bool],
        is_changing: Callable[[], bool],
        room: Callable[[], int],
        on_change: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._logs = logs
        self._config = config
        self._is_loading = is_loading
        self._is_changing = is_changing
        self._room = room
        self._on_change = on_change
        self._environment = _environment(config.threads or usable_cpus(), usable_cpus())
        self._preloads = Preloads(config.modules, config.learns, load_preloads(config.file) if config.learns else {})
        self._generations: dict[Kind, _Generations] = {}
        self._loads: dict[int, _Load] = {}
        self._nbytes: dict[Kind, int] = {}  # what a zygote takes, as far as it is known

    def warm(self) -> None:
        """Start the zygote of the kernel's own interpreter before it is needed. Raises OSError."""
        self._taker(_OWN)

    def order(self, interpreter: str, order: Order) -> None:
        """Ask for a worker of this interpreter ("": the kernel's own); answered through the listener."""
        model = f"{order.model} {order.version}"
        kind = Kind(interpreter, self._preloads.level_of(interpreter, model))
        try:
            zygote = self._taker(kind)
        except OSError as exc:
            order.close()
            reason = f"the interpreter {interpreter or sys.executable} cannot be run: {exc.strerror or exc}"
            self._listener.on_fork_failed(order.container, reason, "")
            return
        self._give_way()
        self._loads[order.container] = _Load(model, zygote)
        zygote.order(order)

    def withdraw(self, container: int) -> bool:
        """Forget an order that no zygote has seen yet."""
        return any(zygote.withdraw(container) for zygote in list(self._all()))

    def pids(self) -> set[int]:
        return {zygote.pid for zygote in self._all()}

    # Their memory.

    def measured(self, nbytes: dict[int, int]) -> None:
        """What zygotes have in memory, by pid."""
        for kind, generations in self._generations.items():
            for zygote in generations.all():
                zygote.nbytes = nbytes.get(zygote.pid, 0)
                if zygote.ready and zygote.nbytes:
                    zygote.is_measured = True
                    if zygote is generations.current:
                        self._nbytes[kind] = zygote.nbytes

    def promised_bytes(self) -> int:
        """What zygotes will take that has not been measured yet: successors that are about to start, those that are
        importing, and the kernel's own, which is started when it is needed.
        """
        promised = 0
        for kind, generations in self._generations.items():
            zygotes = generations.all()
            promised += sum(max(0, z.start.expected_nbytes - z.nbytes) for z in zygotes if not z.is_measured)
            promised += generations.promised or 0
            promised += self._expected(kind) if kind == _OWN and not zygotes else 0
        return promised

    def _expected(self, kind: Kind) -> int:
        """What a zygote takes that starts now: as the one before it, and what it will be the first to import."""
        fresh = self._preloads.fresh_nbytes(kind.interpreter) if kind.level is Level.LEARNED else 0
        return self._nbytes.get(kind, 0) + fresh

    def learn(self, interpreter: str, imported: Imported) -> None:
        """A load has imported these modules, which its zygote did not have."""
        if imported.sets_environment:
            reason = "a model sets environment variables when it imports this"
            self._preloads.avoid(interpreter, imported.modules, reason)
            self._save()
        else:
            self._preloads.learn(interpreter, imported.modules, imported.nbytes)

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
                zygote.give_up_if_overdue(now_s, self._config.start_timeout_s, self._config.import_timeout_s)
            for zygote in generations.retired:
                if zygote.is_idle():
                    zygote.kill()
            self._look_at_idle(kind, generations, now_s)
            self._look_at_waiting(kind, generations, now_s)
            self._look_for_successor(kind, generations, now_s)

    def _look_at_waiting(self, kind: Kind, generations: _Generations, now_s: float) -> None:
        """Orders that have waited for long enough go to another zygote."""
        current = generations.current
        if kind.level > Level.BARE and current is not None and not current.ready and generations.outage.is_long(now_s):
            for order in current.take_orders():
                self.order(kind.interpreter, order)

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

    def _look_for_successor(self, kind: Kind, generations: _Generations, now_s: float) -> None:
        current = generations.current
        if current is None or not current.ready or generations.coming is not None or self._is_loading():
            return
        if kind.level is not Level.LEARNED or generations.outage.is_resting(now_s):
            return
        if len(generations.retired) >= RETIRED_MAX or not self._preloads.has_fresh(kind.interpreter):
            return
        if generations.promised is not None:
            generations.promised = None
            generations.coming = self._start(kind)
        elif current.is_measured and not self._is_changing() and self._room() >= self._expected(kind):
            generations.promised = self._expected(kind)
            self._on_change()

    def _give_way(self) -> None:
        """Nobody leaves for a successor: what was promised to one is taken back where a container has come instead."""
        if self._room() >= 0:
            return
        for generations in self._generations.values():
            if generations.promised is not None:
                generations.promised = None
                self._on_change()

    def close(self) -> None:
        """Kill them all, and wait for their ends."""
        for zygote in list(self._all()):
            zygote.close()
        self._generations.clear()

    def _all(self) -> Iterator[Zygote]:
        return (zygote for generations in self._generations.values() for zygote in generations.all())

    def _taker(self, kind: Kind) -> Zygote:
        """Who takes orders of this kind now. Raises OSError: it cannot be started."""
        now_s = time.monotonic()
        if (generations := self._generations.get(kind)) is None:
            outage = Outage(self._config.import_timeout_s * PATIENCE_SHARE)
            generations = self._generations[kind] = _Generations(outage)
        if generations.current is None:
            generations.current, generations.coming = generations.coming, None
        if generations.current is None and not generations.outage.is_resting(now_s):
            generations.current = self._start(kind)
        current = generations.current
        if current is None:
            return self._taker(Kind(kind.interpreter, generations.stand_in))
        if current.ready or kind.level is Level.BARE:
            return current
        generations.outage.begin(now_s)
        if generations.outage.is_long(now_s):
            return self._taker(Kind(kind.interpreter, current.level_below()))
        return current

    def _start(self, kind: Kind) -> Zygote:
        program = kind.interpreter or sys.executable
        plan = self._preloads.plan(kind.interpreter, kind.level)
        name = _log_name(kind.interpreter)
        log = self._logs.open(name)
        try:
            start = Start(kind, program, plan, self._environment, self._expected(kind))
            return Zygote(start, log, self._loop, self._listener, self)
        except BaseException:
            self._logs.release(name)
            raise
        finally:
            os.close(log)

    # What zygotes say of themselves.

    def on_zygote_ready(self, zygote: Zygote, ready: ZygoteReady) -> None:
        """It takes orders; a successor takes them from now on."""
        kind, tried = zygote.start.kind, zygote.start.plan.learned
        not_here = {**self._preloads.left_out(kind.interpreter), **ready.skipped} if kind.level > Level.BARE else {}
        left_out = "; ".join(f"{name}: {reason}" for name, reason in not_here.items()) or "nothing"
        has = ", ".join([*ready.modules, *ready.took_s]) or "nothing"
        _log.info("zygote %s has %s preloaded; left out: %s", zygote.pid, has, left_out)
        if kind.level is Level.LEARNED:
            skipped = {name: reason for name, reason in ready.skipped.items() if name in tried}
            self._preloads.settle(kind.interpreter, tried, ready.took_s, skipped, ready.fingerprint)
            self._save()
        generations = self._generations[kind]
        generations.outage.end()
        if generations.coming is zygote:
            if generations.current is not None:
                generations.retired.append(generations.current)
            generations.current, generations.coming = zygote, None
        self._on_change()

    def on_zygote_end(self, zygote: Zygote, how: str) -> None:
        """It has ended, by itself or killed."""
        self._on_change()
        self._forget(zygote, how)
        self._logs.release(_log_name(zygote.start.kind.interpreter))

    def _forget(self, zygote: Zygote, how: str) -> None:
        generations = self._generations[zygote.start.kind]
        was_current = generations.current is zygote
        if was_current:
            generations.current = None
        elif generations.coming is zygote:
            generations.coming = None
        else:
            generations.retired.remove(zygote)
        if not zygote.ready:
            self._on_failed_start(zygote, generations, how, was_current)
            return
        if zygote.is_out_of_work():
            self._rest(zygote, generations, how, is_explained=False)
        for order in zygote.take_orders():
            self.order(zygote.start.kind.interpreter, order)
        zygote.fail_orders(f"the zygote ended: {how}", "")

    def _on_failed_start(self, zygote: Zygote, generations: _Generations, how: str, was_current: bool) -> None:
        """It did not come up: the next one does without what it did not survive, and others take its orders."""
        interpreter, level = zygote.start.kind
        if (blame := zygote.blame(how)) is not None:
            _log.warning("zygote %s: %s is not preloaded: %s", zygote.pid, *blame)
            self._preloads.leave_out(interpreter, *blame)
            self._save()
        elif level is Level.BARE:
            self._fail_orders(zygote, how)
            return
        else:
            self._preloads.drop_fresh(interpreter)
        rests = self._rest(zygote, generations, how, is_explained=blame is not None)
        for order in zygote.take_orders():
            self.order(interpreter, order)
        if was_current and not rests:
            self._taker(zygote.start.kind)  # its orders may have gone to another one, but more will come

    def _rest(self, zygote: Zygote, generations: _Generations, how: str, *, is_explained: bool) -> bool:
        """Count a failure; does the kind rest over it? One that imports nothing never does: nobody stands in for it."""
        if zygote.start.kind.level is Level.BARE:
            return False
        if not generations.outage.fail(time.monotonic(), is_explained=is_explained):
            return False
        generations.stand_in = zygote.level_below()
        names = ", ".join([*zygote.start.plan.modules, *zygote.start.plan.learned]) or "nothing"
        _log.warning("zygote %s, which was to preload %s: %s; others do without for a while", zygote.pid, names, how)
        return True

    def _fail_orders(self, zygote: Zygote, how: str) -> None:
        tail = self._logs.tail(_log_name(zygote.start.kind.interpreter), _TAIL_NBYTES)
        last = tail.strip().splitlines()[-1] if tail.strip() else "it said nothing"
        reason = f"no worker can be made with the interpreter {zygote.start.program} ({how}): {last}"
        zygote.fail_orders(reason, tail)

    def _save(self) -> None:
        if self._config.learns:
            save_preloads(self._config.file, self._preloads.known())


def _log_name(interpreter: str) -> str:
    return "zygote" if not interpreter else f"zygote-{interpreter.strip('/').replace('/', '-')[-100:]}"


def _environment(threads: int, cpus: int) -> dict[str, str]:
    """The kernel's own, without what systemd meant for the kernel alone, and with libraries kept from making threads.

    OpenBLAS starts its threads while it is imported, and a zygote with threads cannot be forked. Whatever else is set
    already stays as it is.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _PRIVATE}
    environment["OPENBLAS_NUM_THREADS"] = "1"
    counts = dict.fromkeys(_INSIDE, threads)
    if cpus < os.sysconf("SC_NPROCESSORS_ONLN"):
        counts.update(dict.fromkeys(_COUNTING, cpus))
    return {**{name: str(count) for name, count in counts.items()}, **environment}
