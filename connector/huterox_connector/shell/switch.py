"""The two sockets and the way of every message between them.

Both descriptors are edge-triggered hints, and a send on either socket may swallow the other's edge. So there is one
pump: it reads both sockets, in turns and bounded batches, until neither has anything; everything that sends outside of
it asks for one more round.
"""

import asyncio
import errno
import logging
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, assert_never

import zmq

from huterox_connector.config import ConnectorConfig
from huterox_connector.core import effects as asked
from huterox_connector.core import events as happened
from huterox_connector.core.calls import Call
from huterox_connector.core.lifecycle import State
from huterox_connector.core.switchboard import Switchboard, not_read
from huterox_connector.handlers.decode import CALLER_METAS, KERNEL_METAS, Decode
from huterox_connector.handlers.dispatch import Dispatch, event_of_caller, event_of_kernel
from huterox_connector.handlers.limit import Limit
from huterox_connector.handlers.pace import Pace
from huterox_connector.handlers.pipeline import Pipeline
from huterox_connector.handlers.turns import Turns
from huterox_connector.shell.deliveries import GONE, Deliveries
from huterox_connector.shell.frames import (
    LAST,
    MORE,
    NOBLOCK,
    bind_router,
    further_frames,
    request_id_of,
    send_frames,
    skip_excess,
    too_many_frames,
)
from huterox_connector.shell.gate import Gate
from huterox_connector.shell.monitor import Monitor
from huterox_connector.shell.paths import BoundPath, StorePaths
from huterox_connector.shell.presence import Presence
from huterox_connector.shell.ticker import Ticker
from huterox_connector.shell.writer import Writer
from huterox_wire.errors import Busy, HuteroxError
from huterox_wire.header import HEADER_NBYTES, pack_header
from huterox_wire.kinds import Flag, Kind
from huterox_wire.limits import PACKED_NBYTES_MAX
from huterox_wire.message import encode
from huterox_wire.meta import encode_meta, error_meta
from huterox_wire.route import CALLER

_log = logging.getLogger(__name__)

_EVENTS: Final = int(zmq.EVENTS)
_POLLIN: Final = int(zmq.POLLIN)
_BUDGET: Final = struct.Struct("<Q")
_BUDGET_AT: Final = 24
_REQUEST_ID: Final = struct.Struct("<8xQ")
_KIND_AND_REQUEST_ID: Final = struct.Struct("<3xB4xQ")
_ROUNDS_MAX: Final = 8
LOOK_S: Final = 1.0
"""At the paths by which this switchboard is found."""
_IN_LINE_MAX: Final = 4096  # messages of one caller that are no hits, read and not worked off
_WORK_S: Final = 0.001
_SWEEP_S: Final = 10.0


class Switch:
    """Owns the sockets from `start` to `close`."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], config: ConnectorConfig, board: Switchboard) -> None:
        self._config = config
        self._board = board
        self._calls = board.calls
        self._journal: list[asked.Journalled] = []
        self._kept: list[asked.Write] = []
        self._front = bind_router(context, config.front, config.hwm, config.linger_ms)
        try:
            self._back = bind_router(context, config.back, config.hwm, config.linger_ms, takeover=True)
        except BaseException:
            self._front.close(linger=0)
            raise
        # The class underneath: 0.4 us less for each frame than the one that checks what Python gave it.
        self._to_kernels: Any = super(zmq.Socket, self._back).send
        self._from_callers = Pipeline(
            [
                Decode(CALLER_METAS),
                Limit(config.admin_rate_per_s, config.admin_burst),
                Dispatch(board, "caller", event_of_caller),
            ],
            _Outlet(self, self.refuse_caller),
        )
        self._from_kernels = Pipeline(
            [Decode(KERNEL_METAS), Dispatch(board, "kernel", event_of_kernel)], _Outlet(self, self.refuse_kernel)
        )
        self._turns = Turns(_IN_LINE_MAX, config.core.waiting_nbytes_max)
        self._behind = self._turns.behind
        self._pace = Pace()
        self._loop: asyncio.AbstractEventLoop
        self._writer: Writer
        self._deliveries = Deliveries(self._front, config.caller_nbytes_max, config.callers_nbytes_max)
        self._presence = Presence(board, self._deliveries, lambda gone: self.on(happened.CallersGone(gone)))
        self._monitors = [Monitor(self._front, self._on_front), Monitor(self._back, self._on_back)]
        self._gates: list[Gate] = []
        self._front_excess = self._back_excess = False  # the rest of a message with too many frames is to be skipped
        self._swept_s = 0.0
        self._ticker: Ticker
        self._paths: list[BoundPath | StorePaths] = []
        self._look_s = 0.0  # when to look at them next
        self._pump_due = False
        # What could not be sent, until it is told.
        self._undelivered: list[happened.Undelivered] = []  # their kernels have gone
        self._turned_away: list[happened.Undelivered] = []  # their kernels take nothing more
        self._unreachable: list[bytes] = []  # kernels
        self._batch_max = config.batch_max

    def start(self, loop: asyncio.AbstractEventLoop, writer: Writer) -> None:
        front = BoundPath(self._front, self._config.front, "caller")
        back = BoundPath(self._back, self._config.back, "kernel")
        self._paths = [front, back, StorePaths(Path(self._config.store))]
        most = self._config.connections_max
        self._gates = [Gate(front, most), Gate(back, most, share=0.5)]  # kernels come in when callers do not any more
        self._loop = loop
        self._writer = writer
        self._ticker = Ticker(loop, self._config.tick_s, self._tick, self._is_waiting)
        self._ticker.start()
        loop.add_reader(self._front.FD, self.pump)
        loop.add_reader(self._back.FD, self.pump)
        self._presence.start(loop)
        for monitor in self._monitors:
            monitor.start(loop)
        self.pump()

    def _tick(self) -> None:
        try:
            self.on(happened.Ticked(time.time() - time.monotonic()))
            self.flush_journal()
            self.sweep()
            if (now_s := self._loop.time()) >= self._look_s:
                self._look_s = now_s + LOOK_S
                for gate in self._gates:
                    gate.look()
                for path in self._paths:
                    path.look()
        except Exception:  # noqa: BLE001 - a bug, but deadlines must go on being kept
            _log.exception("a tick failed")

    def _is_waiting(self) -> bool:
        return bool(self._journal or self._deliveries.nbytes) or self._board.is_waiting()

    def close(self) -> None:
        self._ticker.stop()
        self._loop.remove_reader(self._front.FD)
        self._loop.remove_reader(self._back.FD)
        for monitor in self._monitors:
            monitor.close()
        self.flush_journal()
        for gate in self._gates:
            gate.close()
        self._front.close()
        self._back.close()

    def pump(self) -> None:
        """Read both sockets, in turns, until neither has anything; after a bounded number let the loop breathe."""
        self._pump_due = False
        batch_max = self._batch_max
        try:
            for _ in range(_ROUNDS_MAX):
                front_count = self._drain_front()
                # What came from kernels was sent to callers, which may have swallowed the front's edge.
                back_count = self._drain_back()
                done = not self._turns or self._work_off()
                if done and not back_count and front_count < batch_max:
                    if self._ticker.rests:
                        self._ticker.stir()
                    return
        except BaseException:
            if self._front.closed:  # this turn was asked for before the end
                return
            self._pump_soon()  # a bug, but the edge must not be lost over it
            raise
        self._pump_soon()

    def _work_off(self) -> bool:
        """What is no hit, in turns between callers, for as long as hits may wait for it. True: no more is due now."""
        turns, pace = self._turns, self._pace
        begun_s = now_s = time.monotonic()
        while turns and (turns.has_fresh or not pace.rests):
            if now_s - begun_s >= _WORK_S:
                return False
            is_fresh, before_s = turns.has_fresh, now_s
            self._from_callers.take(turns.next(now_s))
            now_s = time.monotonic()
            if not is_fresh and (rest_s := pace.worked(now_s - before_s, now_s)):
                self._loop.call_later(rest_s, self._end_rest)
        return True

    def _end_rest(self) -> None:
        self._pace.rested()
        self._pump_soon()

    def _pump_soon(self) -> None:
        if not self._pump_due:
            self._pump_due = True
            self._loop.call_soon(self.pump)

    # From callers.

    def _drain_front(self) -> int:
        """Hot path. Take a batch of messages from callers; how many there were."""
        receive = self._front.recv
        events: Any = self._front.get
        if self._front_excess:
            self._front_excess = not skip_excess(receive, self._batch_max)
            if self._front_excess:
                return self._batch_max
        for count in range(self._batch_max):
            if not events(_EVENTS) & _POLLIN:  # asking: 1.6 us; raising Again: 5 us; and batches are small
                return count
            caller = receive(NOBLOCK)
            first = receive(NOBLOCK, False)
            more = further_frames(receive) if first.more else ()
            if more and more[-1].more:
                self._front_excess = True
                self.refuse_caller(caller, request_id_of(first), too_many_frames())
                return self._batch_max
            self._on_caller(caller, first, more)
        return self._batch_max

    def _on_caller(self, caller: bytes, first: zmq.Frame, more: Sequence[zmq.Frame]) -> None:
        """Hot path. A message from a caller: to the container if it is a hit, else through the pipeline."""
        now_s = time.monotonic()
        if self._behind and caller not in self._behind:
            self._pace.others_s = now_s
        nbytes = len(first)
        if more:
            nbytes += sum(map(len, more))
        call = self._calls.hit(caller, first, nbytes, now_s)
        if call is None:
            frames = [first, *more]
            effects = self._board.join(caller, frames, nbytes, now_s)
            if effects is not None:
                self.perform(effects)
            elif not self._turns.put(caller, frames, now_s):
                self.refuse_caller(caller, request_id_of(first), _too_fast())
            return
        try:
            send = self._to_kernels
            send(call.container.node.identity, MORE)
            send(call.route, MORE)
            if more:
                send(first, MORE, False)
                send_frames(send, more)
            else:
                send(first, LAST, False)
        except zmq.ZMQError as exc:
            self._on_undelivered(exc, call.container.node.identity, caller, [first, *more])
            self._tell_failures()

    # From kernels.

    def _drain_back(self) -> int:
        """Hot path. Take a batch of messages from kernels; how many there were."""
        receive = self._back.recv
        events: Any = self._back.get
        if self._back_excess:
            self._back_excess = not skip_excess(receive, self._batch_max)
            if self._back_excess:
                return self._batch_max
        for count in range(self._batch_max):
            if not events(_EVENTS) & _POLLIN:
                return count
            kernel = receive(NOBLOCK)
            route = receive(NOBLOCK, False)
            frames = further_frames(receive) if route.more else []
            if frames and frames[-1].more:
                self._back_excess = True
                self.refuse_kernel(kernel, request_id_of(frames[0]), too_many_frames())
                return self._batch_max
            if len(route) and frames:
                self._on_answer(kernel, route.bytes, frames)
            else:
                self._from_kernels.inbound(kernel, frames, time.monotonic())
        return self._batch_max

    def _on_answer(self, kernel: bytes, route: bytes, frames: Sequence[zmq.Frame]) -> None:
        """Hot path. An answer from a container: back to its caller, who stands in the route."""
        first = frames[0]
        if len(first) < HEADER_NBYTES:
            return
        call = self._calls.answered(kernel, route, first)
        if call is None and not self._is_asked_for(kernel, route, frames):
            return  # nobody waits for it any more
        caller = route[CALLER]
        if failure := self._deliveries.send(caller, frames):
            self._on_undeliverable(failure, caller, first, call is not None)
        if call is not None:
            container = call.container
            if container.group.waiting:
                self.on(happened.ContainerFreed(container.id))
            if container.state is State.DRAINING:
                self._drained(call)

    def _is_asked_for(self, kernel: bytes, route: bytes, frames: Sequence[zmq.Frame]) -> bool:
        """Not an answer to a call: a call that is handed back, or an answer that the kernel itself was asked for."""
        kind, request_id = _KIND_AND_REQUEST_ID.unpack_from(frames[0].buffer)
        if kind == Kind.CALL:
            self.on(happened.CallReturned(kernel, route, request_id, list(frames), sum(map(len, frames))))
            return False
        return self._board.answered_by_kernel(kernel, route, request_id, time.monotonic())

    def _on_undeliverable(self, failure: int, caller: bytes, first: Any, is_call: bool) -> None:
        """The caller has gone, or does not read: nobody can use what is still done for it."""
        if failure == GONE:
            self._presence.miss(caller)
            return
        kind, request_id = _KIND_AND_REQUEST_ID.unpack_from(first)
        if is_call and kind == Kind.PART:
            self.on(happened.CallerStalled(caller, request_id))
        else:
            self.refuse_caller(caller, request_id, not_read())

    # Callers that leave.

    def _on_front(self, came: int, went: int) -> None:
        """Callers have come, or left."""
        front, back = self._gates
        front.changed(came, went)
        back.beside(came)
        if went:
            self._presence.connection_ended()

    def _on_back(self, came: int, went: int) -> None:
        front, back = self._gates
        back.changed(came, went)
        front.beside(came)

    def sweep(self) -> None:
        """Now and then: what waits for callers is looked at, and nothing is kept of those that have left."""
        self._deliveries.settle()
        if (now_s := time.monotonic()) - self._swept_s >= _SWEEP_S:
            self._swept_s = now_s
            for caller in self._deliveries.sweep():
                self._presence.miss(caller)

    def _drained(self, call: Call) -> None:
        if not call.container.in_flight:
            self.on(happened.ContainerDrained(call.container.id))

    def _on_undelivered(self, exc: zmq.ZMQError, kernel: bytes, caller: bytes, frames: list[Any]) -> None:
        """The identity was refused, so nothing of the message has gone. `_tell_failures` must follow."""
        request_id = _REQUEST_ID.unpack_from(frames[0])[0]
        undelivered = happened.Undelivered(caller, request_id, frames, sum(map(len, frames)))
        (self._undelivered if exc.errno == errno.EHOSTUNREACH else self._turned_away).append(undelivered)
        self._on_kernel_send_failed(exc, kernel)

    def _tell_failures(self) -> None:
        """Of calls first: a kernel that is lost takes all that it was sent with it."""
        undelivered, self._undelivered = self._undelivered, []
        turned_away, self._turned_away = self._turned_away, []
        unreachable, self._unreachable = self._unreachable, []
        if undelivered:
            self.on(happened.CallsUndeliverable(tuple(undelivered), kernel_gone=True))
        if turned_away:
            self.on(happened.CallsUndeliverable(tuple(turned_away), kernel_gone=False))
        for kernel in unreachable:
            self.on(happened.KernelUnreachable(kernel))

    def _on_kernel_send_failed(self, exc: zmq.ZMQError, kernel: bytes) -> None:
        if exc.errno == errno.EHOSTUNREACH:
            self._unreachable.append(kernel)
        else:
            _log.warning("a message to kernel %r was dropped: %s", kernel, exc)

    # The core's wishes.

    def on(self, event: happened.Event) -> None:
        """Tell the core, and do what it asks for."""
        self.perform(self._board.on(event, time.monotonic()))
        if self._ticker.rests:
            self._ticker.stir()

    def perform(self, effects: list[asked.Effect]) -> None:
        """All of them, and then what has come of it: what one event asks for is done before the next one is told."""
        for effect in effects:
            self._perform_one(effect)
        if effects:
            self._pump_soon()  # a send may have swallowed the edge of what arrived meanwhile
        if self._unreachable or self._turned_away:
            self._tell_failures()

    def _perform_one(self, effect: asked.Effect) -> None:
        match effect:
            case asked.Forward():
                self._forward(effect)
            case asked.Answer():
                self._answer(effect)
            case asked.Refuse():
                self.refuse_caller(effect.caller, effect.request_id, effect.error)
            case asked.Command():
                meta = b"" if effect.meta is None else encode_meta(effect.meta)
                self._send_back(effect.kernel, b"", encode(effect.kind, 0, 0, 0, meta))
            case asked.CancelCall():
                header = pack_header(Kind.CANCEL, Flag.PACKED, request_id=effect.request_id)
                self._send_back(effect.kernel, effect.route, [header])
            case asked.AskKernel():
                self._ask(effect)
            case asked.Commit():
                self._writer.put(effect)
            case asked.Keep():
                self._kept.extend(effect.writes)
            case asked.Journalled():
                _log.info("%s %s: %s", effect.kind, effect.subject, effect.reason)
                self._journal.append(effect)
            case _:
                assert_never(effect)

    def flush_journal(self) -> None:
        """Hand the events, and what was measured, since the last call to the writer."""
        if self._journal:
            self._writer.put(self._journal)
            self._journal = []
        if self._kept:
            self._writer.put(asked.Keep(tuple(self._kept)))
            self._kept = []

    def _forward(self, effect: asked.Forward) -> None:
        first, *more = effect.frames
        if (
            len(first) <= PACKED_NBYTES_MAX
        ):  # a larger one keeps the time it came with: the call's deadline is kept here
            patched = bytearray(first)
            _BUDGET.pack_into(patched, _BUDGET_AT, effect.budget_us)
            first = patched
        try:
            self._to_kernels(effect.kernel, MORE)
            self._to_kernels(effect.route, MORE)
            send_frames(self._to_kernels, [first, *more])
        except zmq.ZMQError as exc:
            self._on_undelivered(exc, effect.kernel, effect.route[CALLER], effect.frames)

    def _ask(self, effect: asked.AskKernel) -> None:
        meta = encode_meta(effect.meta)
        frames = encode(effect.kind, effect.request_id, effect.handle, effect.budget_us, meta)
        self._send_back(effect.kernel, effect.route, frames)

    def _answer(self, effect: asked.Answer) -> None:
        try:
            frames = encode(Kind.REPLY, effect.request_id, effect.handle, 0, encode_meta(effect.meta))
        except HuteroxError as error:  # an answer larger than the wire carries
            self.refuse_caller(effect.caller, effect.request_id, error)
            return
        self._send_front(effect.caller, frames)

    def refuse_caller(self, caller: bytes, request_id: int, error: HuteroxError) -> None:
        self._send_front(caller, encode(Kind.ERROR, request_id, 0, 0, error_meta(error)))

    def refuse_kernel(self, kernel: bytes, request_id: int, error: HuteroxError) -> None:
        _log.warning("a message of peer %r on the kernels' socket was refused: %s", kernel, error)
        self._send_back(kernel, b"", encode(Kind.ERROR, request_id, 0, 0, error_meta(error)))
        self._tell_failures()

    def _send_front(self, caller: bytes, frames: Sequence[Any]) -> None:
        if self._deliveries.send(caller, frames) == GONE:
            self._presence.miss(caller)
        self._pump_soon()

    def _send_back(self, kernel: bytes, route: bytes, frames: Sequence[Any]) -> None:
        try:
            self._to_kernels(kernel, MORE)
            self._to_kernels(route, MORE)
            send_frames(self._to_kernels, frames)
        except zmq.ZMQError as exc:
            self._on_kernel_send_failed(exc, kernel)
        self._pump_soon()


class _Outlet:
    """Where a pipeline's results go: effects to the switch, refusals to the pipeline's own socket."""

    def __init__(self, switch: Switch, refuse: Any) -> None:
        self.perform = switch.perform
        self.refuse = refuse


def _too_fast() -> Busy:
    return Busy("this caller sends faster than its messages can be worked off", retry_after_s=0.1)
