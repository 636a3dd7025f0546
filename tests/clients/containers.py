"""A container in a thread of the test's process: the worker's own code over a real lane, and it dies on demand."""

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from huterox_kernel.worker.calls import Calls
from huterox_kernel.worker.inputs import Expected
from huterox_kernel.worker.runtimes.python import PythonModel
from huterox_shm.errors import LaneDead, PeerProtocolError
from huterox_shm.handover import send_descriptors
from huterox_shm.lane import CallerEnd, ContainerEnd, LaneConfig, LaneWatch, create_lane
from huterox_wire.leases import LaneGranted, encode_granted

WAIT_S = 10.0
MIB = 1 << 20


class Model:
    """Echoes, and a few things more."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.held = threading.Event()
        self.kept: list[Any] = []
        self.seen: list[Any] = []

    def predict(self, **values: Any) -> dict[str, Any]:
        return {name: np.copy(value) if isinstance(value, np.ndarray) else value for name, value in values.items()}

    def describe(self, **values: Any) -> dict[str, Any]:
        """What the inputs are, in plain values."""
        found = {}
        for name, value in values.items():
            array = np.asarray(value)
            found[name] = f"{array.dtype} {list(array.shape)}" if hasattr(value, "shape") else type(value).__name__
        return found

    def note(self, key: Any) -> dict[str, Any]:
        self.seen.append(key)
        return {"key": key}

    def array(self, n: int) -> dict[str, Any]:
        return {"x": np.arange(n, dtype=np.int64)}

    def keep(self, x: np.ndarray[Any, Any]) -> dict[str, Any]:
        self.kept.append(x)
        return {"count": len(self.kept)}

    def fail(self, **values: Any) -> dict[str, Any]:
        raise ValueError("no such luck")

    def hold(self, key: Any = None) -> dict[str, Any]:
        """Stays in the call until `go`."""
        self.held.set()
        self.go.wait(WAIT_S)
        return {"key": key}

    def slow(self, seconds: float, **values: Any) -> dict[str, Any]:
        time.sleep(seconds)
        return values

    def parts(self, count: int, fail: bool = False) -> Iterator[dict[str, Any]]:
        for index in range(count):
            yield {"index": index}
        if fail:
            raise ValueError("in the middle")

    def endless(self) -> Iterator[dict[str, Any]]:
        try:
            while True:
                self.held.set()
                yield {"x": np.zeros(4)}
                time.sleep(0.001)
        finally:
            self.seen.append("stopped")

    def large_parts(self, count: int, n: int) -> Iterator[dict[str, Any]]:
        for index in range(count):
            yield {"x": np.full(n, index)}


class ContainerDouble:
    """A lane, the container behind it, and the kernel that watches both.

    `end` and `liveness` are for the caller.
    """

    def __init__(
        self,
        half_nbytes: int = 16 * MIB,
        ring_entries: int = 128,
        *,
        paused: bool = False,
        peer: socket.socket | None = None,
        made: list["ContainerDouble"] | None = None,
    ) -> None:
        """`peer`: a connection on which the caller's end is handed over. `made`: where to enter it before that."""
        descriptors = create_lane(LaneConfig(ring_entries, half_nbytes, half_nbytes), generation=1)
        self.watch = LaneWatch.attach(descriptors.duplicate())
        for_caller = descriptors.duplicate()
        self.lane = ContainerEnd.attach(descriptors)
        self.model = Model()
        self.calls = Calls(self.lane, PythonModel(self.model), Expected({}))
        self.error: Exception | None = None
        self.running = threading.Event()
        if not paused:
            self.running.set()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="container-double", daemon=True)
        self._thread.start()
        if peer is None:
            self.end = CallerEnd.attach(for_caller)
            self.liveness, self._peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            return
        self._peer = peer
        if made is not None:
            made.append(self)
        send_descriptors(peer, encode_granted(LaneGranted(7, 1)), for_caller)
        for_caller.close()

    def _run(self) -> None:
        try:
            while not self._stopped:
                if not self.running.wait(0.01):
                    continue
                self.lane.wait(0.005)
                if self.calls.look():
                    while self.calls.step(16) and not self._stopped:
                        pass
                self.calls.flush()
        except (LaneDead, PeerProtocolError) as exc:
            self.error = exc

    def drain(self) -> None:
        """No new calls; those that are there are done."""
        self.watch.drain()

    def die(self) -> None:
        """The process has ended: the kernel marks the lane dead, and closes its connection with the caller."""
        self._stopped = True
        self.watch.mark_dead()
        self._peer.close()

    def lose_kernel(self) -> None:
        """The kernel has ended, and can mark nothing."""
        self._stopped = True
        self._peer.close()

    def close(self) -> None:
        self._stopped = True
        self.model.go.set()
        self.running.set()
        self._thread.join(WAIT_S)
        self.watch.close()
        self.lane.close()
        self._peer.close()
        if hasattr(self, "end"):
            self.end.close()
            self.liveness.close()


class NoWay:
    """No call is expected to be given back."""

    def submit_again(self, *_: Any) -> Any:
        raise AssertionError("a call was given back")

    stream_again = submit_again


NO_WAY = NoWay()


def call(lane: Any, method: str = "predict", /, timeout_s: float = WAIT_S, **inputs: Any) -> Any:
    return lane.call(method, inputs, timeout_s)
