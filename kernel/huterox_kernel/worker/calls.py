"""The calls of one lane: taken in order, checked, run, answered.

A call is refused before it runs if its time is over or its inputs are wrong. Whatever the model's code raises becomes a
ModelError; nothing that a caller sends and nothing that a model raises ends the worker.

Answers of short calls are told together (`FLUSH_NS`): a wake-up of the caller costs more than such a call. An answer
for which the caller leaves no room waits in its lane (`retry`), and other lanes go on.
"""

import inspect
import time
import weakref
from collections import deque
from collections.abc import Generator
from math import inf
from sys import getrefcount
from typing import Any, Final

import numpy as np

from huterox_kernel.worker.answers import Answers, Written, late
from huterox_kernel.worker.forks import WORKER, leave
from huterox_kernel.worker.inputs import Expected, RequestBytes
from huterox_kernel.worker.plans import Plan, Plans
from huterox_kernel.worker.runtimes.base import Model
from huterox_kernel.worker.tracebacks import error_of, model_error, reason_of
from huterox_kernel.worker.words import say
from huterox_shm.errors import LaneFull, ShmError
from huterox_shm.lane import (
    BEGUN,
    CALL,
    DEFINES,
    ERROR,
    INDIRECT,
    NO_END,
    PART,
    REPLY,
    REQUEST_RELEASED,
    RUNNING_UNTIL,
    STREAM,
    ContainerEnd,
    Request,
)
from huterox_wire.errors import Cancelled, DeadlineExceeded, HuteroxError, InvalidInput, ModelError
from huterox_wire.header import unpack_header

FLUSH_NS: Final = 50_000
"""An answer is told after so long, and before a call that is not known to be quick."""

TURN_NS: Final = 1_000_000
"""After a call that took longer, others have their turn."""

ROOM_WAIT_S: Final = 5.0
"""How long an answer waits for a caller that holds all of the lane's memory."""

STREAM_ROOM_WAIT_S: Final = 1.0
"""The same for a part of a stream; the whole container waits with it."""

_REMEMBERED: Final = 3  # references to a block that nobody kept: its plan's, the local variable, getrefcount's
_OWN: Final = 2  # the same for one in a list that no plan remembers
_STOP: Final = 1 << 62
_ndarray = np.ndarray
_monotonic_ns = time.monotonic_ns
_UNKNOWN: Final = InvalidInput("this number was never told to stand for anything")

Item = Request
"""A call as it was taken from the ring: (CALL, flags, call_id, offset, nbytes, signature, deadline_us)."""


class Calls:
    """Serves one lane with one model.

    `kept` are calls that have ended while the model still holds bytes of their request. `retry_at_s` is when an answer
    that waits for room gives up, else inf.

    Args:
        copies: give the model copies of its inputs, and no memory of the lane for its outputs: nothing tells here what
            it has kept (see `ownership`).
    """

    def __init__(
        self,
        lane: ContainerEnd,
        model: Model,
        expected: Expected,
        *,
        copies: bool = False,
        stream_room_wait_s: float = STREAM_ROOM_WAIT_S,
    ) -> None:
        self.lane = lane
        self.kept: set[int] = set()
        self.retry_at_s = inf
        self._copies = copies
        self._plans = Plans(model, expected, copies)
        self._numbered = self._plans.numbered
        self._single = self._plans.single
        self._answers = Answers(lane, copies)
        self._queue: deque[Item] = deque()
        self._overtaken: dict[int, Plan | HuteroxError] = {}  # queued calls whose number has come to mean another form
        self._stream_room_wait_s = stream_room_wait_s
        self._header = lane.header
        self._counts = lane.counts
        self._running = 0
        self._plan: Plan | None = None  # of the running call
        self._cancelled = False  # the running call
        self._waiting: tuple[Item, list[Any], list[RequestBytes]] | None = None  # a result that waits for room

    # --- turns ------------------------------------------------------------------------------------------------------

    def step(self, calls_max: int) -> bool:
        """Hot path. Run up to `calls_max` calls, fewer where they take long; are there more that can be run now?

        Raises:
            LaneDead, PeerProtocolError: the lane is over.
        """
        queue = self._queue
        if not queue or self._waiting is not None:
            self._take()
        if self._waiting is not None and not self._retry():
            return False
        run = self._run
        left = calls_max
        now_ns = begun_ns = time.monotonic_ns()
        flush_at_ns = now_ns + FLUSH_NS
        while queue and left:
            left -= 1
            now_ns = run(queue.popleft(), now_ns)
            if now_ns >= flush_at_ns:
                if self._waiting is not None:
                    break
                self._flush(calls_max - left, now_ns - begun_ns)
                if now_ns - begun_ns > TURN_NS:
                    return bool(queue)
                self._take()  # cancellations, before the next one is begun
                calls_max, begun_ns, flush_at_ns = left, now_ns, now_ns + FLUSH_NS
        if self._waiting is not None:
            self._flush(calls_max - left - 1, 0)
            return False
        self._flush(calls_max - left, now_ns - begun_ns)
        return bool(queue)

    def _flush(self, calls: int, busy_ns: int) -> None:
        """Hot path. Count the calls of a batch and make their answers visible."""
        self._counts[RUNNING_UNTIL] = 0
        self.lane.count(calls, busy_ns // 1000)
        self.lane.flush()

    def look(self) -> bool:
        """Take what has come; is there a call that can be run? Raises as `step`."""
        self._take()
        self.lane.flush()  # of what was refused, or was no call at all
        return bool(self._queue) or self._waiting is not None

    def flush(self) -> None:
        """Give back what the model has let go of, and tell releases that wait for the next answer. Raises as `step`."""
        self._answers.outputs.settle()
        if self.lane.releases_pending:
            self.lane.flush_releases()

    def close(self) -> None:
        """Let go of the lane; its calls are forgotten."""
        self._queue.clear()
        self._waiting = None
        self.lane.close()

    def _take(self) -> None:
        """Hot path."""
        requests = self.lane.take()
        if self.lane.took_calls_only:
            self._queue.extend(requests)
            return
        for request in requests:
            kind, flags, call_id, *_ = request
            if kind != CALL:
                self._cancel(call_id)
                continue
            if flags & DEFINES:
                self._define(request)
            else:
                self._queue.append(request)

    def _define(self, request: Request) -> None:
        """At once, and before the calls that have this number. Calls of an older meaning may still be queued."""
        _, _, call_id, offset, nbytes, number, _ = request
        known = self._numbered(number)
        if known is not None:
            self._overtaken.update((item[2], known) for item in self._queue if item[5] == number)
        try:
            self._plans.define(number, bytes(self.lane.view(offset, nbytes)))
        except HuteroxError as exc:  # no error that counts: each call of this form will be one
            kind, at, nbytes, form, flags = self._answers.error(0, 0, exc)
            exc.__traceback__ = None  # it is remembered, and its frames hold the lane
            self.lane.publish_reply(kind, flags | REQUEST_RELEASED, call_id, at, nbytes, form)
        else:
            self.lane.publish_reply(REPLY, REQUEST_RELEASED, call_id, 0, 0)

    def _cancel(self, call_id: int) -> None:
        """End a queued call now; mark the running one. A call that is neither has ended already."""
        if call_id == self._running:
            self._cancelled = True
            return
        for item in self._queue:
            if item[2] == call_id:
                self._queue.remove(item)
                self._refuse(item, Cancelled("cancelled before the call was started"))
                self.lane.flush()
                return

    def _refuse(self, item: Item, error: HuteroxError) -> None:
        """End a call that is not run."""
        request_id, handle = self._identity(item)
        self._end(item, self._answers.error(request_id, handle, error), [])
        self.lane.count(1, 0)

    # --- one call ---------------------------------------------------------------------------------------------------

    def _run(self, item: Item, now_ns: int) -> int:
        """Hot path. Run one call and publish its answer; returns the time, `_STOP` where the answer waits.

        Written out for the most common call: one NumPy array in, its form known; what is special leaves early.
        """
        _, flags, call_id, offset, nbytes, signature, deadline_us = item
        plan = self._single(signature)
        if plan is None or flags or nbytes != plan.nbytes or self._overtaken:
            return self._run_any(item, now_ns)
        # Before anything of the call runs: should the process die, nobody must call it unstarted.
        self._header[BEGUN] = call_id
        self._counts[RUNNING_UNTIL] = deadline_us or NO_END  # whoever does not come back is ended some time after it
        lane = self.lane
        if deadline_us and now_ns > deadline_us * 1000:
            return self._end(item, self._write_error(item, late(deadline_us, now_ns)), [])
        block = plan.blocks.get(offset)
        if block is None:
            block = plan.block(lane, offset)
        if not plan.is_quick:
            lane.flush()  # answers of calls before it do not wait for this one
        name, dtype, shape = plan.single
        self._running = call_id
        written: Written | None
        try:
            result = plan.function(**{name: _ndarray(shape, dtype, block)})
            if not WORKER[0]:
                leave()
            kind = type(result)
            if kind is _ndarray:
                written = self._answers.array(result, call_id)
            else:
                written = self._answers.numbered(REPLY, result, call_id) if kind is dict else None
        except LaneFull:
            written = None
        except BaseException as exc:  # noqa: BLE001 - SystemExit and KeyboardInterrupt of a model end its call only
            written = self._write_error(item, error_of(exc))
            result = None
        if written is None or written[0] != REPLY:
            blocks, results = [block], [result]
            del block, result  # whoever counts references must not find ours
            if written is not None:
                return self._end(item, written, blocks)
            self._cancelled = False
            self._answers.told_ns = now_ns
            return self._answer(item, results, blocks)
        result = None
        self._running = 0
        _, at, size, form, told = written
        if getrefcount(block) > _REMEMBERED:
            del plan.blocks[offset]
            self._keep([block], call_id)
        else:
            told |= REQUEST_RELEASED
        lane.publish_reply(REPLY, told, call_id, at, size, form)
        after_ns = _monotonic_ns()
        plan.is_quick = after_ns - now_ns < FLUSH_NS
        return after_ns

    def _run_any(self, item: Item, now_ns: int) -> int:
        """The same for every other call."""
        self._running = self._header[BEGUN] = item[2]
        self._counts[RUNNING_UNTIL] = item[6] or NO_END
        self._cancelled = False
        self._answers.told_ns = now_ns
        blocks: list[RequestBytes] = []
        results: list[Any] = []
        written: Written | None = None
        try:
            if item[6] and now_ns > item[6] * 1000:
                raise late(item[6], now_ns)
            results.append(self._invoke(item, blocks))
        except HuteroxError as exc:
            written = self._write_error(item, exc)
            exc.__traceback__ = None  # a form's error is remembered, and frames hold the lane
        # Not before the exception is gone, whose frames hold the inputs.
        after_ns = self._answer(item, results, blocks) if written is None else self._end(item, written, blocks)
        if (plan := self._plan) is not None:
            plan.is_quick = after_ns - now_ns < FLUSH_NS
            self._plan = None
        return after_ns

    def _invoke(self, item: Item, blocks: list[RequestBytes]) -> Any:
        """Find the inputs and call the model. `blocks` is filled with what the inputs are made over.

        Raises:
            HuteroxError: of the caller's making, or ModelError.
        """
        _, flags, call_id, offset, nbytes, signature, _ = item
        lane = self.lane
        if not signature:
            plan = self._plans.plan(lane.view(offset, nbytes))
        else:
            known = self._overtaken.pop(call_id, None) or self._numbered(signature, _UNKNOWN)
            if isinstance(known, HuteroxError):
                raise known.with_traceback(None)
            plan = known
        if flags & INDIRECT:
            plan.refer(lane, offset, nbytes, blocks)
            values = plan.values_of(blocks)
        else:
            if nbytes != plan.nbytes:
                raise InvalidInput(f"a call of form {signature} has {plan.nbytes} bytes, got {nbytes}")
            if plan.inputs:
                blocks.append(plan.bytes_at(lane, offset, nbytes))
                values = plan.values(blocks[0])
            else:
                values = plan.plain_values()
        if not plan.is_quick:
            lane.flush()  # answers of calls before it do not wait for this one
        self._plan = plan
        if plan.method.allocates:
            values["allocate"] = self._answers.outputs.allocate
        try:
            return plan.function(**values)
        except BaseException as exc:  # noqa: BLE001 - as in _run
            raise error_of(exc) from None

    # --- answers ----------------------------------------------------------------------------------------------------

    def _answer(self, item: Item, results: list[Any], blocks: list[RequestBytes]) -> int:
        """Write the answer that is the one element of `results`; where there is no room, it waits."""
        result = results.pop()
        try:
            if inspect.iscoroutine(result):
                result.close()
                raise ModelError("a model's methods are plain or generators; this one is a coroutine function")
            write = self._stream if isinstance(result, Generator) else self._write
            written = write(REPLY, item, result)
        except LaneFull:
            self._waiting = (item, [result], blocks)
            deadline_us = item[6]
            give_up_s = time.monotonic() + ROOM_WAIT_S
            self.retry_at_s = min(give_up_s, deadline_us / 1e6) if deadline_us else give_up_s
            return _STOP
        except HuteroxError as exc:
            written = self._write_error(item, exc)
        except ShmError:
            raise
        except BaseException as exc:  # noqa: BLE001 - the model's own array, tensor or mapping: it ends its call only
            written = self._write_error(item, model_error(exc))
        result = None
        return self._end(item, written, blocks)

    def _retry(self) -> bool:
        """Once more for an answer that waits for room. False: it waits on."""
        if self._waiting is None:
            return True
        item, results, blocks = self._waiting
        self._waiting = None
        give_up_s, self.retry_at_s = self.retry_at_s, inf
        if time.monotonic() >= give_up_s:
            results.clear()
            self._end(item, self._write_error(item, self._answers.no_room()), blocks)
        elif self._answer(item, results, blocks) == _STOP:
            self.retry_at_s = give_up_s
            return False
        self._flush(1, 0)
        return True

    def _write(self, kind: int, item: Item, result: Any) -> Written:
        """Hot path for whole messages. Raises as `Answers.whole`."""
        if item[5]:
            return self._answers.numbered(kind, result, item[2])
        request_id, handle = self._identity(item)
        return self._answers.whole(kind, request_id, handle, result)

    def _write_error(self, item: Item, error: HuteroxError) -> Written:
        request_id, handle = self._identity(item)
        return self._answers.error(request_id, handle, error, self._answers.lap_us())

    def _end(self, item: Item, written: Written, blocks: list[RequestBytes]) -> int:
        """Hot path for whole messages. Publish the final answer; returns the time."""
        if not WORKER[0]:
            leave()
        _, _, call_id, offset, _, signature, _ = item
        if signature and type(plan := self._numbered(signature)) is Plan:
            plan.blocks.pop(offset, None)
        if self._copies:
            for block in blocks:
                block.write_home()
            blocks = []
        kept = [index for index in range(len(blocks)) if getrefcount(blocks[index]) > _OWN]
        if call_id == self._running:  # not where a queued call is refused between two parts of a stream
            self._running = 0
        kind, at, nbytes, form, flags = written
        if kept:
            self._keep([blocks[index] for index in kept], call_id)
        else:
            flags |= REQUEST_RELEASED
        self.lane.publish_reply(kind, flags, call_id, at, nbytes, form)
        self._answers.outputs.settle()
        if kind == ERROR:
            self.lane.count_error()
        return time.monotonic_ns()

    def _keep(self, blocks: list[RequestBytes], call_id: int) -> None:
        """The model has kept views of its inputs: release the request when the last one is gone."""
        self.kept.add(call_id)
        left = [len(blocks)]
        for block in blocks:
            weakref.finalize(block, self._release, call_id, left).atexit = False

    def _release(self, call_id: int, left: list[int]) -> None:
        """Runs in a garbage collection, in any thread."""
        left[0] -= 1
        if not left[0]:
            self.lane.release_request(call_id)
            self.kept.discard(call_id)

    def _identity(self, item: Item) -> tuple[int, int]:
        """Request id and handle, zeros where there is no whole message, or one without a proper header."""
        _, _, _, offset, nbytes, signature, _ = item
        if signature:
            return 0, 0
        try:
            header = unpack_header(self.lane.view(offset, nbytes))
        except HuteroxError:
            return 0, 0
        return header.request_id, header.handle

    # --- streams ----------------------------------------------------------------------------------------------------

    def _stream(self, kind: int, item: Item, parts: Generator[Any, Any, Any]) -> Written:
        """Publish what the generator yields, part by part; the final answer is empty.

        Raises:
            InvalidInput: the caller did not ask for a stream.
            Cancelled, DeadlineExceeded, Busy, ModelError: it ended early.
            LaneFull: no room for the final answer.
        """
        deadline_us = item[6]
        try:
            if not item[1] & STREAM:
                raise InvalidInput("this method answers in parts: call it with stream()")
            while True:
                try:
                    value = next(parts)
                except StopIteration:
                    break
                except BaseException as exc:  # noqa: BLE001 - as in _run
                    raise error_of(exc) from None
                self._publish_part(item, value)
                del value
                self._take()
                if self._cancelled:
                    raise Cancelled("cancelled between two parts")
                if deadline_us and time.monotonic_ns() > deadline_us * 1000:
                    raise DeadlineExceeded("its time was over between two parts", executed="yes")
        finally:
            _close(parts)
        return self._write(kind, item, {})

    def _publish_part(self, item: Item, value: Any) -> None:
        """Publish a part and make it visible; waits for room, and the container with it. Raises Busy."""
        lane = self.lane
        until_s = 0.0
        written: Written | None = None
        while True:
            try:
                if written is None:
                    written = self._write(PART, item, value)
                _, offset, nbytes, form, flags = written
                lane.publish_part(flags, item[2], offset, nbytes, form)
                return lane.flush()
            except LaneFull:
                until_s = until_s or self._room_until_s(item[6])
                left_s = until_s - time.monotonic()
                if left_s <= 0 or not lane.wait_for_room(left_s):
                    if written is not None and written[2]:
                        lane.abandon(written[1])
                    raise self._answers.no_room() from None

    def _room_until_s(self, deadline_us: int) -> float:
        until_s = time.monotonic() + self._stream_room_wait_s
        return min(until_s, deadline_us / 1e6) if deadline_us else until_s


def _close(parts: Generator[Any, Any, Any]) -> None:
    """End a generator; what its clean-up raises is of no interest to a call that has ended."""
    try:
        parts.close()
    except BaseException as exc:  # noqa: BLE001 - the model's code
        say(f"a stream's clean-up raised {reason_of(exc)}")
