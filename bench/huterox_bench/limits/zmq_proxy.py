"""What ZeroMQ alone can do: DEALER, C proxy, echo worker; three processes, ipc, one frame of payload."""

import os
import secrets
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import zmq

from huterox_bench.errors import BenchError, WrongAnswer
from huterox_bench.limits.echo import COPY_NBYTES_MAX
from huterox_bench.loads import Shape, Slice, SliceLimit, slide
from huterox_bench.processes import Child, python_child
from huterox_bench.rows import ZMQ_PROXY

ANSWER_TIMEOUT_MS = 10_000
STAMP_NBYTES = 16


class ProxyChain:
    """The proxy and the worker behind it, and a DEALER that is connected to them."""

    def __init__(self, stack: ExitStack) -> None:
        # Abstract sockets: no file that a killed bench could leave behind.
        front, back = (f"ipc://@huterox-bench-{os.getpid()}-{secrets.token_hex(8)}-{end}" for end in ("front", "back"))
        self._children: Sequence[Child] = (
            stack.enter_context(python_child("the C proxy", "huterox_bench.limits.proxy", front, back)),
            stack.enter_context(python_child("the echo worker", "huterox_bench.limits.echo", back)),
        )
        context = stack.enter_context(zmq.Context())
        self.socket: zmq.Socket[bytes] = stack.enter_context(context.socket(zmq.DEALER))
        self.socket.linger = 0
        self.socket.rcvtimeo = self.socket.sndtimeo = ANSWER_TIMEOUT_MS
        self.socket.connect(front)

    def check_alive(self) -> None:
        """Raise BenchError if one of the processes has ended."""
        for child in self._children:
            child.check_alive()


class ZmqProxy:
    """Calls of one shape through a chain. Payloads in flight together are distinct, and every answer is compared."""

    name = ZMQ_PROXY

    def __init__(self, chain: ProxyChain, shape: Shape) -> None:
        self.shape = shape
        self._chain = chain
        body = secrets.token_bytes(shape.nbytes - STAMP_NBYTES)
        # One more than the window: an answer to the call before or after never looks right.
        self._payloads = [index.to_bytes(STAMP_NBYTES, "little") + body for index in range(shape.window + 1)]
        self._copy = shape.nbytes <= COPY_NBYTES_MAX
        self._last: tuple[Any, bytes] = (b"", b"")

    def run(self, limit: SliceLimit) -> Slice:
        """One slice. Large answers are compared by size and stamp, and the last of the slice in full."""
        try:
            slice_ = slide(self._submit, self._take_small if self._copy else self._take_large, self.shape.window, limit)
        except zmq.Again:
            self._chain.check_alive()
            raise BenchError(f"no answer through the C proxy within {ANSWER_TIMEOUT_MS / 1000:.0f} s") from None
        answer, expected = self._last
        if not self._copy and answer.bytes != expected:
            raise WrongAnswer("the C proxy has answered with other bytes")
        self._last = (b"", b"")
        return slice_

    def _submit(self, index: int) -> None:
        """Hot path."""
        payloads = self._payloads
        self._chain.socket.send(payloads[index % len(payloads)], 0, self._copy)

    def _take_small(self, index: int) -> None:
        """Hot path."""
        payloads = self._payloads
        if self._chain.socket.recv() != payloads[index % len(payloads)]:
            raise WrongAnswer(f"call {index} through the C proxy has got another answer")

    def _take_large(self, index: int) -> None:
        """Hot path."""
        expected = self._payloads[index % len(self._payloads)]
        answer = self._chain.socket.recv(copy=False)
        if len(answer) != len(expected) or answer.buffer[:STAMP_NBYTES] != expected[:STAMP_NBYTES]:
            raise WrongAnswer(f"call {index} through the C proxy has got another answer")
        self._last = (answer, expected)
