"""Doubles for lanes: a kernel's socket that hands them over, and a lane that does what a test tells it."""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from huterox.futures import Stream
from huterox.lease import LaneGone
from huterox_shm.handover import send_descriptors
from huterox_shm.lane import LaneConfig, LaneDescriptors, create_lane
from huterox_wire.errors import HuteroxError, Unavailable
from huterox_wire.leases import LaneGranted, LeasedMeta, LeaseMeta, decode_hello, encode_granted, encode_refused
from huterox_wire.payload import split_values

WAIT_S = 10.0
TOKEN = b"t" * 32
SMALL = LaneConfig(ring_entries=128, request_half_nbytes=1 << 22, reply_half_nbytes=1 << 22)


class KernelDouble:
    """Hands a fresh lane to whoever says hello, or does instead what `answer` does.

    `lanes` and `peers` are the lanes that it made and the connections that it holds, in order.
    """

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "lanes.sock")
        self.answer: Callable[[socket.socket], None] = self.grant
        self.hellos = 0
        self.lanes: list[LaneDescriptors] = []
        self.peers: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(self.path)
        self._listener.listen(8)
        self._thread = threading.Thread(target=self._run, name="kernel-double", daemon=True)
        self._thread.start()

    def leased(self) -> LeasedMeta:
        return LeasedMeta(self.path, TOKEN, 7)

    def grant(self, peer: socket.socket) -> None:
        generation = len(self.lanes) + 1
        lane = create_lane(SMALL, generation)
        self.lanes.append(lane)
        send_descriptors(peer, encode_granted(LaneGranted(7, generation)), lane)

    def refuse_with(self, error: HuteroxError) -> None:
        self.answer = lambda peer: peer.send(encode_refused(error))

    def die(self) -> None:
        """What callers see of a kernel's death: the end of their connections."""
        for peer in self.peers:
            peer.close()
        self.peers.clear()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(WAIT_S)
        self._listener.close()
        self.die()
        for lane in self.lanes:
            lane.close()

    def _run(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            peer.settimeout(WAIT_S)
            assert decode_hello(peer.recv(4096)).token == TOKEN
            self.hellos += 1
            self.peers.append(peer)
            self.answer(peer)


class LaneDouble:
    """A lane's face towards `Service`. It counts what it is asked, and answers `{"by": "lane"}`."""

    made: ClassVar[list["LaneDouble"]] = []

    def __init__(self, end: Any, liveness: socket.socket, limits: Any, on_end: Callable[[Any], None]) -> None:
        self.end, self.liveness, self.limits = end, liveness, limits
        self._on_end = on_end
        self.open = True
        self.closed = False
        self.asked: list[tuple[str, str, dict[str, Any], float]] = []
        self.gone: LaneGone | None = None  # raised by the next call
        self.submitted: list[Future[dict[str, Any]]] = []
        LaneDouble.made.append(self)

    def _take(self, what: str, method: str, inputs: dict[str, Any], timeout_s: float) -> None:
        self.asked.append((what, method, inputs, timeout_s))
        gone, self.gone = self.gone, None
        if gone is not None:
            raise gone
        if not self.open:
            raise LaneGone()

    def call(self, method: str, inputs: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        self._take("call", method, inputs, timeout_s)
        return {"by": "lane"}

    def submit(self, method: str, inputs: dict[str, Any], timeout_s: float, way: Any) -> Future[dict[str, Any]]:
        self._take("submit", method, inputs, timeout_s)
        future: Future[dict[str, Any]] = Future()
        future.set_result({"by": "lane"})
        return future

    def stream(self, method: str, inputs: dict[str, Any], timeout_s: float, way: Any) -> Stream:
        self._take("stream", method, inputs, timeout_s)
        return PartsDouble()

    def empty(self, shape: Any, dtype: Any) -> Any:
        self._take("empty", "", {}, 0.0)
        return np.full(shape, 7, dtype)

    def drain(self) -> None:
        """The container is about to leave: no new calls."""
        self.open = False

    def end_now(self) -> None:
        """The lane notices by itself that it is over, as at its container's end."""
        self.open = False
        self._on_end(self)

    def leave(self) -> None:
        self.end_now()

    def hang_up(self) -> None:
        self.end_now()

    def close(self) -> None:
        self.open = False
        self.closed = True
        self.end.close()
        self.liveness.close()

    def forget(self) -> None:
        self.end.close()
        self.liveness.close()


class PartsDouble(Stream):
    def __init__(self) -> None:
        self._left = 2

    def __next__(self) -> dict[str, Any]:
        if not self._left:
            raise StopIteration
        self._left -= 1
        return {"by": "lane"}

    def close(self) -> None:
        self._left = 0


class AsyncLaneDouble(LaneDouble):
    """The same towards `AsyncService`."""

    def __init__(
        self, end: Any, liveness: socket.socket, limits: Any, on_end: Callable[[Any], None], loop: Any
    ) -> None:
        super().__init__(end, liveness, limits, on_end)
        self._loop = loop
        loop.add_reader(liveness.fileno(), self.hang_up)

    async def call(  # type: ignore[override]
        self, method: str, inputs: dict[str, Any], timeout_s: float
    ) -> dict[str, Any]:
        return super().call(method, inputs, timeout_s)

    def submit(  # type: ignore[override]
        self, method: str, inputs: dict[str, Any], timeout_s: float, way: Any
    ) -> asyncio.Task[dict[str, Any]]:
        self._take("submit", method, inputs, timeout_s)
        return asyncio.ensure_future(asyncio.sleep(0, {"by": "lane"}))

    def stream(  # type: ignore[override]
        self, method: str, inputs: dict[str, Any], timeout_s: float, way: Any
    ) -> AsyncGenerator[dict[str, Any], None]:
        self._take("stream", method, inputs, timeout_s)
        return self._parts()

    async def _parts(self) -> AsyncGenerator[dict[str, Any], None]:
        for _ in range(2):
            yield {"by": "lane"}

    def hang_up(self) -> None:
        self._loop.remove_reader(self.liveness.fileno())
        super().hang_up()

    def close(self) -> None:
        if not self.closed:
            self._loop.remove_reader(self.liveness.fileno())
        super().close()


def grants(kernel: KernelDouble) -> Callable[[LeaseMeta], LeasedMeta]:
    """A switchboard double's answer to LEASE."""
    return lambda lease: kernel.leased()


def refuses(reason: str, *, retryable: bool = True) -> Callable[[LeaseMeta], LeasedMeta]:
    def refuse(lease: LeaseMeta) -> LeasedMeta:
        raise Unavailable(f"no lane: {reason}", retryable=retryable, reason=reason)

    return refuse


def calls_under_way(lane: Any) -> int:
    """How many calls are in a real lane, without the forms that were told with them."""
    return sum(call is not None for call, *_ in list(lane._end.calls.values()))


def descriptor_count() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def eventually(condition: Callable[[], object]) -> None:
    """Wait until it is true, bounded."""
    end_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.005)


def packed(inputs: dict[str, Any]) -> tuple[bytes, Any]:
    """Meta and buffers, as a lane gives them back for a call that it has not done."""
    from huterox_wire.meta import CallMeta, encode_meta

    params, specs, buffers = split_values(inputs)
    return encode_meta(CallMeta("predict", params, specs)), buffers
