"""Fetching a lane that the switchboard has promised: from the kernel's socket, with a one-time token."""

import os
import socket
import time
import weakref
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple, Self

from huterox_shm.descriptors import FIRST, out_of_the_way
from huterox_shm.errors import HandoverError, ShmError
from huterox_shm.handover import receive_descriptors
from huterox_shm.lane import CallerEnd
from huterox_wire.errors import Fault, Unavailable
from huterox_wire.leases import GRANT_NBYTES_MAX, LeasedMeta, decode_granted_or_refused, encode_hello

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_DESCRIPTORS: Final = 3  # the memory, the request doorbell, the reply doorbell
_RETRY_S: Final = 0.01

_SOCKETS: "weakref.WeakSet[socket.socket]" = weakref.WeakSet()


def _close_in_child() -> None:
    """A forked child must not hold these: its parent's death would go unnoticed for as long as the child lives."""
    for liveness in list(_SOCKETS):
        liveness.close()


os.register_at_fork(after_in_child=_close_in_child)


class Fetched(NamedTuple):
    """A lane's caller end, and the connection whose end tells that the kernel has gone. Owns both."""

    end: CallerEnd
    liveness: socket.socket

    def close(self) -> None:
        """Let go of both. May be called twice."""
        self.end.close()
        self.liveness.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@cache
def host_id() -> str:
    """What tells this machine, since it was started, from all others.

    Raises:
        Unavailable: nothing does; as good as another host.
    """
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise Unavailable(f"no boot id at {_BOOT_ID}: {exc}", retryable=False, reason="other_host") from exc


def fetch_lane(leased: LeasedMeta, timeout_s: float) -> Fetched:
    """Connect to the kernel, show the token, and attach what it hands over. Waits for `timeout_s` at most.

    Raises:
        HuteroxError: the kernel's refusal; Unavailable where it cannot be reached or hands over something else.
    """
    until_s = time.monotonic() + timeout_s
    with ExitStack() as undo:
        liveness = undo.enter_context(_socket())
        _SOCKETS.add(liveness)
        try:
            _connect(liveness, leased.path, until_s)
            liveness.settimeout(max(until_s - time.monotonic(), _RETRY_S))
            liveness.send(encode_hello(leased.token))
            packet, fds = receive_descriptors(liveness, GRANT_NBYTES_MAX, _DESCRIPTORS)
            liveness.setblocking(False)
            for fd in fds:
                undo.callback(os.close, fd)
            if not packet:
                raise HandoverError("it hung up")
        except (OSError, HandoverError) as exc:
            raise Unavailable(f"no lane from the kernel at {leased.path}: {exc}", path=leased.path) from exc
        granted = decode_granted_or_refused(packet)
        if len(fds) != _DESCRIPTORS:
            raise Fault(f"a lane with {len(fds)} descriptors instead of {_DESCRIPTORS}")
        undo.pop_all()
    return _attached(fds, liveness, granted.generation)


def _socket() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return sock if sock.fileno() >= FIRST else socket.socket(fileno=out_of_the_way(sock.detach()))


def _connect(sock: socket.socket, path: str, until_s: float) -> None:
    """A unix socket whose backlog is full says so at once instead of waiting: try until the time is over."""
    while True:
        sock.settimeout(max(until_s - time.monotonic(), _RETRY_S))
        try:
            return sock.connect(path)
        except BlockingIOError:
            if time.monotonic() >= until_s:
                raise
            time.sleep(_RETRY_S)


def _attached(fds: list[int], liveness: socket.socket, generation: int) -> Fetched:
    """Takes over everything; closes it where it fails."""
    memory, request_doorbell, reply_doorbell = fds
    try:
        end = CallerEnd.attach((memory, request_doorbell, reply_doorbell))
        if end.generation != generation:
            end.close()
            raise HandoverError(f"a lane of generation {end.generation}, and {generation} was granted")
    except (ShmError, OSError) as exc:
        liveness.close()
        raise Unavailable(f"what the kernel handed over is no lane: {exc}") from exc
    return Fetched(end, liveness)
