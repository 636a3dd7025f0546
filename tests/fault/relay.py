"""A network between two processes that can be made to rest: nothing is closed, and nothing arrives."""

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_LOOK_S = 0.02


class Relay:
    """Listens on loopback and passes every byte on to a port there. Owns a thread and its sockets until `close`."""

    def __init__(self, target_port: int) -> None:
        self._target = ("127.0.0.1", target_port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._ends: dict[socket.socket, socket.socket] = {}
        self._flows = threading.Event()
        self._flows.set()
        self._over = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def rest(self) -> None:
        self._flows.clear()

    def flow(self) -> None:
        self._flows.set()

    def close(self) -> None:
        self._over = True
        self._flows.set()
        self._thread.join(timeout=5)
        for end in [self._listener, *self._ends]:
            end.close()

    def _run(self) -> None:
        while not self._over:
            if not self._flows.wait(_LOOK_S):
                continue
            ready, _, _ = select.select([self._listener, *self._ends], [], [], _LOOK_S)
            for end in ready:
                if not self._flows.is_set():
                    break
                self._accept() if end is self._listener else self._pass_on(end)

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        try:
            far = socket.create_connection(self._target, timeout=1.0)
        except OSError:
            near.close()
            return
        self._ends[near], self._ends[far] = far, near

    def _pass_on(self, end: socket.socket) -> None:
        other = self._ends.get(end)
        if other is None:  # its peer was closed in this round
            return
        data = b""
        with suppress(OSError):
            data = end.recv(1 << 18)
        try:
            other.sendall(data)
        except OSError:
            data = b""
        if not data:
            for each in (end, other):
                self._ends.pop(each, None)
                each.close()


@contextmanager
def relay(target_port: int) -> Iterator[Relay]:
    made = Relay(target_port)
    try:
        yield made
    finally:
        made.close()


def free_port() -> int:
    """A port of loopback that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
