"""A simulated platform around the real core: callers, kernels, an operator and a disk under one clock and one seed.

The core is the unchanged `Switchboard`. The world performs its effects, answers them after random times, breaks things,
and checks what must always hold. A failing seed replays exactly.

    clock      what happens next            shapes      what platforms look like
    callers    calls and their ends         lanes       leases, and calls past the switchboard
    kernels    nodes and their containers   disk        what survives a switchboard
    operator   the verbs                    trouble     what goes wrong
    decisions  is every decision right      invariants  does everything add up
    ledger     what tenants have used       quiet       what must hold when all has come to rest
"""

from collections import Counter
from collections.abc import Callable
from itertools import count
from random import Random
from typing import Any

from tests.simulation.callers import Callers
from tests.simulation.clock import Clock
from tests.simulation.decisions import Decisions
from tests.simulation.disk import Disk
from tests.simulation.invariants import check_all, no_call_is_lost
from tests.simulation.kernels import Kernels
from tests.simulation.lanes import Lanes
from tests.simulation.ledger import Ledger
from tests.simulation.operator import Operator
from tests.simulation.shapes import draw_config

from huterox_connector.core import effects as asked
from huterox_connector.core import events as happened
from huterox_connector.core.config import CoreConfig
from huterox_connector.core.switchboard import Switchboard
from huterox_connector.core.term import Term

TICK_S = 0.1
UNCHECKED_MAX = 8
"""Steps without a decision after which everything is checked all the same."""


class World:
    """One run.

    Args:
        trouble: how often things go wrong by themselves; 0: never.
        thorough: check everything after every step, and not only after those that decided something. What is wrong
            stays wrong: the quick way finds it a few steps later.
    """

    def __init__(
        self, seed: int, *, trouble: float = 1.0, thorough: bool = False, config: CoreConfig | None = None
    ) -> None:
        self.random = Random(seed)
        self.trouble = trouble
        self.thorough = thorough
        self.config = config or draw_config(self.random)
        self.clock = Clock(100.0)
        self.seen: Counter[str] = Counter()
        self.steps = 0
        self.starts = 0
        self._request_ids = count(1)
        self._unchecked = 0
        self._decided = False
        self._not_sent: dict[bool, list[happened.Undelivered]] = {True: [], False: []}  # by whether the kernel has gone
        self.board: Switchboard
        self.term: Term
        self.disk = Disk(self)
        self.callers = Callers(self)
        self.lanes = Lanes(self)
        self.kernels = Kernels(self)
        self.operator = Operator(self)
        self.decisions = Decisions(self)
        self.ledger = Ledger()
        self.start_switchboard()
        self.after(TICK_S, self._tick)

    @property
    def now_s(self) -> float:
        return self.clock.now_s

    def after(self, delay_s: float, action: Callable[[], object]) -> None:
        self.clock.after(delay_s, action)

    def request_id(self) -> int:
        return next(self._request_ids)

    def start_switchboard(self, *, store_changed: bool = False) -> None:
        """A new one, which knows what is on disk. Whoever waited for the old one gives up by himself."""
        self.starts += 1
        before = self.board if self.starts > 1 else None
        self.term = self.disk.next_term()
        self.board = Switchboard(self.config, self.term, clock_offset_s=1e9, started_s=self.now_s)
        self.board.restore(*self.disk.read(), [])
        if before is not None:
            self.ledger.restarted(self.board if store_changed else before, self.board)
        for part in (self.callers, self.lanes, self.operator):
            part.switchboard_started()
        self.decisions.watch(self.board)

    # Time.

    def run(self, duration_s: float) -> None:
        until_s = self.now_s + duration_s
        while self.clock.due(until_s):
            self.clock.step()
            self.check()
        self.clock.now_s = until_s

    def _tick(self) -> None:
        self.on(happened.Ticked(), self._nobody_waits_needlessly)
        self.after(TICK_S, self._tick)

    def _nobody_waits_needlessly(self) -> None:
        for group in self.board._faults.groups():
            has_room = [c for c in group.ready if self.board.calls.has_room(c, self.now_s)]
            assert not has_room, f"calls wait for {group.key}, and {has_room[0].title} has room for them"

    def check(self) -> None:
        """What must always hold."""
        self.steps += 1
        self._unchecked += 1
        if self._decided or self.thorough or self._unchecked >= UNCHECKED_MAX:
            self._decided, self._unchecked = False, 0
            check_all(self)
        else:
            no_call_is_lost(self)

    # Events and effects.

    def on(self, event: happened.Event, decided: Callable[[], object] | None = None) -> None:
        """`decided` is called before the effects are performed."""
        effects = self.board.on(event, self.now_s)
        self.decisions.event_ended()
        if decided is not None:
            decided()
        self.perform(effects)

    def join(self, caller: bytes, frames: list[Any], nbytes: int) -> bool:
        """Whether a call waits for a busy model now, or has been sent to it."""
        effects = self.board.join(caller, frames, nbytes, self.now_s)
        if effects is None:
            return False
        self.seen["joined"] += 1
        self.decisions.event_ended()
        self.perform(effects)
        return True

    def perform(self, effects: list[asked.Effect]) -> None:
        for effect in effects:
            match effect:
                case asked.Forward():
                    self.callers.forwarded(effect.kernel, effect.route, effect.frames, effect.budget_us)
                case asked.Answer():
                    self.operator.answered(effect)
                case asked.Refuse():
                    self._refused(effect)
                case asked.Command():
                    self._decided = self._decided or effect.meta is not None
                    self.kernels.commanded(effect)
                case asked.CancelCall():
                    self.callers.cancel_arrived(effect)
                case asked.Commit():
                    self.disk.commit(effect)
                case asked.Keep():
                    self.disk.keep(effect)
                case asked.Journalled():
                    self._decided = True
                    self.seen[effect.kind] += 1
                case asked.AskKernel():
                    self.lanes.ask_arrived(effect)
        self.tell_failures()

    def not_sent(self, call: happened.Undelivered, kernel_gone: bool) -> None:
        """A call has not left; `tell_failures` follows when all that was asked for beside it is done."""
        self._not_sent[kernel_gone].append(call)

    def tell_failures(self) -> None:
        not_sent, self._not_sent = self._not_sent, {True: [], False: []}
        for kernel_gone, calls in not_sent.items():
            if calls:
                self.seen["not sent together"] += len(calls) > 1
                self.on(happened.CallsUndeliverable(tuple(calls), kernel_gone))

    def _refused(self, effect: asked.Refuse) -> None:
        key, code = (effect.caller, effect.request_id), effect.error.code
        self.seen[code] += 1
        known = self.operator.refused(key, effect.error) or self.lanes.refused(key, code)
        assert known or self.callers.ended(key, code), f"{key} was refused and has not asked: {effect.error}"
