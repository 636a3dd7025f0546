"""A real kernel process and, opposite to it, the one double of these tests: a switchboard made of a ROUTER."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq

from huterox_wire.errors import HuteroxError, InvalidInput
from huterox_wire.header import Header
from huterox_wire.kinds import Flag, Kind
from huterox_wire.leases import DrainMeta, LeasedMeta, LeaseOrderMeta, decode_leased
from huterox_wire.message import Message, decode, encode, slice_tensors
from huterox_wire.meta import (
    AdminMeta,
    CallMeta,
    decode_admin_reply,
    decode_call,
    decode_error,
    decode_reply,
    encode_meta,
)
from huterox_wire.nodes import (
    CloseMeta,
    ContainerEvent,
    CreateMeta,
    HeartbeatMeta,
    ModelSpec,
    RegisteredMeta,
    RegisterMeta,
    decode_container_event,
    decode_heartbeat,
    decode_register,
)
from huterox_wire.payload import join_values, split_values
from huterox_wire.route import pack_route

from .caller import Caller, fetch

MODELS = Path(__file__).parent / "models"
CALLER = b"caller-1"
SERVICE = 1 << 32 | 7
EPOCH = 1
PATIENCE_S = 30.0


class Answer:
    """A message that came back for a request."""

    def __init__(self, header: Header, values: Any) -> None:
        self.kind = header.kind
        self.handle = header.handle
        self.values = values

    @property
    def error(self) -> HuteroxError:
        assert isinstance(self.values, HuteroxError), self.values
        return self.values


class Switchboard:
    """Stands where the switchboard stands, and does what the test tells it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.endpoint = f"ipc://{folder}/back.ipc"
        self.context = zmq.Context()
        self.kernel_identity = b""
        self.processes: list[subprocess.Popen[bytes]] = []
        self.registrations: list[RegisterMeta] = []
        self.heartbeats: list[HeartbeatMeta] = []
        self.events: list[ContainerEvent] = []
        self.answers: dict[int, list[Answer]] = {}
        self.request_id = 0
        self.callers: list[Caller] = []
        self.heartbeat_s = 0.1
        self._asked: set[int] = set()
        self._leased: set[int] = set()
        self.bind()

    def bind(self) -> None:
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind(self.endpoint)

    # The kernel's process.

    def start_kernel(self, **settings: Any) -> subprocess.Popen[bytes]:
        values = {
            "switchboard": self.endpoint,
            "dir": str(self.folder / "kernel"),
            "node": "node-1",
            "preload": ["numpy"],
            "host_mb": 4096,
            **settings,
        }
        path = self.folder / "kernel.toml"
        path.write_text("".join(f"{name} = {_toml(value)}\n" for name, value in values.items()))
        log = (self.folder / "kernel.log").open("ab")
        with log:
            process = subprocess.Popen(
                [sys.executable, "-m", "huterox_kernel", "--config", str(path)], stdout=log, stderr=log
            )
        self.processes.append(process)
        return process

    def start(self, **settings: Any) -> subprocess.Popen[bytes]:
        """A kernel that has registered."""
        process = self.start_kernel(**settings)
        self.until(lambda: self.registrations)
        return process

    def log(self) -> str:
        return (self.folder / "kernel.log").read_text()

    def close(self) -> None:
        for caller in self.callers:
            caller.close()
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        self.socket.close()
        self.context.term()

    # Speaking.

    def send(self, *frames: Any) -> None:
        self.socket.send_multipart([self.kernel_identity, *frames])

    def order(self, kind: Kind, meta: Any) -> None:
        self.send(b"", *encode(kind, 0, 0, 0, encode_meta(meta)))

    def create(
        self,
        container: int,
        entry: str = "plain.py:Echo",
        epoch: int = EPOCH,
        given: dict[str, Any] | None = None,
        **spec: Any,
    ) -> None:
        """Order a container. `given`: what else CREATE names, beside the model."""
        spec = {"name": "model", "source_dir": str(MODELS), **spec}
        self.order(Kind.CREATE, CreateMeta(epoch, container, ModelSpec(entry=entry, **spec), **(given or {})))

    def created(self, container: int, entry: str = "plain.py:Echo", **spec: Any) -> ContainerEvent:
        """A container that is ready."""
        self.create(container, entry, **spec)
        return self.event(container, "ready")

    def tell_close(self, container: int, grace_s: float = 5.0, epoch: int = EPOCH, reason: str = "evicted") -> None:
        self.order(Kind.CLOSE, CloseMeta(epoch, container, reason, grace_s))

    def call(
        self,
        container: int,
        method: str = "predict",
        *,
        budget_us: int = 0,
        stream: bool = False,
        caller: bytes = CALLER,
        **values: Any,
    ) -> int:
        """Send a call; returns its request id."""
        self.request_id += 1
        params, specs, buffers = split_values(values)
        meta = encode_meta(CallMeta(method, params, specs))
        flags = int(Flag.STREAM) if stream else 0
        frames = encode(Kind.CALL, self.request_id, 77, budget_us, meta, buffers, flags)
        self.send(route(container, caller), *frames)
        return self.request_id

    def cancel(self, container: int, request_id: int) -> None:
        self.send(route(container), *encode(Kind.CANCEL, request_id, 77, 0, b""))

    def ask(self, verb: str, **args: Any) -> int:
        self.request_id += 1
        frames = encode(Kind.ADMIN, self.request_id, 0, 0, encode_meta(AdminMeta(verb, args)))
        self._asked.add(self.request_id)
        self.send(route(0), *frames)
        return self.request_id

    def tell_drain(self, container: int, epoch: int = EPOCH) -> None:
        self.order(Kind.DRAIN, DrainMeta(epoch, container, "evicted"))

    def ask_lease(
        self, container: int, service: int = SERVICE, *, epoch: int = EPOCH, by: int | None = None, **sizes: Any
    ) -> int:
        self.request_id += 1
        self._leased.add(self.request_id)
        meta = LeaseOrderMeta(epoch, container, service, f"acme/service-{service}", **sizes)
        frames = encode(Kind.LEASE, self.request_id, service, 0, encode_meta(meta))
        self.send(route(container if by is None else by), *frames)
        return self.request_id

    def lease(self, container: int, service: int = SERVICE, **sizes: Any) -> LeasedMeta:
        """Where a caller fetches its lane. Raises what came back as an error."""
        answer = self.answer(self.ask_lease(container, service, **sizes))
        if isinstance(answer.values, HuteroxError):
            raise answer.values
        assert isinstance(answer.values, LeasedMeta)
        return answer.values

    def caller(self, container: int, service: int = SERVICE, **sizes: Any) -> Caller:
        """A caller with a lane."""
        caller = fetch(self.lease(container, service, **sizes))
        self.callers.append(caller)
        return caller

    def caller_process(self, container: int, what: str, seconds: float = 0.0) -> subprocess.Popen[bytes]:
        """A caller that can be killed, once it does what it shall (see `caller.main`)."""
        leased = self.lease(container)
        command = [sys.executable, str(Path(__file__).with_name("caller.py")), leased.path, leased.token.hex()]
        process = subprocess.Popen([*command, what, str(seconds)], stdout=subprocess.PIPE)
        self.processes.append(process)
        assert process.stdout is not None
        with process.stdout:
            assert process.stdout.readline().decode().strip() == what
        return process

    # Hearing.

    def pump(self, timeout_s: float) -> bool:
        """Take one message."""
        if not self.socket.poll(max(1, int(timeout_s * 1000))):
            return False
        identity, sender_route, *frames = self.socket.recv_multipart()
        message = decode(frames)
        if sender_route:
            self._on_answer(message)
            return True
        kind = message.header.kind
        if kind is Kind.REGISTER:
            self.kernel_identity = identity
            self.registrations.append(decode_register(message.meta))
            self.order(Kind.REGISTER, RegisteredMeta(EPOCH, self.heartbeat_s))
        elif kind is Kind.HEARTBEAT:
            self.kernel_identity = identity
            self.heartbeats.append(decode_heartbeat(message.meta))
            try:
                self.send(b"", *encode(Kind.HEARTBEAT, 0, 0, 0, b"\x80"))
            except zmq.ZMQError as exc:
                if exc.errno != zmq.EHOSTUNREACH:  # it has been killed since
                    raise
        elif kind is Kind.EVENT:
            self.events.append(decode_container_event(message.meta))
        return True

    def _on_answer(self, message: Message) -> None:
        header = message.header
        values: Any
        if header.kind is Kind.ERROR:
            values = decode_error(message.meta)
        elif header.request_id in self._asked:
            values = decode_admin_reply(message.meta).result
        elif header.request_id in self._leased:
            values = decode_leased(message.meta)
        elif header.kind is Kind.CALL:  # handed back, whatever it was
            try:
                values = _values(message, decode_call)
            except InvalidInput:
                values = None
        else:
            values = _values(message, decode_reply)
        self.answers.setdefault(header.request_id, []).append(Answer(header, values))

    def until(self, done: Callable[[], Any], timeout_s: float = PATIENCE_S) -> Any:
        """Take messages until `done` gives something true; that is returned."""
        end_s = time.monotonic() + timeout_s
        while not (result := done()):
            if time.monotonic() > end_s:
                raise AssertionError(f"nothing within {timeout_s} s; the kernel's log:\n{self.log()}")
            self.pump(0.05)
        return result

    def event(self, container: int, what: str, timeout_s: float = PATIENCE_S) -> ContainerEvent:
        def find() -> ContainerEvent | None:
            for event in self.events:
                if event.container == container and event.what == what:
                    return event
                if event.container == container and event.what == "gone":
                    raise AssertionError(f"{event}\n{self.log()}")
            return None

        return self.until(find, timeout_s)

    def parts_and_answer(self, request_id: int, timeout_s: float = PATIENCE_S) -> list[Answer]:
        def ended() -> list[Answer] | None:
            answers = self.answers.get(request_id, [])
            return answers if answers and answers[-1].kind is not Kind.PART else None

        return self.until(ended, timeout_s)

    def answer(self, request_id: int, timeout_s: float = PATIENCE_S) -> Answer:
        return self.parts_and_answer(request_id, timeout_s)[-1]

    def result(self, container: int, method: str = "predict", **values: Any) -> Any:
        """Call and wait; raises what came back as an error."""
        answer = self.answer(self.call(container, method, **values))
        if isinstance(answer.values, HuteroxError):
            raise answer.values
        return answer.values

    def admin(self, verb: str, **args: Any) -> Any:
        answer = self.answer(self.ask(verb, **args))
        if isinstance(answer.values, HuteroxError):
            raise answer.values
        return answer.values

    def heartbeat_of(self, container: int, want: Callable[[Any], bool], timeout_s: float = PATIENCE_S) -> Any:
        """The first report of a container that is as wanted, in heartbeats that were made after this was asked."""
        while self.pump(0.0):
            pass
        self.heartbeats.clear()
        self.until(lambda: self.heartbeats)  # it may have been under way
        self.heartbeats.clear()
        return self.until(
            lambda: [r for beat in self.heartbeats for r in beat.containers if r.container == container and want(r)],
            timeout_s,
        )[0]


def _values(message: Message, decode_meta: Callable[[Any], Any]) -> dict[str, Any]:
    meta = decode_meta(message.meta)
    return join_values(meta.params, meta.tensors, slice_tensors(message, [spec.nbytes for spec in meta.tensors]))


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(_toml(item) for item in value)}]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def route(container: int, caller: bytes = CALLER) -> bytes:
    return pack_route(container, 0, caller)


def descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def gone(processes: list[psutil.Process], timeout_s: float = 10.0) -> bool:
    """Have they all ended?"""
    _, alive = psutil.wait_procs(processes, timeout=timeout_s)
    return not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name: a socket's path has a limit."""
    path = Path(tempfile.mkdtemp(prefix="hxk-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def switchboard(folder: Path) -> Iterator[Switchboard]:
    board = Switchboard(folder)
    try:
        yield board
    finally:
        left = [p for process in board.processes for p in descendants(process.pid)]
        board.close()
        for process in left:
            try:
                os.kill(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
