"""The calls of one lane: taken in order, checked, run, answered.

A call is refused before it runs if its time is over or its inputs are wrong. Whatever the model's code raises becomes a
ModelError; nothing that a caller sends and nothing that a model raises ends the worker.
"""

import inspect
import time
import weakref
from collections import deque
from collections.abc import Generator
from sys import getrefcount
from typing import Any, Final

from huterox_kernel.worker.answers import Answers, Block
from huterox_kernel.worker.inputs import Expected, RequestBytes, bytes_of
from huterox_kernel.worker.plans import Plans
from huterox_kernel.worker.runtimes.base import Model
from huterox_kernel.worker.tracebacks import model_error
from huterox_shm.lane import CALL, ERROR, PART, REPLY, ContainerEnd, Request
from huterox_wire.errors import CallerError, Cancelled, DeadlineExceeded, HuteroxError, InvalidInput, ModelError
from huterox_wire.header import Header, unpack_header

SLOW_US: Final = 200
"""After a call that took longer, look for cancellations before the next one."""

_OUR_REFERENCES: Final = 2  # the local variable, and the argument of getrefcount


class Calls:
    """Serves one lane with one model."""

    def __init__(self, lane: ContainerEnd, model: Model, expected: Expected) -> None:
        self.lane = lane
        self.kept: set[int] = set()  # blocks of requests whose bytes the model still holds
        self._plans = Plans(model, expected)
        self._inputs: RequestBytes | None = None  # of the running call, where it has tensors
        self._answers = Answers(lane)
        self._queue: deque[Request] = deque()
        self._running: int | None = None
        self._cancelled = False  # the running call
        self._is_slow = False

    def step(self) -> bool:
        """Hot path. Run one call, if there is one; are there more that have been taken already?

        Raises:
            LaneDead, PeerProtocolError: the lane is over.
        """
        queue = self._queue
        if not queue or self._is_slow:
            self._take()
            if not queue:
                return False
        self._run(queue.popleft())
        return bool(queue)

    def look(self) -> bool:
        """Take what has come; is there a call to run? Raises as `step`."""
        self._take()
        return bool(self._queue)

    def _take(self) -> None:
        for request in self.lane.take():
            if request.kind == CALL:
                self._queue.append(request)
            else:
                self._cancel(request.call_id)

    def _cancel(self, call_id: int) -> None:
        """End a queued call now; mark the running one. A call that is neither has ended already."""
        if call_id == self._running:
            self._cancelled = True
            return
        for request in self._queue:
            if request.call_id == call_id:
                self._queue.remove(request)
                self._refuse(request, Cancelled("cancelled before the call was started"))
                return

    def _refuse(self, request: Request, error: HuteroxError) -> None:
        _, call_id, offset, nbytes, deadline_us, _ = request
        request_id, handle = _identity(self.lane.view(offset, nbytes))
        block = self._answers.error(request_id, handle, error, deadline_us)
        self.lane.publish_reply(*_final(block, call_id), request_released=True)
        self.lane.flush()

    def _run(self, request: Request) -> None:
        """Hot path. Run one call and publish its answer."""
        lane = self.lane
        _, call_id, offset, nbytes, deadline_us, stream = request
        # From before anything of the call runs until its answer can be seen: should the process die in between, the
        # kernel must not call it unstarted.
        lane.begin(call_id)
        self._answers.told_ns = started_ns = time.monotonic_ns()
        self._running = call_id
        self._cancelled = False
        kind, at, size = self._answer(lane.view(offset, nbytes), call_id, deadline_us, stream, started_ns)
        self._running = None
        inputs, self._inputs = self._inputs, None
        released = inputs is None or getrefcount(inputs) == _OUR_REFERENCES
        lane.publish_reply(kind, call_id, at, size, request_released=released)
        lane.flush()
        if inputs is not None and not released:
            self._keep(inputs, offset)
        busy_us = (self._answers.told_ns - started_ns) // 1000
        self._is_slow = busy_us > SLOW_US
        lane.end(call_id, busy_us, kind == ERROR)

    def _keep(self, inputs: RequestBytes, offset: int) -> None:
        """The model has kept a view of its input: release the request's block when the last one is gone."""
        self.kept.add(offset)
        weakref.finalize(inputs, self._release, offset).atexit = False

    def _release(self, offset: int) -> None:
        """Runs in a garbage collection, in any thread."""
        self.kept.discard(offset)
        self.lane.release_request(offset)

    def _answer(self, view: memoryview, call_id: int, deadline_us: int, stream: bool, started_ns: int) -> Block:
        """Hot path. The call's final answer, written but not published. Leaves no reference to the inputs behind."""
        try:
            if deadline_us and started_ns > deadline_us * 1000:
                raise _late(deadline_us, started_ns)
            header = unpack_header(view)
            result = self._invoke(header, view)
            if isinstance(result, Generator):
                return self._stream(result, header, call_id, deadline_us, stream)
            return self._answers.values(REPLY, header.request_id, header.handle, result, deadline_us)
        except HuteroxError as exc:
            request_id, handle = _identity(view)
            return self._answers.error(request_id, handle, exc, busy_us=self._answers.lap_us())

    def _invoke(self, header: Header, view: memoryview) -> Any:
        """Hot path. Decode, check, call the model.

        Raises:
            HuteroxError: of the caller's making, or ModelError.
        """
        plan = self._plans.plan(header, view)
        if plan.inputs:
            self._inputs = bytes_of(view)
            values = plan.values(view, self._inputs)
        else:
            values = plan.params.copy()
        method = plan.method
        try:
            result = method(values)
        except CallerError:
            raise
        except BaseException as exc:  # noqa: BLE001 - SystemExit and KeyboardInterrupt of a model end its call only
            raise model_error(exc) from None
        if inspect.iscoroutine(result):
            result.close()
            raise ModelError(f"{method.name}() is a coroutine function; a model's methods are plain or generators")
        return result

    def _stream(
        self,
        parts: Generator[Any, Any, Any],
        header: Header,
        call_id: int,
        deadline_us: int,
        stream: bool,
    ) -> Block:
        """Publish what the generator yields, part by part; the final answer is empty.

        Raises:
            InvalidInput: the caller did not ask for a stream.
            Cancelled, DeadlineExceeded, ModelError: it ended early.
        """
        answers = self._answers
        _, _, _, request_id, handle, _, _ = header
        try:
            if not stream:
                raise InvalidInput("this method answers in parts: call it with stream()")
            while True:
                try:
                    value = next(parts)
                except StopIteration:
                    return answers.values(REPLY, request_id, handle, {}, deadline_us)
                except CallerError:
                    raise
                except BaseException as exc:  # noqa: BLE001 - as in _invoke
                    raise model_error(exc) from None
                block = answers.values(PART, request_id, handle, value, deadline_us)
                del value
                answers.publish_part(call_id, block, deadline_us)
                self._go_on(deadline_us)
        finally:
            _close(parts)

    def _go_on(self, deadline_us: int) -> None:
        """Between two parts: has the caller given up, or is its time over?"""
        self._take()
        if self._cancelled:
            raise Cancelled("cancelled between two parts")
        if deadline_us and time.monotonic_ns() > deadline_us * 1000:
            raise DeadlineExceeded("its time was over between two parts", executed="yes")


def _late(deadline_us: int, now_ns: int) -> DeadlineExceeded:
    late_ms = now_ns // 1_000_000 - deadline_us // 1000
    return DeadlineExceeded(f"its time was over {late_ms} ms before the call was started", executed="no")


def _identity(view: memoryview) -> tuple[int, int]:
    """Request id and handle of a request, zeros where it has no proper header."""
    try:
        header = unpack_header(view)
    except HuteroxError:
        return 0, 0
    return header.request_id, header.handle


def _final(block: Block, call_id: int) -> tuple[int, int, int, int]:
    kind, offset, nbytes = block
    return kind, call_id, offset, nbytes


def _close(parts: Generator[Any, Any, Any]) -> None:
    """End a generator; what its clean-up raises is of no interest to a call that has ended."""
    try:
        parts.close()
    except BaseException as exc:  # noqa: BLE001 - the model's code
        print(f"a stream's clean-up raised {type(exc).__name__}: {exc}")  # noqa: T201 - the container's log
