"""A switchboard daemon as a process, with callers and kernels played by plain sockets."""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil
import zmq

from huterox_wire.header import pack_header, unpack_header
from huterox_wire.kinds import Flag, Kind
from huterox_wire.message import encode
from huterox_wire.meta import AdminMeta, OpenMeta, decode_admin_reply, decode_error, encode_meta
from huterox_wire.nodes import (
    Capacity,
    ContainerEvent,
    CreateMeta,
    RegisterMeta,
)

TIMEOUT_MS = 10_000
RANDOM = random.Random(1)
MIB = 2**20
CALLER_NBYTES_MAX = 8 * MIB


class Daemon:
    """A running connector in a folder of its own. Its kernels, played by the tests, do not beat: it is patient."""

    def __init__(self, folder: Path, descriptors_max: int | None = None, front: str = "", **settings: int) -> None:
        self._descriptors_max = descriptors_max
        core = {"node_suspect_s": 60.0, "node_timeout_s": 6.0}
        self.folder = folder
        self.front = front or f"ipc://{folder}/front.ipc"
        self.back = f"ipc://{folder}/back.ipc"
        lines = [f'front = "{self.front}"', f'back = "{self.back}"', f'store = "{folder}/store.db"']
        lines += [f"caller_nbytes_max = {CALLER_NBYTES_MAX}", *(f"{k} = {v}" for k, v in settings.items()), "[core]"]
        (folder / "connector.toml").write_text("\n".join(lines + [f"{k} = {v}" for k, v in core.items()]) + "\n")
        self.process: subprocess.Popen[bytes]
        self.peers: list[Peer] = []
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "huterox_connector", "--config", str(self.folder / "connector.toml")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=self._limit)

    def _limit(self) -> None:
        if (limit := self._descriptors_max) is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit // 2, limit))

    def stop(self, how: int = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(timeout=15)

    def descriptors(self) -> int:
        return psutil.Process(self.process.pid).num_fds()

    def await_descriptors(self, *, fewer_than: int) -> None:
        until_s = time.monotonic() + 20.0
        while self.descriptors() >= fewer_than:
            assert time.monotonic() < until_s, "a connection did not end"
            time.sleep(0.01)
        time.sleep(0.05)  # the descriptor goes first, then its pipe

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for peer in self.peers:
            peer.socket.close(linger=0)
        self.context.term()

    def caller(self) -> "Peer":
        return self.peer(self.front)

    def sleeper(self) -> "Peer":
        """A caller for whom ZeroMQ reads nothing ahead."""
        return self.peer(self.front, unread_max=1)

    def peer(self, endpoint: str, identity: bytes = b"", unread_max: int = 1000) -> "Peer":
        self.peers.append(Peer(self.context, endpoint, identity, unread_max))
        return self.peers[-1]

    def kernel(self, name: str = "n1", boot: str = "b1") -> "Peer":
        peer = self.peer(self.back, f"{name}:{boot}".encode())
        meta = RegisterMeta(name, boot, os.getpid(), "host", Capacity(4, 2**30), host_id="boot-id")
        peer.send_control(Kind.REGISTER, meta)
        return peer


class Peer:
    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str, identity: bytes, unread_max: int
    ) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.RCVHWM, unread_max)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVTIMEO, TIMEOUT_MS)
        if identity:
            self.socket.setsockopt(zmq.IDENTITY, identity)
        self.socket.connect(endpoint)

    def send(self, frames: list[Any]) -> None:
        self.socket.send_multipart(frames)

    def send_control(self, kind: Kind, meta: msgspec.Struct) -> None:
        self.send([b"", *encode(kind, 0, 0, 0, encode_meta(meta))])

    def receive(self) -> list[bytes]:
        return self.socket.recv_multipart()

    def receive_control(self, kind: Kind) -> bytes:
        """The meta of the next control message of this kind; others are passed over."""
        while True:
            route, *frames = self.receive()
            if route == b"" and unpack_header(frames[0]).kind is kind:
                return frames[0][40:]

    def receive_call(self) -> tuple[bytes, list[bytes]]:
        while True:
            route, *frames = self.receive()
            if route:
                return route, frames

    def ask(self, verb: str, **args: Any) -> Any:
        self.send(encode(Kind.ADMIN, 1, 0, 0, encode_meta(AdminMeta(verb, args))))
        (frame,) = self.receive()
        header = unpack_header(frame)
        if header.kind is Kind.ERROR:
            raise decode_error(frame[40:])
        return decode_admin_reply(frame[40:]).result

    def open(self, name: str) -> int:
        self.send(encode(Kind.OPEN, 2, 0, 0, encode_meta(OpenMeta(name))))
        return unpack_header(self.receive()[0]).handle


@contextmanager
def running(daemon: Daemon) -> Iterator[Daemon]:
    try:
        yield daemon
    finally:
        daemon.close()


def serve(daemon: Daemon) -> tuple[Peer, Peer, int, int]:
    """A caller, a kernel, a handle and the id of the container that is ready behind it."""
    caller, kernel = daemon.caller(), daemon.kernel()
    caller.ask("deploy", model={"name": "m", "entry": "m.py:M"})
    caller.ask("create", name="s", model="m")
    handle = caller.open("s")
    caller.send(encode(Kind.CALL, 10, handle, 5_000_000, b"\x80"))
    create = msgspec.msgpack.decode(kernel.receive_control(Kind.CREATE), type=CreateMeta)
    kernel.send_control(Kind.EVENT, ContainerEvent(create.container, "ready", pid=1))
    route, frames = kernel.receive_call()
    kernel.send([route, pack_header(Kind.REPLY, Flag.PACKED, 0, unpack_header(frames[0]).request_id)])
    assert unpack_header(caller.receive()[0]).request_id == 10
    return caller, kernel, handle, create.container
