"""The flood, in a process of its own: `python -m huterox_bench.flood.flooder`.

A line on stdin, [kind, endpoint, tenant, service], begins a flood, and the next one ends it. When the first messages
have been sent, and when all that were sent are answered, a JSON line tells of it. The end of stdin is this process's
own.

Each message is made once and sent again as soon as it is answered, whatever the answer: this process is to take little
of the processor time that it makes others fight for.
"""

import json
import os
import secrets
import struct
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import zmq

from huterox.codec import encode_call
from huterox_bench.errors import BenchError
from huterox_bench.loads import SMALL_NBYTES
from huterox_wire.header import HEADER_NBYTES, Buffer, unpack_header
from huterox_wire.kinds import Kind
from huterox_wire.message import encode
from huterox_wire.meta import AdminMeta, OpenMeta, encode_meta

CONNECTIONS: Final = 8
OPEN: Final = 200
"""Messages of one connection without an answer."""

CONTROL: Final = "control"
"""Goes to a socket of this process's own, which sends it back: takes a processor, and nothing of the platform."""

DRAIN_S: Final = 30.0
_BUDGET_US: Final = 30_000_000
_POLL_MS: Final = 1000
_KIND_AND_REQUEST_ID: Final = struct.Struct("<3xB4xQ")
_ERROR: Final = int(Kind.ERROR)
_HEARTBEAT: Final = int(Kind.HEARTBEAT)  # a sign of life: answers nothing
_STDIN: Final = 0


def call_of(request_id: int, handle: int) -> Buffer:
    """A small call to a service."""
    meta, tensors = encode_call("predict", {"x": np.zeros(SMALL_NBYTES // 4, np.float32)})
    (frame,) = encode(Kind.CALL, request_id, handle, _BUDGET_US, meta, tensors)
    return frame


def question_of(request_id: int, _: int) -> Buffer:
    """Asks for the list of services."""
    (frame,) = encode(Kind.ADMIN, request_id, 0, 0, encode_meta(AdminMeta("services", {})))
    return frame


def garbage_of(request_id: int, _: int) -> Buffer:
    """No message; an error that answers it tells the request id all the same."""
    return bytes(8) + request_id.to_bytes(8, "little") + secrets.token_bytes(HEADER_NBYTES - 16)


KINDS: Final[dict[str, Callable[[int, int], Buffer]]] = {
    "same_model": call_of,
    "other_model": call_of,
    "services": question_of,
    "garbage": garbage_of,
    CONTROL: call_of,
}
"""How a message of each kind of flood is made, of its request id and of the handle to call."""


class Flood:
    """CONNECTIONS callers with OPEN messages each."""

    def __init__(
        self, context: "zmq.Context[zmq.Socket[bytes]]", kind: str, endpoint: str, tenant: str, service: str
    ) -> None:
        handle = self._open_service(context, endpoint, tenant, service) if service else 0
        self._frames = [KINDS[kind](request_id, handle) for request_id in range(OPEN)]
        self._mirror: zmq.Socket[bytes] | None = None
        if kind == CONTROL:
            endpoint = f"ipc://@huterox-bench-{os.getpid()}-{secrets.token_hex(8)}"
            self._mirror = self._socket(context, zmq.ROUTER)
            self._mirror.bind(endpoint)
        self._callers = [self._socket(context, zmq.DEALER) for _ in range(CONNECTIONS)]
        for caller in self._callers:
            caller.connect(endpoint)
        self.answers = self.errors = self.open = 0
        self._poller = zmq.Poller()
        for socket in (*self._callers, *([self._mirror] if self._mirror else [])):
            self._poller.register(socket, zmq.POLLIN)
        self._poller.register(_STDIN, zmq.POLLIN)

    @staticmethod
    def _socket(context: "zmq.Context[zmq.Socket[bytes]]", kind: int) -> "zmq.Socket[bytes]":
        socket = context.socket(kind)
        socket.linger = 0
        socket.set_hwm(0)  # a ROUTER with a full queue would drop, and a DEALER wait
        return socket

    @classmethod
    def _open_service(cls, context: "zmq.Context[zmq.Socket[bytes]]", endpoint: str, tenant: str, service: str) -> int:
        with cls._socket(context, zmq.DEALER) as socket:
            socket.rcvtimeo = int(DRAIN_S * 1000)
            socket.connect(endpoint)
            socket.send_multipart(encode(Kind.OPEN, 1, 0, 0, encode_meta(OpenMeta(service, tenant))))
            header = unpack_header(socket.recv())
        if header.kind is not Kind.REPLY:
            raise BenchError(f"the flood cannot open service {service} of tenant {tenant}")
        return header.handle

    def begin(self) -> None:
        """Send all that may be open."""
        for caller in self._callers:
            for frame in self._frames:
                caller.send(frame)
        self.open = CONNECTIONS * OPEN

    def go_on(self) -> None:
        """Send what is answered again, until there is something on stdin."""
        while self._turn(again=True):
            pass

    def drain(self) -> None:
        """Wait until all is answered. Raises BenchError: it is not."""
        self._poller.unregister(_STDIN)
        until_s = time.monotonic() + DRAIN_S
        while self.open:
            self._turn(again=False)
            if time.monotonic() > until_s:
                raise BenchError(f"{self.open} messages of the flood were not answered within {DRAIN_S:.0f} s")

    def close(self) -> None:
        """Let go of the sockets."""
        for socket in (*self._callers, *([self._mirror] if self._mirror else [])):
            socket.close()

    def _turn(self, *, again: bool) -> bool:
        """What is there now, of every connection. False: somebody wants something of this process."""
        for socket, _ in self._poller.poll(_POLL_MS):
            if socket == _STDIN:
                return False
            if socket is self._mirror:
                self._send_back(self._mirror)
            else:
                self._take(socket, again=again)
        return True

    def _take(self, caller: Any, *, again: bool) -> None:
        """Hot path."""
        frames = self._frames
        for _ in range(OPEN):
            if not caller.get(zmq.EVENTS) & zmq.POLLIN:
                return
            answer = caller.recv(zmq.NOBLOCK)
            while caller.get(zmq.RCVMORE):
                caller.recv(zmq.NOBLOCK)
            if len(answer) < HEADER_NBYTES:
                raise BenchError(f"the flood got an answer of {len(answer)} bytes")
            kind, request_id = _KIND_AND_REQUEST_ID.unpack_from(answer)
            if kind == _HEARTBEAT:
                continue
            self.answers += 1
            self.errors += kind == _ERROR
            if again:
                caller.send(frames[request_id])
            else:
                self.open -= 1

    @staticmethod
    def _send_back(mirror: "zmq.Socket[bytes]") -> None:
        for _ in range(OPEN):
            if not int(mirror.get(zmq.EVENTS)) & zmq.POLLIN:
                return
            mirror.send_multipart(mirror.recv_multipart())


def main() -> int:
    """Flood as ordered; returns the exit status."""
    with zmq.Context() as context:
        while order := _order():
            flood = Flood(context, *json.loads(order))
            try:
                flood.begin()
                _say(begun=True)
                flood.go_on()
                if not _order():
                    break
                answers, errors = flood.answers, flood.errors
                flood.drain()
                _say(answers=answers, errors=errors)
            except BenchError as exc:
                _say(error=str(exc))
                return 1
            finally:
                flood.close()
    return 0


def _order() -> bytes:
    """The next line; read byte by byte, for what is buffered here would not be seen by a poll."""
    line = b""
    while not line.endswith(b"\n"):
        if not (byte := os.read(_STDIN, 1)):
            return b""
        line += byte
    return line


def _say(**values: Any) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
