"""A switchboard double: a ROUTER in a thread that speaks the wire and misbehaves on demand."""

import asyncio
import heapq
import queue
import sys
import threading
import time
import types
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import zmq
from tests.clients.containers import MIB, ContainerDouble
from tests.clients.lanes import AsyncLaneDouble, KernelDouble, LaneDouble, grants, refuses

import huterox
from huterox.cli import main
from huterox.core import Limits
from huterox.lane import LaneConnection
from huterox_wire import errors
from huterox_wire.header import unpack_header
from huterox_wire.kinds import Kind
from huterox_wire.leases import LeasedMeta, LeaseMeta, decode_lease
from huterox_wire.message import Message, decode, encode, slice_tensors
from huterox_wire.meta import (
    AdminReplyMeta,
    OpenedMeta,
    ReplyMeta,
    decode_admin,
    decode_call,
    decode_open,
    encode_meta,
    error_meta,
)
from huterox_wire.payload import join_values, split_values

WAIT_S = 10.0


class Double:
    """Answers CALLs by their method's name: see the `_do_...` methods. `received` tells what came, in order."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.received: queue.Queue[tuple[Kind, Any]] = queue.Queue()
        self.handles: dict[str, int] = {"echo": 1 << 32 | 1}
        self.results: dict[str, Callable[[dict[str, Any]], Any]] = {"status": lambda args: {"nodes_ready": 1}}
        self.lease: Callable[[LeaseMeta], LeasedMeta] = refuses("absent")
        self.leases = 0  # how often a lane was asked for
        self.mute = False
        self._later: list[tuple[float, int, list[Any]]] = []
        self.go = threading.Event()
        self._held: list[list[Any]] = []
        self._gathered: list[list[Any]] = []
        self._count = 0
        self.under_way: set[tuple[bytes, int]] = set()  # identities and request ids of calls without an answer
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.sndhwm = self._socket.rcvhwm = 0
        self._socket.bind(endpoint)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="double", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(WAIT_S)
        self._socket.close(0)
        self._context.term()

    def expect(self, kind: Kind) -> Any:
        """The next received message of this kind."""
        deadline_s = time.monotonic() + WAIT_S
        while True:
            got, message = self.received.get(timeout=max(0.0, deadline_s - time.monotonic()))
            if got == kind:
                return message

    def _run(self) -> None:
        while not self._stop.is_set():
            wait_ms = 20 if not self._later else max(0, min(20, (self._later[0][0] - time.monotonic()) * 1e3))
            if self._socket.poll(wait_ms):
                identity, *frames = self._socket.recv_multipart()
                try:
                    message = decode(frames)
                except errors.HuteroxError as error:
                    self._answer(identity, Kind.ERROR, 0, error_meta(error))
                else:
                    self._take(identity, message)
            while self._later and self._later[0][0] <= time.monotonic():
                self._send(heapq.heappop(self._later)[2])
            while self._held and self.go.is_set():
                self._send(self._held.pop(0))

    def _take(self, identity: bytes, message: Message) -> None:
        kind, request_id = message.header.kind, message.header.request_id
        self.received.put((kind, message))
        if kind is Kind.CANCEL:
            self.under_way.discard((identity, request_id))
        if self.mute or kind is Kind.CANCEL:
            return
        self.under_way.add((identity, request_id))
        try:
            if kind is Kind.OPEN:
                opened = decode_open(message.meta)
                self._answer(identity, Kind.REPLY, request_id, encode_meta(self._open(opened.service, opened.tenant)))
            elif kind is Kind.LEASE:
                self.leases += 1
                leased = encode_meta(self.lease(decode_lease(message.meta)))
                self._answer(identity, Kind.REPLY, request_id, leased)
            elif kind is Kind.ADMIN:
                admin = decode_admin(message.meta)
                result = AdminReplyMeta(self._admin(identity, admin.verb, admin.args))
                self._answer(identity, Kind.REPLY, request_id, encode_meta(result))
            else:
                self._call(identity, message)
        except errors.HuteroxError as error:
            self._answer(identity, Kind.ERROR, request_id, error_meta(error))

    def _admin(self, identity: bytes, verb: str, args: dict[str, Any]) -> Any:
        if verb == "pending":
            return {"request_ids": [number for peer, number in self.under_way if peer == identity]}
        if verb not in self.results:
            raise errors.InvalidInput(f"unknown verb {verb}")
        return self.results[verb](args)

    def _send(self, frames: list[Any]) -> None:
        with suppress(errors.HuteroxError):
            header = unpack_header(frames[1])
            if header.kind in (Kind.REPLY, Kind.ERROR):
                self.under_way.discard((frames[0], header.request_id))
        self._socket.send_multipart(frames)

    def _open(self, service: str, tenant: str) -> OpenedMeta:
        if service not in self.handles:
            raise errors.NotFound(f"no service {service!r}")
        return OpenedMeta(self.handles[service], service, tenant or "default", "model", "shared")

    def _call(self, identity: bytes, message: Message) -> None:
        if message.header.handle not in self.handles.values():
            raise errors.NotFound(f"no service with handle {message.header.handle}")
        meta = decode_call(message.meta)
        tensors = slice_tensors(message, [spec.nbytes for spec in meta.tensors])
        values = join_values(dict(meta.params), meta.tensors, tensors)
        getattr(self, f"_do_{meta.method}")(identity, message.header.request_id, values)

    def _answer(self, identity: bytes, kind: Kind, request_id: int, meta: bytes, tensors: Any = ()) -> None:
        self._send([identity, *encode(kind, request_id, 0, 0, meta, tensors)])

    def _frames(self, identity: bytes, kind: Kind, request_id: int, values: dict[str, Any]) -> list[Any]:
        params, specs, buffers = split_values(values)
        return [identity, *encode(kind, request_id, 0, 0, encode_meta(ReplyMeta(params, specs)), buffers)]

    def _do_predict(self, identity: bytes, request_id: int, values: dict[str, Any]) -> None:
        self._send(self._frames(identity, Kind.REPLY, request_id, values))

    _do_slow = _do_note = _do_predict

    def _do_later(self, identity: bytes, request_id: int, values: dict[str, Any]) -> None:
        """The same after `seconds`."""
        self._count += 1
        due = time.monotonic() + values["seconds"]
        heapq.heappush(self._later, (due, self._count, self._frames(identity, Kind.REPLY, request_id, values)))

    def _do_held(self, identity: bytes, request_id: int, values: dict[str, Any]) -> None:
        """The same once `go` is set."""
        self._held.append(self._frames(identity, Kind.REPLY, request_id, values))

    def _do_gather(self, identity: bytes, request_id: int, values: dict[str, Any]) -> None:
        """Nothing until `count` calls have come, then all answers, the last first."""
        self._gathered.append(self._frames(identity, Kind.REPLY, request_id, values))
        if len(self._gathered) == values["count"]:
            while self._gathered:
                self._send(self._gathered.pop())

    def _do_fail(self, identity: bytes, request_id: int, values: dict[str, Any]) -> None:
        raise errors.ModelError("ValueError: no such luck", traceback="Traceback ...\nValueError: no such luck\n")

    def _do_refuse(self, identity: bytes, request_id: int, values: dict[str, Any]) -> None:
        raise errors.Busy("full", retry_after_s=0.5)

    def _do_silent(self, identity: bytes, request_id: int, values: dict[str, Any]) -> None:
        pass

    def _do_parts(self, identity: bytes, request_id: int, values: dict[str, Any]) -> None:
        """`count` parts, then the end: well, with a value of its own, or with an error."""
        for index in range(values["count"]):
            self._send(self._frames(identity, Kind.PART, request_id, {"index": index, **values.get("each", {})}))
        if values.get("fail"):
            raise errors.ModelError("ValueError: in the middle")
        self._send(self._frames(identity, Kind.REPLY, request_id, values.get("last", {})))

    def _do_large_parts(self, identity: bytes, request_id: int, values: dict[str, Any]) -> None:
        """`count` parts of `n` numbers each."""
        for index in range(values["count"]):
            part = {"x": np.full(values["n"], index)}
            self._send(self._frames(identity, Kind.PART, request_id, part))
        self._send(self._frames(identity, Kind.REPLY, request_id, {}))

    def _do_hang(self, identity: bytes, request_id: int, values: dict[str, Any]) -> None:
        """One part, and no end."""
        self._send(self._frames(identity, Kind.PART, request_id, {"index": 0}))

    def _do_garbage(self, identity: bytes, request_id: int, values: dict[str, Any]) -> None:
        """Noise of every kind, then the answer."""
        reply = self._frames(identity, Kind.REPLY, request_id, values)
        for noise in ([b""], [b"x" * 39], [b"\xff" * 64], [b"", b"", b""], [reply[1][:8] + b"\xee" * 32]):
            self._send([identity, *noise])
        self._send(self._frames(identity, Kind.REPLY, request_id + 10**6, values))
        self._send(self._frames(identity, Kind.PART, request_id, values))
        self._send(reply)

    def _do_malformed(self, identity: bytes, request_id: int, values: dict[str, Any]) -> None:
        kind = Kind.ERROR if values.get("error") else Kind.REPLY
        self._answer(identity, kind, request_id, b"\xc1 no msgpack")


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Run a coroutine to its end, bounded."""
    uvloop = pytest.importorskip("uvloop") if request.param == "uvloop" else None

    def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop if uvloop else None) as runner:
            return runner.run(asyncio.wait_for(coroutine, 30))

    return run


@pytest.fixture
def double(tmp_path: Any) -> Iterator[Double]:
    double = Double(f"ipc://{tmp_path}/d.ipc")
    yield double
    double.close()


@pytest.fixture
def said(
    double: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Run the command against the double; exit status, stdout, stderr."""
    monkeypatch.setenv("HUTEROX_ENDPOINT", double.endpoint)

    def run(*argv: str) -> tuple[int, str, str]:
        try:
            status = main.main(argv)
        except SystemExit as exit:
            status = int(exit.code or 0)
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.fixture
def make_double() -> type[Double]:
    return Double


@pytest.fixture
def client(double: Double) -> Iterator[huterox.Client]:
    with huterox.connect(double.endpoint, timeout=WAIT_S) as client:
        yield client


@pytest.fixture
def service(client: huterox.Client) -> huterox.Service:
    return client.service("echo")


@pytest.fixture
def kernel(tmp_path: Any) -> Iterator[KernelDouble]:
    kernel = KernelDouble(tmp_path)
    yield kernel
    kernel.close()


@pytest.fixture
def containers(double: Double, kernel: KernelDouble) -> Iterator[list[ContainerDouble]]:
    """Every lease is granted, by a fresh container; those that have been made."""
    made: list[ContainerDouble] = []
    kernel.answer = lambda peer: ContainerDouble(half_nbytes=4 * MIB, peer=peer, made=made)
    double.lease = grants(kernel)
    yield made
    for container in made:
        container.close()


@pytest.fixture
def lane_double(monkeypatch: pytest.MonkeyPatch) -> type[LaneDouble]:
    """Every lane is a double."""
    module = types.ModuleType("huterox.lane")
    module.LaneConnection = LaneDouble  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huterox.lane", module)
    monkeypatch.setattr(LaneDouble, "made", [])
    return LaneDouble


@pytest.fixture
def async_lane_double(monkeypatch: pytest.MonkeyPatch) -> type[AsyncLaneDouble]:
    """Every lane of an asyncio client is a double."""
    module = types.ModuleType("huterox.async_lane")
    module.AsyncLane = AsyncLaneDouble  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huterox.async_lane", module)
    monkeypatch.setattr(LaneDouble, "made", [])
    return AsyncLaneDouble


@pytest.fixture
def open_lane() -> Iterator[Callable[..., tuple[LaneConnection, ContainerDouble]]]:
    """Real lanes, each with a container behind it."""
    opened: list[Any] = []

    def open_lane(limits: Limits | None = None, **options: Any) -> tuple[LaneConnection, ContainerDouble]:
        container = ContainerDouble(**options)
        lane = LaneConnection(container.end, container.liveness, limits or Limits(), lambda lane: None)
        opened.append((lane, container))
        return lane, container

    yield open_lane
    for lane, container in opened:
        container.model.go.set()
        lane.close()
        container.close()


@pytest.fixture
def lane(open_lane: Callable[..., tuple[LaneConnection, ContainerDouble]]) -> LaneConnection:
    return open_lane()[0]
